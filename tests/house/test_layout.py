"""A file imports only files below it, and the house keeps its rules of style.

LAYERS is the whole map: layer by layer, lowest first. A file may import files of lower layers and,
within its own layer, files that stand before it; so no two files can import each other.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("analyze", "configs", "data", "extract", "train")

LAYERS: dict[str, tuple[str, ...]] = {
    "facts": (
        "configs.errors",
        "configs.schema.config",
        "configs.loading",
        "configs.log_setup",
        "data.images.records",
        "data.system.atomic_files",
        "data.system.threads",
        "data.cache.manifest",
    ),
    "parts": (
        "data.images.scenes",
        "data.images.files",
        "data.images.labels",
        "data.images.folder",
        "data.images.coco",
        "data.images.kitti",
        "data.images.voc",
        "data.images.listing",
        "data.images.views",
        "data.images.loading",
        "data.images.loading",
        "data.cache.annotations",
        "data.cache.channel_statistics",
        "data.cache.commit_log",
        "data.cache.plan",
        "data.cache.commit_log",
        "data.cache.zarr_container",
        "data.cache.hdf5_container",
        "data.cache.containers",
        "data.system.compiled_loops",
        "data.system.vectors",
        "data.writing.cast_vectors",
        "data.writing.cast_kernel",
        "data.writing.stored_sample",
        "data.cache.units_due",
        "data.writing.settle",
        "data.writing.writer",
        "data.system.mapped_files",
        "data.system.mapped_files",
        "data.cache.verification",
        "data.reading.level_reader",
        "data.reading.order",
        "data.reading.gather",
        "data.reading.epoch_tiles",
        "data.reading.epoch_tiles",
        "data.reading.level_dataset",
        "data.reading.level_stream",
        "data.reading.mixed_stream",
        "data.reading.transfer",
        "data.reading.level_stream",
        "extract.detector.weights",
        "extract.detector.loading",
        "extract.detector.freshness",
        "extract.detector.pyramid",
        "extract.features.pipeline",
        "extract.features.maps",
        "extract.features.pipeline",
        "extract.dry_run.ways_to_fit",
        "train.codecs.layers.compressai_parts",
        "train.codecs.layers.transforms",
        "train.codecs.fast.winograd",
        "train.codecs.fast.lanes",
        "train.codecs.fast.window_loops",
        "train.codecs.fast.winograd_loops",
        "train.codecs.fast.fast_layers",
        "train.codecs.fast.fast_transforms",
        "train.codecs.layers.compressai_parts",
        "train.codecs.entropy.rans",
        "train.codecs.entropy.latent_coder",
        "train.codecs.entropy.latent_coder",
        "train.codecs.level_codec",
        "train.codecs.factorized",
        "train.codecs.hyperprior",
        "train.codecs.autoregressive",
        "train.codecs.catalogue",
        "train.objective.rate_distortion",
        "train.loop.cutmix",
        "train.objective.catalogue",
        "train.objective.object_weights",
        "train.objective.catalogue",
        "train.machine.interruption",
        "train.machine.distributed",
        "train.loop.validation",
        "train.runs.checkpoint",
        "train.runs.run_folder",
        "train.runs.metrics",
        "train.loop.loss_watch",
        "train.machine.precision",
        "train.machine.cuda_graphs",
        "train.loop.session",
        "train.loop.job",
        "train.loop.job",
        "analyze.facts.kept_results",
        "analyze.maps.map_source",
        "extract.accuracy.accuracy",
        "analyze.facts.results",
        "extract.accuracy.detections",
        "extract.accuracy.matches",
        "extract.accuracy.average_precision",
        "extract.accuracy.bootstrap",
        "analyze.streams.image_file",
        "analyze.streams.level_file",
        "analyze.streams.unsent_levels",
        "analyze.facts.candidates",
        "analyze.facts.sent_parts",
        "analyze.streams.unsent_levels",
        "analyze.maps.map_source",
        "analyze.detection.heads_on_levels",
        "analyze.detection.roi_align",
        "analyze.detection.heads_on_levels",
        "analyze.maps.per_image",
        "analyze.detection.split_evaluator",
        "analyze.detection.worst_images",
        "analyze.maps.replacements",
        "analyze.maps.noisy_maps",
        "analyze.detection.head_response",
        "analyze.detection.sensitivity",
        "analyze.measure.level_rate_distortion",
        "train.codecs.entropy.symbol_tables",
        "analyze.anchors.covariance",
        "analyze.anchors.covariance",
        "analyze.anchors.picture",
        "analyze.anchors.picture_coding",
        "analyze.anchors.contract",
        "analyze.anchors.uniform",
        "analyze.anchors.klt",
        "analyze.anchors.picture",
        "analyze.anchors.float16",
        "analyze.anchors.catalogue",
        "analyze.anchors.anchor_rate_distortion",
        "analyze.anchors.anchor_study",
        "analyze.curves.rate_quality",
        "analyze.curves.bjontegaard",
        "analyze.measure.model_cost",
        "analyze.measure.find_runs",
        "analyze.measure.matrix",
        "analyze.facts.sent_parts",
        "analyze.measure.split",
        "analyze.measure.decoded_levels",
        "analyze.measure.level_study",
        "analyze.measure.detection_study",
        "analyze.measure.workbench",
        "analyze.measure.level_results",
        "analyze.curves.hull",
        "analyze.allocation.lagrangian",
        "analyze.allocation.search",
        "analyze.curves.bjontegaard",
        "analyze.allocation.next_lambdas",
        "analyze.measure.find_runs",
        "analyze.streams.ensemble",
        "analyze.streams.pyramid_codec",
        "analyze.streams.streams_index",
        "analyze.allocation.allocate",
        "analyze.allocation.next_lambdas",
        "analyze.plots.level_details",
        "analyze.report.tables",
        "analyze.plots.figures",
        "analyze.plots.curve_plots",
        "analyze.plots.pictures",
        "analyze.plots.picture_study",
        "analyze.curves.comparison",
        "analyze.report.findings",
        "analyze.report.curve_series",
        "analyze.report.finding_tables",
        "analyze.report.finding_tables",
        "analyze.report.page",
        "analyze.report.page_markdown",
        "analyze.report.page_html",
        "analyze.report.sections",
        "analyze.report.folder",
        "extract.accuracy.average_precision",
    ),
    "loops": (
        "extract.features.extraction",
        "extract.dry_run.timing",
        "extract.dry_run.estimate",
        "extract.finetuning.finetune",
        "train.loop.saver",
        "train.loop.steps",
        "train.loop.epoch_end",
        "train.loop.run",
        "train.loop.study",
        "analyze.streams.compression",
        "analyze.streams.decompression",
        "analyze.analysis",
    ),
    "command line": (
        "configs.options",
        "extract.cli",
        "train.cli",
        "analyze.cli",
        "analyze.streams_cli",
    ),
}
ORDER = [module for layer in LAYERS.values() for module in layer]
DRAWERS = {"utils", "util", "common", "base", "misc", "helpers"}
MAX_LINES = 300


def source_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(tree: ast.AST) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found = deeper & set(ORDER)
            names.update(found or {node.module})
    return {name for name in names if name.split(".")[0] in PACKAGES}


SOURCES = source_files()
MODULES = [path for path in SOURCES if path.name != "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_file_imports_only_files_below_it(path: Path) -> None:
    rank = {module: number for number, module in enumerate(ORDER)}
    module = module_of(path)
    assert module in rank, f"{shown(path)} is not in the table of tests/house/test_layout.py"
    upward = {
        name
        for name in imports_of(ast.parse(path.read_text(encoding="utf-8")))
        if name not in rank or rank[name] >= rank[module]
    }
    assert not upward, f"{module} imports {sorted(upward)}, not below it"


def test_the_table_names_each_file_once_and_no_file_that_is_gone() -> None:
    assert sorted(ORDER) == sorted(module_of(path) for path in MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_file_is_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_file_has_only_absolute_imports(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    relative = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative, f"relative imports at lines {relative}"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_init_imports_nothing(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_no_file_is_a_drawer() -> None:
    assert not [shown(path) for path in SOURCES if path.stem.strip("_") in DRAWERS]


def test_import_check_sees_an_upward_import_in_each_spelling() -> None:
    for line in (
        "import train.loop.study",
        "from train.loop import study",
        "from train.loop.study import run_study",
        "def f():\n    from train.loop.study import run_study",
    ):
        assert imports_of(ast.parse(line)) == {"train.loop.study"}
