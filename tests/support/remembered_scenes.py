"""Built-in scenes that are drawn once in a process: the same ones are asked for again and again."""

from __future__ import annotations

from functools import cache

import pytest

from data.images import scenes
from data.images.scenes import Scene

_drawn = cache(scenes.render_scene)


def _remembered(index: int, seed: int) -> Scene:
    scene = _drawn(index, seed)
    return Scene(
        image=scene.image.copy(), boxes_xyxy=scene.boxes_xyxy.copy(), labels=scene.labels.copy()
    )


def remember_scenes(patched: pytest.MonkeyPatch) -> None:
    """Have the scenes of every data set remembered."""
    patched.setattr(scenes, "render_scene", _remembered)
