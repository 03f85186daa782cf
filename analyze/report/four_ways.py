"""Level-specific, random-level, fused, coarse to fine: what each needs, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analyze.curves.approach_figures import ApproachFigures
from analyze.fused.fused_study import FusedFinding
from analyze.measure.approach_cost import ApproachCost
from analyze.report.finding_tables import cost_table, matrix_table, plain_table
from analyze.report.findings import Findings
from analyze.report.input_rates import pixel_ratio
from analyze.report.page import Block, Lines, PageSection, Paragraph, TableBlock
from analyze.report.tables import Table, Value, shown

_Read = Callable[[ApproachFigures, ApproachCost | None], Value]
_Row = tuple[str, str, str, _Read, float]
"""Title, name in the file, format, where the value is from, and what people read it in units of."""


def ways_section(findings: Findings) -> PageSection | None:
    """Return the comparison of the four ways; None where nothing makes a whole pyramid."""
    if not findings.approaches:
        return None
    first = findings.approaches[0]
    texts = [
        "One model for each level; one for all levels, coded one by one; one for all levels in one "
        "latent; one for each level, which sees the decoded coarser one."
    ]
    if first.equal_map is not None:
        texts.append(
            f"Bits are at mAP {first.equal_map:.4f}, the highest that all of these reach: "
            "log2(bits) interpolated over mAP between whole pyramids, nothing extrapolated."
        )
    texts.append(
        "MB decoded: what training reads of decoded coarser levels. The encoder's MACs hold what "
        "it makes of a level that a finer one sees. Hours of training are as the runs noted them."
    )
    lines = [line for each in findings.approaches for line in _notes(each)]
    return PageSection(
        title="Four ways to code a pyramid",
        blocks=(
            Paragraph(text=" ".join(texts)),
            TableBlock(name="four_ways", table=ways_table(findings)),
            Lines(lines=tuple(lines)),
        ),
    )


def _notes(found: ApproachFigures) -> list[str]:
    """Say which combination the figures are of, or what to train to have some."""
    if found.combination is None and found.best_map is None:
        return [f"{found.approach}: no run makes a whole pyramid: {found.train}"]
    notes = []
    if found.combination is not None:
        name = found.combination.over_seeds or found.combination.name
        notes.append(f"{found.approach}: what it takes is of: {name}")
    if (
        found.map is not None
        and found.equal_map is not None
        and not found.is_interpolated
        and found.map > found.equal_map
    ):
        notes.append(f"{found.approach}: has no less than mAP {found.map:.4f}, its bits are of it")
    if found.loss is None and found.lmbda is not None:
        notes.append(
            f"{found.approach}: no loss at lambda {found.lmbda:.3g}: "
            f"{found.train} --lambda {found.lmbda:g}"
        )
    return notes


def ways_table(findings: Findings) -> Table:
    """Return a line per figure, a column per way."""
    ways = findings.approaches
    rows = _rows(ways[0], pixel_ratio(findings.result))
    values = [
        (name, *(read(way, findings.approach_costs.get(way.approach)) for way in ways))
        for _, name, _, read, _ in rows
    ]
    cells = [
        (title, *(shown(_in(value, unit), template) for value in line[1:]))
        for (title, _, template, _, unit), line in zip(rows, values, strict=True)
    ]
    return Table(
        titles=("", *(way.approach for way in ways)),
        cells=tuple(cells),
        names=("figure", *(way.approach.replace(" ", "_").replace("-", "_") for way in ways)),
        values=tuple(values),
    )


def _rows(first: ApproachFigures, ratio: float | None) -> Sequence[_Row]:
    at_map = "" if first.equal_map is None else f" at mAP {first.equal_map:.4f}"
    at_lambda = "" if first.lmbda is None else f" at lambda {first.lmbda:.3g}"

    def input_rate(way: ApproachFigures, _: ApproachCost | None) -> Value:
        if way.bits_per_pixel is None or ratio is None:
            return None
        return way.bits_per_pixel * ratio

    figures: list[_Row] = [
        (f"bits/px{at_map}", "bits_per_pixel", "{:.4g}", lambda way, _: way.bits_per_pixel, 1),
        (f"bits/in px{at_map}", "bits_per_input_pixel", "{:.4g}", input_rate, 1),
        ("best mAP", "best_map", "{:.4f}", lambda way, _: way.best_map, 1),
        (f"loss{at_lambda}", "loss", "{:.4g}", lambda way, _: way.loss, 1),
        (f"MSE{at_lambda}", "mse", "{:.4g}", lambda way, _: way.mse, 1),
        (f"real BPP{at_lambda}", "real_bpp", "{:.4g}", lambda way, _: way.bpp, 1),
    ]
    costs = {
        "models": ("models", "{}", 1),
        "parameters": ("parameters", "{:,}", 1),
        "weight_bytes": ("MB of weights", "{:.1f}", 1e6),
        "decoded_bytes": ("MB decoded", "{:.1f}", 1e6),
        "encoder_macs_per_image": ("enc GMAC/image", "{:.3g}", 1e9),
        "decoder_macs_per_image": ("dec GMAC/image", "{:.3g}", 1e9),
        "training_seconds": ("hours of training", "{:.2f}", 3600),
    }
    return figures + [
        (title, name, template, _of_cost(name), unit)
        for name, (title, template, unit) in costs.items()
    ]


def _in(value: Value, unit: float) -> Value:
    return value / unit if isinstance(value, int | float) and unit != 1 else value


def _of_cost(name: str) -> _Read:
    return lambda _, cost: None if cost is None else getattr(cost, name)


def fused_section(findings: Findings) -> PageSection | None:
    """Return each run of all levels in one, with the error of each level; None without any."""
    if not findings.fused:
        return None
    return PageSection(
        title="All levels in one",
        blocks=(
            Paragraph(
                text="Each run of train-level --level fused. Bits are of whole files, MSE of each "
                "level from them, times of all levels together."
            ),
            TableBlock(name="fused", table=fused_table(findings.fused)),
        ),
    )


def fused_table(findings: Sequence[FusedFinding]) -> Table:
    """Return a line per run of all levels in one: bits, errors level by level, what it takes."""
    levels = sorted({level for each in findings for level in each.levels})
    lines: list[tuple[Value, ...]] = [
        (
            each.title, each.lmbda, each.seed, each.combination.bits_per_pixel,
            each.combination.accuracy.map if each.combination.accuracy else None,
            *(each.levels[level].mse if level in each.levels else None for level in levels),
            each.cost.parameters, each.cost.encoder_macs_per_image / 1e9,
            each.cost.decoder_macs_per_image / 1e9, *_times(each),
            None if each.cost.training_seconds is None else each.cost.training_seconds / 3600,
            each.run,
        )
        for each in findings
    ]  # fmt: skip
    return plain_table(
        (
            "by", "lambda", "seed", "bits/px", "mAP", *(f"MSE {level}" for level in levels),
            "parameters", "enc GMAC/image", "dec GMAC/image", "enc ms", "dec ms",
            "hours of training", "run",
        ),
        (
            "by", "lambda", "seed", "bits_per_pixel", "map",
            *(f"mse_level_{level}" for level in levels), "parameters", "encoder_gmac_per_image",
            "decoder_gmac_per_image", "encode_ms", "decode_ms", "training_hours", "run",
        ),
        (
            "{}", "{:.3g}", "{}", "{:.4g}", "{:.4f}", *("{:.4g}" for _ in levels), "{:,}",
            "{:.3g}", "{:.3g}", "{:.1f}", "{:.1f}", "{:.2f}", "{}",
        ),
        lines,
    )  # fmt: skip


def _times(finding: FusedFinding) -> tuple[float, float]:
    of_all = next(iter(finding.levels.values()))
    return of_all.encode_ms, of_all.decode_ms


def matrix_section(findings: Findings) -> PageSection | None:
    """Return each model on each level; None unless it was asked for."""
    matrix = findings.matrix
    if matrix is None:
        return None
    blocks: list[Block] = [
        Paragraph(
            text="Loss (MSE + lambda * estimated BPP) of each model on each level; on a level that "
            "it was not trained for, a model gets that level's standardisation."
        ),
        TableBlock(name="matrix", table=matrix_table(matrix)),
        TableBlock(name="model_costs", table=cost_table(matrix)),
    ]
    if matrix.notes:
        blocks.append(Lines(lines=matrix.notes))
    return PageSection(title="Specific against random", blocks=tuple(blocks))
