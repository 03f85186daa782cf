"""Bits per pixel of the detector's input stand beside those per original pixel, everywhere."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyze.report.findings import Findings
from analyze.report.input_rates import with_input_keys, with_input_rates
from analyze.report.report_folder import write_report
from analyze.report.summary import summary
from analyze.report.tables import Table
from tests.analyze.report.test_page import PROVENANCE
from tests.analyze.report.test_rivals import image
from tests.analyze.report.test_summary import anchor, findings, pyramid

TABLE = Table(
    titles=("name", "by", "bits/px", "ideal bits/px", "mAP"),
    cells=(("a", "b", "0.5", "0.25", "0.1"), ("c", "d", "-", "-", "-")),
    names=("name", "bits_per_pixel", "ideal_bits_per_pixel", "map", "more"),
    values=(("a", 0.5, 0.25, 0.1, 7), ("c", None, None, None, None)),
)


def test_each_rate_has_a_column_more_in_both_forms_of_a_table() -> None:
    found = with_input_rates(TABLE, 3.0)
    assert found.titles == (
        "name", "by", "bits/px", "bits/in px", "ideal bits/px", "ideal bits/in px", "mAP"
    )  # fmt: skip
    assert found.cells == (
        ("a", "b", "0.5", "1.5", "0.25", "0.75", "0.1"), ("c", "d", "-", "-", "-", "-", "-"),
    )  # fmt: skip
    assert found.names == (
        "name", "bits_per_pixel", "bits_per_input_pixel", "ideal_bits_per_pixel",
        "ideal_bits_per_input_pixel", "map", "more",
    )  # fmt: skip
    assert found.values[0] == ("a", 0.5, 1.5, 0.25, 0.75, 0.1, 7)


def test_of_a_size_that_nobody_knows_nothing_is_said() -> None:
    assert with_input_rates(TABLE, None) == TABLE
    assert with_input_keys({"bits_per_pixel": 1.0}, None) == {"bits_per_pixel": 1.0}


def test_keys_stay_and_have_one_more_at_any_depth() -> None:
    found = with_input_keys({"a": [{"same_lambda_bits_per_pixel": 2, "bits_per_pixel": None}]}, 1.5)
    assert found == {
        "a": [
            {
                "same_lambda_bits_per_pixel": 2, "same_lambda_bits_per_input_pixel": 3.0,
                "bits_per_pixel": None, "bits_per_input_pixel": None,
            }
        ]
    }  # fmt: skip


def test_mean_and_ends_of_several_seeds_have_one_more_each() -> None:
    seeds = Table(
        titles=("", "bits/px", "bits/px min"), cells=(("a", "2", "1"),),
        names=("what", "bits_per_pixel_mean", "bits_per_pixel_min"), values=(("a", 2.0, 1.0),),
    )  # fmt: skip
    found = with_input_rates(seeds, 0.5)
    assert found.titles == ("", "bits/px", "bits/in px", "bits/px min", "bits/in px min")
    assert found.values == (("a", 2.0, 1.0, 1.0, 0.5),)
    spread = with_input_keys({"bits_per_pixel": {"mean": 2.0, "low": 1.0}}, 0.5)
    assert spread["bits_per_input_pixel"] == {"mean": 1.0, "low": 0.5}


def sized() -> Findings:
    points = (anchor("step 2", 3, 0.61), image("CRF 46", 0.4, 0.6))
    found = findings(pyramid(0.1, 0.2, 0.6), anchors=points)
    result = replace(found.result, num_pixels=2_000, num_input_pixels=1_000)
    return replace(found, result=result)


def test_every_table_of_a_report_and_its_json_have_both_rates(tmp_path: Path) -> None:
    write_report(sized(), PROVENANCE, tmp_path)
    with_rates = []
    for path in sorted(tmp_path.glob("*.csv")):
        reader = csv.DictReader(path.read_text().splitlines())
        rates = [name for name in reader.fieldnames or () if name.endswith("bits_per_pixel")]
        with_rates += [path.stem] if rates else []
        for row in reader:
            for name in rates:
                twice = row[name.replace("per_pixel", "per_input_pixel")]
                assert twice == (str(2 * float(row[name])) if row[name] else "")
    assert with_rates == ["anchors", "detection", "equal_map", "levels"]
    content: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert content["result"]["combinations"][0]["bits_per_pixel"] == 0.2
    assert content["result"]["combinations"][0]["bits_per_input_pixel"] == 0.4
    assert [each["bits_per_input_pixel"] for each in content["anchors"]] == [6, 0.8]
    # The first screen has the image beside ours, before the table of levels.
    page = (tmp_path / "report.md").read_text()
    assert page.index("image, AV1") < page.index("map HxW")


def test_summary_has_both_rates() -> None:
    lines = summary(sized()).splitlines()
    assert lines[1].split() == ["features", "bits/px", "bits/in", "px", "mAP", "drop"]
    assert lines[3].split()[-4:] == ["0.2", "0.4", "0.6000", "0.1000"]
