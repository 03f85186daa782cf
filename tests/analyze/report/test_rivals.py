"""Anchors at the mAP of ours: the fewest bits of each, of features and of images alike."""

from __future__ import annotations

from dataclasses import replace

from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.bjontegaard import BdResult
from analyze.curves.comparison import Comparison
from analyze.curves.rate_quality import MAP, Curve
from analyze.report.findings import Findings
from analyze.report.rivals import equal_map_table
from analyze.report.summary import summary
from tests.analyze.report.test_summary import accuracy, anchor, findings, pyramid


def image(point: str, bits: float, value: float, title: str = "image, AV1") -> AnchorPoint:
    return AnchorPoint(
        anchor="image-av1", title=title, point=point, levels={}, derived=(), bits_per_pixel=bits,
        ideal_bits_per_pixel=None, accuracy=accuracy(value), is_image=True,
    )  # fmt: skip


def lines_of(found: Findings) -> list[tuple[object, ...]]:
    table = equal_map_table(found)
    assert table is not None
    return list(table.values)


def test_each_anchor_stands_with_its_fewest_bits_the_cheapest_first_and_those_below_last() -> None:
    points = (
        anchor("step 1", 9, 0.69), anchor("step 2", 3, 0.61),
        image("CRF 63", 0.1, 0.5), image("CRF 46", 0.4, 0.6), image("CRF 20", 2, 0.7),
        image("QP 51", 0.05, 0.3, "image, HEVC"), image("QP 50", 0.06, 0.4, "image, HEVC"),
    )  # fmt: skip
    found = findings(pyramid(0.1, 0.2, 0.6), pyramid(1, 0.1, 0.5), anchors=points)
    assert lines_of(found) == [
        ("ours", "all levels, lambda 0.1", 0.2, 0.6, 1.0, None),
        ("image, AV1", "CRF 46", 0.4, 0.6, 2.0, None),
        ("KLT over channels", "step 2", 3, 0.61, 15.0, None),
        ("image, HEVC", "QP 50, its best, is below", 0.06, 0.4, None, None),
    ]


def test_bd_rate_by_map_stands_beside_it() -> None:
    curve = Curve(name="ours", metric=MAP, points=())
    delta = BdResult(
        anchor="image, AV1", test="ours", metric=MAP, bd_rate_percent=-42.0, bd_quality=0.1,
        overlap=0.9, note="",
    )  # fmt: skip
    found = replace(
        findings(pyramid(0.1, 0.2, 0.6), anchors=(image("CRF 46", 0.4, 0.6),)),
        comparisons=(Comparison(what="all levels", ours=(curve,), anchors=(), deltas=(delta,)),),
    )
    assert [line[-1] for line in lines_of(found)] == [None, -42.0]


def test_without_ours_or_without_an_anchor_there_is_no_table() -> None:
    assert equal_map_table(findings(anchors=(image("CRF 46", 0.4, 0.6),))) is None
    assert equal_map_table(findings(pyramid(0.1, 0.2, 0.6))) is None
    blind = replace(pyramid(0.1, 0.2, 0.6), accuracy=None)
    assert equal_map_table(findings(blind, anchors=(image("CRF 46", 0.4, 0.6),))) is None


def test_summary_ends_with_the_cheapest_anchor_and_the_cheapest_image() -> None:
    points = (anchor("step 2", 3, 0.61), image("CRF 46", 0.4, 0.6), image("CRF 20", 2, 0.7))
    *_, features, images = summary(findings(pyramid(0.1, 0.2, 0.6), anchors=points)).splitlines()
    assert "cheapest anchor of that mAP: KLT over channels, step 2 (15.0 times" in features
    assert "cheapest image of that mAP: AV1, CRF 46 (2.0 times the bits)" in images
