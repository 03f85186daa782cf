"""The GPU check keeps what was found, whatever happens to a section, and says what was not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.benchmarks.report import Goal, Table
from tests.benchmarks.step_parts import kind_of
from tests.gpu_check import run_sections as runner
from tests.gpu_check.findings import Findings
from tests.gpu_check.gpu_tests import files_with_gpu_tests, outcome
from tests.gpu_check.processes import run_until
from tests.gpu_check.results import Results, SectionResult
from tests.gpu_check.sections import SECTIONS, Section
from tests.gpu_check.settings import Settings, settings_of

ROOT = Path(__file__).parents[2]


def settings(folder: Path, *, device: str = "cpu", seconds: float = 60) -> Settings:
    return Settings(device=device, seconds=seconds, out=folder / "out", images=None)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_time_that_is_up_ends_a_process_with_its_children_and_keeps_what_it_printed(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log.txt"
    assert run_until(["bash", "-c", "sleep 60 & echo $!; wait"], 0.3, log, {}) is None
    child = int(log.read_text())
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exit_code_is_returned(tmp_path: Path) -> None:
    assert run_until(["bash", "-c", "exit 3"], 10, tmp_path / "log.txt", {}) == 3


def test_findings_of_a_process_that_was_killed_while_it_wrote_one_are_those_before(
    tmp_path: Path,
) -> None:
    findings = Findings(file=tmp_path / "findings.jsonl")
    assert findings.all() == []
    findings.check("one", True)
    with findings.file.open("a") as file:
        file.write('{"kind": "che')
    assert [each["what"] for each in findings.all()] == ["one"]


def found(folder: Path) -> list[dict[str, object]]:
    findings = Findings(file=folder / "findings.jsonl")
    findings.check("holds", True)
    findings.skip("photographs", "none there")
    goals = [Goal(what="rate", ratio=1.0, at_least=2.0)]
    findings.table(Table(title="rates", columns=["", "GB/s"], rows=[["a", 1.0]], goals=goals))
    return findings.all()


def test_summary_says_what_failed_was_missed_and_not_reached(tmp_path: Path) -> None:
    results = Results(settings(tmp_path))
    (tmp_path / "out").mkdir()
    before = found(tmp_path)
    results.add(SectionResult.ended("fine", before, 0, seconds=1, limit_s=9))
    assert not results.failed  # a goal that is missed is none
    results.add(SectionResult.ended("broken", [], 1, seconds=1, limit_s=9))
    results.add(SectionResult.ended("hangs", before, None, seconds=9, limit_s=9))
    results.add(SectionResult.ended("unlucky", before, None, seconds=4, limit_s=None))
    results.add(SectionResult(name="late", how="not reached"))
    results.write(14.0)
    assert [each["what"] for each in results.failed] == ["section broken", "section hangs"]
    text = (tmp_path / "out" / "summary.txt").read_text()
    for line in (
        "PASS  holds",
        "SKIP  photographs: none there",
        "FAIL  section broken: exit code 1: see sections.log",
        "FAIL  section hangs: not done within 9 s: see sections.log",
        "GOAL  rate: 1.000, target >= 2: missed",
        "CUT: unlucky (all time was up)",
        "NOT REACHED: late (all time was up)",
        "checks: 3 passed, 2 failed; goals: 0 met, 3 missed; sections without an end: 2",
    ):
        assert line in text.splitlines()
    raw = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: each["how"] for name, each in raw["sections"].items()} == {
        "fine": "ended", "broken": "crashed", "hangs": "stopped", "unlucky": "cut",
        "late": "not reached",
    }  # fmt: skip


def test_section_for_which_no_time_is_left_is_not_begun(tmp_path: Path) -> None:
    section = Section(name="any", module="tests.gpu_check.none", limit_s=9)
    begun = time.monotonic() - 58
    results = runner.run_sections(settings(tmp_path), [section], tmp_path / "scratch", begun)
    assert "NOT REACHED: any" in results.summary()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("device", "left", "expected_s", "is_own"),
    [("cuda", 60, 2.5, True), ("cuda", 2, None, None), ("cuda:0", 6, 2.5, True)],
)
def test_limit_of_a_section_goes_with_the_time_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, left: float,
    expected_s: float | None, is_own: bool | None,
) -> None:  # fmt: skip
    given: list[float] = []

    def as_if_run(command: list[str], seconds: float, log: Path, environment: object) -> None:
        given.append(seconds)
        log.write_text("said")

    monkeypatch.setattr(runner, "run_until", as_if_run)
    section = Section(name="any", module="tests.gpu_check.none", limit_s=20)
    result = runner._run(
        settings(tmp_path, device=device), section, tmp_path, time.monotonic() - 60 + left
    )
    if expected_s is None:
        assert (given, result.how) == ([], "not reached")
    else:
        assert given == [pytest.approx(expected_s)]
        assert (result.how, result.log) == ("stopped" if is_own else "cut", "said")


def test_every_section_names_a_module_that_is_there() -> None:
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)
    for section in SECTIONS:
        for module in (section.module, *(f"tests.benchmarks.{each}" for each in section.arguments)):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_settings_that_are_wrong_are_named(tmp_path: Path) -> None:
    assert settings_of({"GPU_CHECK_DEVICE": "cpu", "GPU_CHECK_S": "30"}).seconds == 30
    with pytest.raises(ValueError, match="GPU_CHECK_DEVICE=mps"):
        settings_of({"GPU_CHECK_DEVICE": "mps"})
    with pytest.raises(ValueError, match=r"GPU_CHECK_IMAGES=.*gone"):
        settings_of({"GPU_CHECK_DEVICE": "cpu", "GPU_CHECK_IMAGES": str(tmp_path / "gone")})


def test_files_with_marked_tests_are_found_and_their_outcomes_told(tmp_path: Path) -> None:
    shown = {str(path.relative_to(ROOT)) for path in files_with_gpu_tests()}
    assert "tests/train/machine/test_cuda_graphs.py" in shown
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase classname='a' name='fine'/>"
        "<testcase classname='a' name='wrong'><failure/></testcase>"
        "<testcase classname='a' name='not here'><skipped/></testcase></testsuite></testsuites>"
    )
    assert outcome(report) == (1, 1, ["a.wrong"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_wgrad_implicit_gemm_indexed_bf16bf16_bf16f32", "convolutions"),
        ("void cudnn::ops::nchwToNhwcKernel<__half>", "casts and copies"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>",
         "casts and copies"),
        ("void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float>>", "reductions"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimisers"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::MulFunctor>",
         "GDN and other elementwise"),
        ("triton_poi_fused_add_mul_0", "GDN and other elementwise"),
        ("triton_red_fused_sum_1", "reductions"),
        ("ncclDevKernel", "other"),
    ],
)  # fmt: skip
def test_kernel_is_of_the_kind_that_its_name_tells(name: str, kind: str) -> None:
    assert kind_of(name) == kind
