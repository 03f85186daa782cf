"""The report holds every number, opens offline, and says what is missing."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analyze.facts.results import (
    AnalysisResult,
    Combination,
    LevelFacts,
    LevelRow,
    Measurement,
)
from analyze.plots.figures import make_plots
from analyze.report.findings import Findings
from analyze.report.page import _table
from analyze.report.report_folder import write_report
from analyze.report.sections import ReportOrigin
from analyze.report.tables import (
    Table,
    detection_table,
    level_table,
    plain_text,
    shown,
    word_columns,
)
from configs.errors import ConfigError
from extract.accuracy.bootstrap import Accuracy, Interval

PROVENANCE = ReportOrigin(
    created="2025-01-01T12:00:00+00:00",
    command="analyze-levels --config 'a b'",
    facts={"torch": "2.4.0"},
)
SHARES = (0.751, 0.188, 0.047, 0.012, 0.002)


def level_row(level: int, lmbda: float = 0.001) -> LevelRow:
    """A plausible row whose every figure differs from every other row's."""
    side = 64 >> level
    return LevelRow(
        facts=LevelFacts(
            level=level,
            key="pool" if level == 4 else str(level),
            stride_px=4 << level,
            num_channels=256,
            resolution_hw=(side, side + 16),
            share=SHARES[level],
        ),
        measurement=Measurement(
            run=f"checkpoints/level_{level}/run_{lmbda:.2e}",
            lmbda=lmbda,
            num_parameters=5_000_001 + level,
            mse=0.11 + level,
            value_range=20.5 + level,
            psnr_db=31.11 + level,
            estimated_bpp=1.21 + level,
            real_bpp=1.31 + level,
            payload_bpp=1.30 + level,
            bits_per_pixel=0.41 + level,
            encode_ms=11.3 + level,
            decode_ms=12.7 + level,
        ),
        alone=Accuracy(map=0.5101 + level / 100, map_50=0.8, small=-1.0, medium=0.4, large=0.6),
    )


@pytest.fixture(scope="module")
def result() -> AnalysisResult:
    return AnalysisResult(
        dataset="scenes",
        split="val",
        detector="fasterrcnn_mobilenet_v2_fpn (0123456789ab)",
        num_images=64,
        rows=tuple(level_row(level) for level in range(5)),
        original=Accuracy(map=0.5432, map_50=0.8765, small=-1.0, medium=0.4444, large=0.6666),
        combinations=(
            Combination(
                name="all levels, lambda 0.001",
                parts={level: f"run_{level}" for level in range(5)},
                bits_per_pixel=3.217,
                accuracy=Accuracy(
                    map=0.5011,
                    map_50=0.8,
                    small=-1.0,
                    medium=0.4,
                    large=0.6,
                    interval=Interval(low=0.45, high=0.55),
                    drop=0.0421,
                    drop_interval=Interval(low=-0.01, high=0.0909),
                ),
                lmbda=0.001,
                is_planned=True,
            ),
        ),
        missing=(),
    )


