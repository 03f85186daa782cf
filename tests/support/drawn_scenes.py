"""To be imported by a server of processes: the first scenes that tests extract are drawn before."""

from __future__ import annotations

import pytest

from data.images import scenes
from tests.support.remembered_scenes import remember_scenes

_SEED, _NUM_SCENES = 23, 16  # of the split train in TINY_YAML, and what test_crash makes of it

remember_scenes(pytest.MonkeyPatch())
for _index in range(_NUM_SCENES):
    scenes.render_scene(index=_index, seed=_SEED)
