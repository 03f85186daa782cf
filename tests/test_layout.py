"""A file imports only files below it, and the house keeps its rules of style.

LAYERS is the whole map: layer by layer, lowest first. A file may import files of lower layers and,
within its own layer, files that stand before it; so no two files can import each other.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("analyze", "configs", "data", "extract", "train")

LAYERS: dict[str, tuple[str, ...]] = {
    "facts": (
        "configs.errors",
        "configs.schema",
        "configs.loading",
        "configs.log_setup",
        "data.records",
        "data.atomic",
        "data.threads",
        "data.manifest",
    ),
    "parts": (
        "data.scenes",
        "data.image_files",
        "data.labels",
        "data.folder",
        "data.coco",
        "data.kitti",
        "data.voc",
        "data.listing",
        "data.views",
        "data.images",
        "data.screening",
        "data.annotations",
        "data.statistics",
        "data.commits",
        "data.plan",
        "data.checksums",
        "data.zarr_store",
        "data.hdf5_store",
        "data.stores",
        "data.compiled",
        "data.vectors",
        "data.cast_vectors",
        "data.cast_kernel",
        "data.cast",
        "data.due",
        "data.folder_state",
        "data.writer",
        "data.mapping",
        "data.mounts",
        "data.verification",
        "data.reader",
        "data.order",
        "data.gather",
        "data.blocks",
        "data.epoch",
        "data.dataset",
        "data.stream",
        "data.level_mix",
        "data.transfer",
        "data.whole_maps",
        "extract.weights",
        "extract.detector",
        "extract.freshness",
        "extract.pyramid",
        "extract.download",
        "extract.maps",
        "extract.pipeline",
        "extract.fitting",
        "train.compressai_parts",
        "train.transforms",
        "train.winograd",
        "train.lanes",
        "train.window_loops",
        "train.winograd_loops",
        "train.fast_layers",
        "train.fast_transforms",
        "train.likelihoods",
        "train.rans",
        "train.entropy_coding",
        "train.coding_tables",
        "train.codec",
        "train.factorized",
        "train.hyperprior",
        "train.autoregressive",
        "train.models",
        "train.objective",
        "train.cutmix",
        "train.channel_weights",
        "train.object_weights",
        "train.distortions",
        "train.interruption",
        "train.distributed",
        "train.validation",
        "train.checkpoint",
        "train.run_folder",
        "train.diagnostics",
        "train.guards",
        "train.precision",
        "train.cuda_graphs",
        "train.session",
        "train.job",
        "train.beginning",
        "analyze.kept",
        "analyze.map_source",
        "analyze.interval",
        "analyze.results",
        "analyze.detections",
        "analyze.matches",
        "analyze.average_precision",
        "analyze.bootstrap",
        "analyze.bitstream",
        "analyze.level_file",
        "analyze.known_means",
        "analyze.runs",
        "analyze.parts",
        "analyze.overhead",
        "analyze.decoded_maps",
        "analyze.detection",
        "analyze.roi_align",
        "analyze.remembered_heads",
        "analyze.per_image",
        "analyze.evaluation",
        "analyze.damage",
        "analyze.replacements",
        "analyze.noise",
        "analyze.head_response",
        "analyze.sensitivity",
        "analyze.level_rd",
        "analyze.symbol_coding",
        "analyze.products",
        "analyze.covariance",
        "analyze.tiling",
        "analyze.picture_coding",
        "analyze.anchors",
        "analyze.anchor_uniform",
        "analyze.anchor_klt",
        "analyze.anchor_picture",
        "analyze.anchor_float16",
        "analyze.anchor_files",
        "analyze.anchor_rd",
        "analyze.anchor_study",
        "analyze.curves",
        "analyze.bd",
        "analyze.model_cost",
        "analyze.candidates",
        "analyze.matrix",
        "analyze.combinations",
        "analyze.split",
        "analyze.decoded_levels",
        "analyze.level_study",
        "analyze.detection_study",
        "analyze.workbench",
        "analyze.level_results",
        "analyze.hull",
        "analyze.allocation",
        "analyze.allocation_search",
        "analyze.saving",
        "analyze.suggestion",
        "analyze.trained_only",
        "analyze.ensemble",
        "analyze.pyramid_codec",
        "analyze.streams_index",
        "analyze.allocation_study",
        "analyze.next_lambdas",
        "analyze.level_details",
        "analyze.tables",
        "analyze.plots",
        "analyze.curve_plots",
        "analyze.pictures",
        "analyze.details_study",
        "analyze.comparison",
        "analyze.findings",
        "analyze.curve_series",
        "analyze.finding_tables",
        "analyze.comparison_tables",
        "analyze.page",
        "analyze.page_markdown",
        "analyze.page_html",
        "analyze.sections",
        "analyze.report",
        "extract.evaluate",
    ),
    "loops": (
        "extract.loop",
        "extract.timing",
        "extract.estimate",
        "extract.finetune",
        "train.saving",
        "train.epoch",
        "train.epoch_end",
        "train.loop",
        "train.study",
        "analyze.compression",
        "analyze.decompression",
        "analyze.loop",
    ),
    "command line": (
        "configs.options",
        "extract.cli",
        "train.cli",
        "analyze.cli",
        "analyze.codec_cli",
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
    assert module in rank, f"{shown(path)} is not in the table of tests/test_layout.py"
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
        "import train.loop",
        "from train import loop",
        "from train.loop import run",
        "def f():\n    from train.loop import run",
    ):
        assert imports_of(ast.parse(line)) == {"train.loop"}
