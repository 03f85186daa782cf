"""The job on a folder of photographs of mixed sizes, which GPU_CHECK_IMAGES names."""

from __future__ import annotations

from pathlib import Path

from configs.schema.data import SCENES_BUILDER, SCENES_WEIGHTS
from data.images.files import list_images
from tests.gpu_check.findings import Findings
from tests.gpu_check.settings import Settings
from tests.gpu_check.user_job import do_job

_MOST_IMAGES = 200
_EVERY_VAL = 5
# The detector that is in the package: there may be no network for another.
_DETECTOR = {
    "builder": SCENES_BUILDER,
    "checkpoint": SCENES_WEIGHTS,
    "min_size": 320,
    "max_size": 533,
}


def run(settings: Settings, scratch: Path, findings: Findings) -> None:
    """Validate on each fifth photograph, train on the others."""
    if settings.images is None:
        findings.skip("photographs", "GPU_CHECK_IMAGES names no folder")
        return
    found = list_images(settings.images, recursive=True)
    wanted = found[:: max(1, -(-len(found) // _MOST_IMAGES))]
    val = wanted[::_EVERY_VAL]
    lists = {"train": [path for path in wanted if path not in set(val)], "val": val}
    splits = {}
    for name, paths in lists.items():
        lines = (f"{path.relative_to(settings.images)}\n" for path in paths)
        (scratch / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        splits[name] = {"images": str(settings.images), "image_list": f"{name}.txt"}
    data = {"name": "photographs", "format": "folder", "splits": splits}
    do_job(
        settings, scratch, findings, title="photographs",
        sections={"data": data, "detector": _DETECTOR},
    )  # fmt: skip