@pytest.fixture(scope="module")
def written(result: AnalysisResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its report, with all that is drawn. Read only."""
    folder = tmp_path_factory.mktemp("written")
    assert write_report(Findings(result=result), PROVENANCE, folder) == folder / "index.html"
    return folder


class PageReader(HTMLParser):
    """Collects the text of table cells, every address that the page loads, and unclosed tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "srcset", "href")]
        if tag not in ("meta", "link", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_page_holds_every_cell_of_both_tables_in_order(
    result: AnalysisResult, written: Path
) -> None:
    page = PageReader((written / "index.html").read_text())
    tables = (level_table(result), detection_table(result))
    assert page.cells == [cell for table in tables for line in table.cells for cell in line]
    assert page.open == []


def test_files_of_an_earlier_report_go_and_nothing_else(
    result: AnalysisResult, tmp_path: Path, undrawn: None
) -> None:
    folder = tmp_path / "report"
    write_report(Findings(result=result), PROVENANCE, folder)
    content = json.loads((folder / "report.json").read_text())
    assert {"levels.csv", "report.md", "index.html"} <= set(content["files"])
    content["files"] += ["allocation.csv", "ensemble.yaml", "../elsewhere.csv"]
    (folder / "report.json").write_text(json.dumps(content))
    for path in ("ensemble.yaml", "allocation.csv", "notes.csv", "../elsewhere.csv"):
        (folder / path).write_text("of an earlier report, or of somebody's own")
    write_report(Findings(result=result), PROVENANCE, folder)
    assert not (folder / "ensemble.yaml").exists()
    assert not (folder / "allocation.csv").exists()
    assert (folder / "notes.csv").exists()
    assert (tmp_path / "elsewhere.csv").exists()


# As Python reads the file name b"a\xff|b.jpg" of a disk.
NO_UTF_8, ESCAPED = "a\udcff|b.jpg", r"a\udcff|b.jpg"


def test_report_shows_names_that_are_no_utf_8_with_escapes(
    result: AnalysisResult, tmp_path: Path, undrawn: None
) -> None:
    measurement = result.rows[0].measurement
    assert measurement is not None
    row = replace(result.rows[0], measurement=replace(measurement, run=f"runs/{NO_UTF_8}"))
    combination = replace(result.combinations[0], name=NO_UTF_8)
    odd = replace(
        result, rows=(row,), combinations=(combination,), missing=(f"no mAP: {NO_UTF_8}",)
    )
    origin = replace(PROVENANCE, command=f"analyze-levels {NO_UTF_8}")
    page = write_report(Findings(result=odd), origin, tmp_path).read_text(encoding="utf-8")
    for text in (f"analyze-levels {ESCAPED}", f"no mAP: {ESCAPED}", f"runs/{ESCAPED}"):
        assert text in page
    assert ESCAPED in (tmp_path / "detection.csv").read_text(encoding="utf-8")
    # A bar would end the cell.
    assert "| a\\udcff\\|b.jpg |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "report.json").read_text(encoding="ascii"))
    assert content["result"]["missing"] == [f"no mAP: {NO_UTF_8}"]


@pytest.mark.parametrize("fails", ["making", "writing"])
def test_earlier_report_stays_as_it_was_until_the_next_one_is_whole(
    result: AnalysisResult, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:  # fmt: skip
    folder = tmp_path / "report"
    write_report(Findings(result=result), PROVENANCE, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def write_some(path: Path, content: bytes) -> None:
        if path.name == "report.md":
            fail()
        with path.open("wb") as file:
            file.write(content)

    if fails == "making":
        monkeypatch.setattr("analyze.report.report_folder.page_html", fail)
    else:
        monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises((OSError, ConfigError), match="No space left on device"):
        write_report(Findings(result=replace(result, num_images=1)), PROVENANCE, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(folder.glob(".new-*"))


def test_cells_show_the_measured_numbers(result: AnalysisResult) -> None:
    assert level_table(result).cells[2] == (
        "2", "0.001", "16x32", "16", "4.7%", "5,000,003", "2.11", "33.11", "3.21", "3.31",
        "+3.1%", "2.41", "13.3", "14.7", "0.5301",
    )  # fmt: skip
    assert detection_table(result).cells == (
        ("original features", "-", "0.5432", "-", "-", "-", "0.8765", "-", "0.4444", "0.6666"),
        (
            "all levels, lambda 0.001",
            "3.217",
            "0.5011",
            "0.450..0.550",
            "0.0421",
            "-0.010..0.091",
            "0.8000",
            "-",
            "0.4000",
            "0.6000",
        ),
    )


def test_page_loads_nothing_but_what_it_carries(written: Path) -> None:
    text = (written / "index.html").read_text()
    addresses = PageReader(text).addresses
    pictures = [address for address in addresses if address.startswith("data:image/png")]
    assert len(pictures) == 3 * 2
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_page_suits_phones_and_dark_screens(written: Path) -> None:
    text = (written / "index.html").read_text()
    assert '<meta name="viewport" content="width=device-width' in text
    assert text.count("prefers-color-scheme: dark") == 1 + 3


def test_csv_holds_the_values_in_full(result: AnalysisResult, written: Path) -> None:
    with (written / "levels.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["level"]) for line in lines] == [0, 1, 2, 3, 4]
    for line, row in zip(lines, result.rows, strict=True):
        assert row.measurement is not None
        assert float(line["real_bpp"]) == row.measurement.real_bpp
        assert float(line["share"]) == row.facts.share
        assert line["run"] == row.measurement.run
    with (written / "detection.csv").open(newline="") as file:
        detection = list(csv.DictReader(file))
    assert [float(line["map"]) for line in detection] == [0.5432, 0.5011]


def test_folder_holds_the_markdown_and_the_plots_it_names(
    result: AnalysisResult, written: Path
) -> None:
    text = (written / "report.md").read_text()
    named = re.findall(r"\(plots/(\w+\.png)\)", text)
    assert sorted(named) == sorted(path.name for path in (written / "plots").glob("*.png"))
    assert {path.stem for path in (written / "plots").glob("*.svg")} == {
        name.removesuffix(".png") for name in named
    }
    for cell in level_table(result).cells[4]:
        assert f"| {cell} |" in text
    assert "analyze-levels --config 'a b'" in text


def test_untrained_level_and_absent_map_are_shown_and_the_rest_is_there(
    result: AnalysisResult, tmp_path: Path
) -> None:
    rows = [replace(row, alone=None) for row in result.rows]
    rows[3] = replace(rows[3], measurement=None)
    command = "level 3 has no trained run: run train-level --level 3"
    partial = replace(
        result, rows=tuple(rows), original=None, combinations=(), missing=(command, "no mAP: <x>")
    )
    page = write_report(Findings(result=partial), PROVENANCE, tmp_path)
    for text in (page.read_text(), (tmp_path / "report.md").read_text()):
        assert command in text
    assert "no mAP: &lt;x&gt;" in page.read_text()
    assert level_table(partial).cells[3][:6] == ("3", "-", "8x24", "32", "1.2%", "-")
    assert level_table(partial).cells[4][9] == "5.31"
    assert {plot.name for plot in make_plots(partial)} == {"rate_distortion", "share"}


def test_rate_that_is_many_times_next_to_nothing_is_not_shown_to_four_digits(
    result: AnalysisResult,
) -> None:
    row = level_row(0)
    assert row.measurement is not None
    tiny = replace(row, measurement=replace(row.measurement, estimated_bpp=0.006, real_bpp=0.9))
    table = level_table(replace(result, rows=(tiny, row)))
    place = table.titles.index("gap")
    assert [cells[place] for cells in table.cells] == ["> +999%", "+8.3%"]
    assert table.values[0][table.names.index("rate_gap")] == pytest.approx(149)


def test_terminal_columns_are_aligned(result: AnalysisResult) -> None:
    lines = plain_text(level_table(result)).splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    assert lines[0].endswith("mAP")


def test_columns_of_words_are_known_and_no_zero_has_a_sign() -> None:
    table = Table(
        titles=("", "sent as", "map HxW", "drop"),
        cells=(("level 0", "lambda 0.1", "80x112", shown(-0.00004, "{:.4f}")),),
        names=("level", "sent_as", "map", "drop"),
        values=(),
    )
    assert word_columns(table) == {0, 1}
    assert table.cells[0][3] == "0.0000"
    assert shown(-0.0004, "{:.4f}") == "-0.0004"
    assert shown(float("nan"), "{:.4f}") == "-"
    assert 'td class="words">lambda 0.1<' in _table(table)
