"""AP class by class: mAP is their mean, and a class that is lost hides in it."""

from __future__ import annotations

from dataclasses import replace

from analyze.facts.results import AnalysisResult
from analyze.report.finding_tables import plain_table
from analyze.report.findings import Findings
from analyze.report.page import PageSection, Paragraph, TableBlock
from analyze.report.tables import Table

_MOST_UNFOLDED = 12


def class_section(findings: Findings) -> PageSection | None:
    """Return the table of classes, beside the original those of the allocation or of a pyramid."""
    result = findings.result
    if not result.classes:
        return None
    whole = [each.name for each in result.combinations if each.bits_per_pixel is not None]
    if findings.allocation is not None:
        whole.insert(0, findings.allocation.combination.name)
    text = "AP of each class, 0.50:0.95; mAP is their mean."
    if whole:
        text += f" Compressed: {whole[0]}. All combinations are in classes.csv."
    return PageSection(
        title="Classes",
        blocks=(
            Paragraph(text=text),
            TableBlock(name="classes", table=class_table(result, whole[0] if whole else None)),
        ),
        folded=len(result.classes) > _MOST_UNFOLDED,
    )


def class_table(result: AnalysisResult, shown_name: str | None) -> Table:
    """Return a line per class: AP of the original features and of one combination by its name.

    The file has a line for each class and each combination.
    """
    names = [each.name + ("" if each.is_known else " (unknown to the detector)")
             for each in result.classes]  # fmt: skip
    lines: dict[str, tuple[float, ...]] = {"original features": result.class_ap}
    lines |= {each.name: each.class_ap for each in result.combinations if each.class_ap}
    told = [lines["original features"]] + ([lines[shown_name]] if shown_name else [])
    table = plain_table(
        ("class", "boxes", "AP", "AP compressed")[: 2 + len(told)],
        ("class", "boxes", "ap", "ap_compressed")[: 2 + len(told)],
        ("{}", "{}", "{:.4f}", "{:.4f}")[: 2 + len(told)],
        [
            (name, each.num_boxes, *aps)
            for name, each, *aps in zip(names, result.classes, *told, strict=True)
        ],
    )
    return replace(
        table,
        names=("features", "class", "boxes", "known", "ap"),
        values=tuple(
            (features, each.name, each.num_boxes, int(each.is_known), ap)
            for features, aps in lines.items()
            for each, ap in zip(result.classes, aps, strict=True)
        ),
    )
