"""The sections of the report: what is shown, in which order, in which words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analyze.curves.seed_spread import spread_over_seeds
from analyze.facts.results import measured
from analyze.plots.curve_plots import level_curves_plot, map_plot
from analyze.plots.figures import Plot, make_plots
from analyze.report.chosen_allocation import allocation_section, sentence
from analyze.report.classes import class_section
from analyze.report.finding_tables import (
    anchor_table,
    bd_table,
    seed_table,
    sensitivity_table,
    trained_table,
    worst_table,
)
from analyze.report.findings import (
    Findings,
    chosen_name,
    chosen_point,
    how_chosen,
    level_series,
    map_series,
)
from analyze.report.four_ways import fused_section, matrix_section, ways_section
from analyze.report.input_rates import pixel_ratio, section_with_input_rates
from analyze.report.page import (
    Block,
    Code,
    Figures,
    Lines,
    Page,
    PageSection,
    Paragraph,
    TableBlock,
    Terms,
)
from analyze.report.rivals import equal_map_table
from analyze.report.tables import detection_table, level_table

_DEFINITIONS = (
    ("share", "the level's share of all feature values of the split"),
    ("MSE", "in the features' own units, decoded from the real bitstreams"),
    ("PSNR", "10 log10(range² / MSE), range = largest minus smallest value of the level in the "
             "split's cache"),
    ("est BPP", "bits per feature position from the likelihoods: total bits / total positions"),
    ("real BPP", "bits per feature position from actual bitstreams: all of a level's bytes in the "
                 "files that compress-features writes"),
    ("gap", "by how much real BPP exceeds est BPP: heads, which weigh on coarse levels, and what "
            "the coder itself loses"),
    ("bits/px", "bits of the actual bitstreams per pixel of the original images; for all levels "
                "together with the header that they share"),
    ("bits/in px", "the same bits per pixel of the detector's input: the images as it resizes "
                   "them, before padding"),
    ("enc ms, dec ms", "mean per image, map in memory to bitstream and back, on one core of a CPU, "
                       "or on the GPU"),
    ("mAP", "COCO 0.50:0.95; in the table of levels with this level alone compressed and the "
            "others as cached"),
    ("95 %", "interval over images: 1000 bootstrap draws of the split's images; for the drop, "
             "both mAPs are taken on the same draws"),
    ("drop", "mAP of the original features minus this one"),
    ("derived", "computed by the decoder from another level, for no bits"),
    ("dropped", "every position is the cache's mean of its channel, for no bits"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOrigin:
    """How and when a report came about; `facts` are name -> value lines at its end."""

    created: str
    command: str
    facts: dict[str, str]
    config: str = ""
    """The whole configuration as YAML."""


def make_page(findings: Findings, provenance: ReportOrigin) -> Page:
    """Return the report; sections without content are left out."""
    result, allocation = findings.result, findings.allocation
    sections = [
        _missing(findings),
        _trained(findings),
        _first(findings),
        PageSection(
            title="Detection",
            blocks=(TableBlock(name="detection", table=detection_table(result)),),
        ),
        _seeds(findings),
        class_section(findings),
        allocation_section(findings),
        _curves(findings),
        _anchors(findings),
        ways_section(findings),
        fused_section(findings),
        matrix_section(findings),
        _sensitivity(findings),
        _suggestions(findings),
        _worst(findings),
        *_levels(findings),
        PageSection(title="Columns", blocks=(Terms(entries=_DEFINITIONS),), folded=True),
        _origin(findings, provenance),
    ]
    return Page(
        title=f"Feature compression by level: {result.dataset}, {result.split}",
        summary=(f"Next: {result.next_step}. " if result.next_step else "")
        + f"{result.num_images} images, features of {result.detector}."
        + (f" {sentence(how_chosen(allocation))}." if allocation else "")
        + (f" mAP is of {', '.join(result.only_classes)} alone." if result.only_classes else ""),
        sections=tuple(
            section_with_input_rates(section, pixel_ratio(result))
            for section in sections
            if section is not None and section.blocks
        ),
    )


def _missing(findings: Findings) -> PageSection | None:
    lines = findings.result.missing
    return (
        PageSection(title="Missing", blocks=(Lines(lines=lines, urgent=True),)) if lines else None
    )


def _trained(findings: Findings) -> PageSection | None:
    if not findings.trained:
        return None
    return PageSection(
        title="As trained",
        blocks=(TableBlock(name="trained", table=trained_table(findings.trained)),),
    )


def _first(findings: Findings) -> PageSection:
    result = findings.result
    original = result.original.map if result.original else None
    curves = [
        *(plot for plot in make_plots(result) if plot.name == "rate_distortion"),
        map_plot(
            map_series(findings),
            chosen=chosen_point(findings),
            chosen_name=chosen_name(findings),
            original=original,
        ),
    ]
    # Curves first: below a table of many runs they would not be on the first screen.
    blocks = _figures(curves)
    if (rivals := equal_map_table(findings)) is not None:
        blocks.append(TableBlock(name="equal_map", table=rivals))
    blocks.append(TableBlock(name="levels", table=level_table(result)))
    return PageSection(title="Levels", blocks=tuple(blocks))


def _seeds(findings: Findings) -> PageSection | None:
    spreads = spread_over_seeds(findings.result)
    if not spreads:
        return None
    return PageSection(
        title="Seeds",
        blocks=(
            Paragraph(
                text="Runs that differ in the seed only: mean, smallest and largest (min, max). "
                "Curves are of the means, their bars from smallest to largest. A combination is "
                "of one seed; ensemble.yaml, matrix and pictures are of the first."
            ),
            TableBlock(name="seeds", table=seed_table(spreads)),
        ),
    )


def _curves(findings: Findings) -> PageSection:
    plots = [
        level_curves_plot(level_series(findings)),
        *(plot for plot in make_plots(findings.result) if plot.name == "share"),
    ]
    return PageSection(title="Curves", blocks=tuple(_figures(plots)))


def _anchors(findings: Findings) -> PageSection | None:
    if not findings.anchors:
        return None
    return PageSection(
        title="Against anchors",
        blocks=(
            Paragraph(
                text="Codecs without training, fitted to the train cache, coded to real bytes; "
                "levels that can be derived are not sent. Image: the image is sent instead of its "
                "features, at its original size or as the detector resizes it, and the whole "
                "detector runs on it. BD-rate: bits that ours need more than "
                "the anchor at equal quality (negative: fewer); BD quality: what ours has more at "
                "equal bits (Bjøntegaard 2001, PCHIP)."
            ),
            TableBlock(name="bd", table=bd_table(findings.comparisons)),
            TableBlock(name="anchors", table=anchor_table(findings.anchors)),
        ),
    )


def _sensitivity(findings: Findings) -> PageSection | None:
    if findings.sensitivity is None:
        return None
    return PageSection(
        title="Sensitivity",
        blocks=(
            Paragraph(
                text="mAP with noise of a given squared error in one level alone. channel_weights"
                ".json beside this page holds the channels' weights: train with --set "
                "training.distortion=channel_weighted --set training.channel_weights=FILE."
            ),
            TableBlock(name="sensitivity", table=sensitivity_table(findings.sensitivity)),
        ),
    )


def _suggestions(findings: Findings) -> PageSection | None:
    if not findings.suggestions:
        return None
    return PageSection(
        title="Next lambdas",
        blocks=(
            Lines(lines=tuple(f"level {each.level}: {each.why}" for each in findings.suggestions)),
            Code(text="\n".join(each.command for each in findings.suggestions)),
        ),
    )


def _worst(findings: Findings) -> PageSection | None:
    worst = findings.worst
    if worst is None or not worst.images:
        return None
    return PageSection(
        title="Images hurt most",
        blocks=(
            Paragraph(
                text=f"By: {worst.combination}. AP of the image alone, 0.50:0.95. All images are "
                "in worst_images.csv, with their boxes in report.json."
            ),
            TableBlock(name="worst_images", table=worst_table(worst)),
            *_figures(worst.plots),
        ),
    )


def _levels(findings: Findings) -> Iterable[PageSection]:
    for each in findings.level_pictures:
        yield PageSection(
            title=f"Level {each.level}",
            blocks=(Paragraph(text=f"Run: {each.run}"), *_figures(each.plots)),
            folded=True,
        )


def _origin(findings: Findings, provenance: ReportOrigin) -> PageSection:
    runs = tuple(
        (
            f"level {row.facts.level}, lambda {run.lmbda:.3g}"
            + (f", {row.beside}" if row.beside else ""),
            f"{run.run} (model {row.model_sha256[:16]})",
        )
        for row, run in measured(findings.result)
    )
    made_by = (
        ("time", provenance.created),
        *provenance.facts.items(),
        ("cache", findings.result.cache_fingerprint[:16]),
    )
    blocks: list[Block] = [Code(text=provenance.command), Terms(entries=made_by)]
    if runs:
        blocks.append(Terms(entries=runs))
    if provenance.config:
        blocks.append(Code(text=provenance.config))
    return PageSection(title="Made by", blocks=tuple(blocks), folded=True)


def _figures(plots: Sequence[Plot | None]) -> list[Block]:
    drawn = tuple(plot for plot in plots if plot is not None)
    return [Figures(plots=drawn)] if drawn else []
