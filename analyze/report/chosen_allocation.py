"""The section of the allocation: what was chosen, by which images, and what it reaches on which."""

from __future__ import annotations

from analyze.allocation.per_image_allocation import PerImageFinding
from analyze.report.finding_tables import (
    allocation_table,
    fold_table,
    per_image_table,
    taken_table,
)
from analyze.report.findings import Findings, how_chosen, over_seeds
from analyze.report.page import Block, PageSection, Paragraph, TableBlock


def allocation_section(findings: Findings) -> PageSection | None:
    """Return the section; None without an allocation."""
    found = findings.allocation
    if found is None:
        return None
    saved = found.saving
    if saved.fraction is None:
        saving = f"Saving against one lambda for all levels: not known, as {saved.why}."
    else:
        least = "At least " if saved.at_least else ""
        saving = (
            f"{least}{saved.fraction:.1%} of the bits are saved against one lambda for all levels "
            f"({saved.same_lambda_bits_per_pixel:.4g} bits/px {saved.why})."
        )
    # The name of one that is not met says so itself.
    reached = ": met" if found.allocation.met else ""
    blocks: list[Block] = [
        Paragraph(
            text=". ".join(map(sentence, filter(None, [how_chosen(found), over_seeds(findings)])))
            + "."
        ),
        Paragraph(
            text=f"{sentence(found.combination.name)}{reached}. "
            f"{sentence(found.allocation.why)}. {saving}"
        ),
        TableBlock(name="allocation", table=allocation_table(found)),
        Paragraph(
            text="Levels' figures are of the images that chose. Written to ensemble.yaml beside "
            "this page, and all ways to send a level to candidates.yaml."
        ),
    ]
    if found.cross_fit is not None:
        blocks += [
            Paragraph(
                text="What the images of all other folds chose for each fold, and what it takes "
                "on the images that were held out; the mAP is of the detections of all folds."
            ),
            TableBlock(name="cross_fit", table=fold_table(found.cross_fit)),
        ]
    if found.per_image is not None:
        blocks += per_image_blocks(found.per_image)
    return PageSection(title="Allocation", blocks=tuple(blocks))


def per_image_blocks(found: PerImageFinding) -> list[Block]:
    """Return what images reach that choose themselves, and what they take."""
    return [
        Paragraph(
            text="Image by image: each takes what is best for itself at a slope of "
            f"{found.slope:.4g} of {found.distortion} by kilobyte, the least at which all files "
            "keep within the target's bits or, without such a target, the allocation's. An image's "
            "choice needs no boxes, and so no cross-fitting; the weights of errors and the slope "
            "are of all images."
        ),
        TableBlock(name="per_image", table=per_image_table(found)),
        TableBlock(name="per_image_ways", table=taken_table(found.taken)),
    ]


def sentence(text: str) -> str:
    """Return a text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
