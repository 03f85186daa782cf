"""Whatever changes what one's own detector finds changes its identity, and nothing else does."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn
from extract.detector.own_detector import identity_of

BUILDER = "extract.detector.builders:fasterrcnn_mobilenet_v2_fpn"


def detector(**settings: Any) -> Any:
    with torch.device("cpu"):
        return fasterrcnn_mobilenet_v2_fpn(num_classes=3, **settings)


@pytest.fixture(scope="module")
def model() -> Any:
    return detector()


@pytest.fixture(scope="module")
def usual(model: Any) -> str:
    return identity_of(model, BUILDER)


def test_identity_is_that_of_settings_and_code_and_not_of_weights(usual: str) -> None:
    torch.manual_seed(1)
    assert identity_of(detector(), BUILDER) == usual


def keep(scores: float, limit: float = 0.5) -> bool:
    return scores > limit


CHANGES: dict[str, Callable[[Any], tuple[Any, str, object]]] = {
    "box_score_thresh": lambda model: (model.roi_heads, "score_thresh", 0.3),
    "box_nms_thresh": lambda model: (model.roi_heads, "nms_thresh", 0.3),
    "box_detections_per_img": lambda model: (model.roi_heads, "detections_per_img", 7),
    "rpn_nms_thresh": lambda model: (model.rpn, "nms_thresh", 0.3),
    "rpn_post_nms_top_n": lambda model: (model.rpn, "_post_nms_top_n", {"testing": 3}),
    "anchor sizes": lambda model: (model.rpn.anchor_generator, "sizes", ((32,),)),
    "box weights": lambda model: (model.roi_heads.box_coder, "weights", (1.0, 1.0, 5.0, 5.0)),
    "sampling ratio": lambda model: (model.roi_heads.box_roi_pool, "sampling_ratio", 4),
    "a function": lambda model: (model.roi_heads, "keep", keep),
    "its arguments": lambda model: (model, "keep", functools.partial(keep, limit=0.25)),
    "an object": lambda model: (model, "settings", SimpleNamespace(limit=0.25)),
    "a tensor": lambda model: (model, "limits", torch.tensor([0.25])),
    "a set": lambda model: (model, "left_out", {3, 1}),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_changes_detections_changes_the_identity(
    model: Any, usual: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    owner, attribute, value = CHANGES[name](model)
    monkeypatch.setattr(owner, attribute, value, raising=False)
    changed = identity_of(model, BUILDER)
    assert changed != usual
    assert changed == identity_of(model, BUILDER)
    monkeypatch.undo()
    assert identity_of(model, BUILDER) == usual


def test_a_threshold_deep_inside_what_the_model_holds_counts(
    model: Any, usual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for limit in (0.25, 0.5):
        nested = {"rules": [SimpleNamespace(keep=functools.partial(keep, limit=limit))]}
        monkeypatch.setattr(model, "settings", nested, raising=False)
        found.add(identity_of(model, BUILDER))
    assert len(found) == 2


def test_what_hangs_together_with_the_process_is_left_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("log", logging.getLogger()), ("lock", threading.Lock()), ("module", sys), ("me", model),
    ):  # fmt: skip
        monkeypatch.setattr(model, name, value, raising=False)
    monkeypatch.delattr(model, "me")
    object.__setattr__(model, "me", model)
    assert identity_of(model, BUILDER) == identity_of(model, BUILDER)
    object.__delattr__(model, "me")


def test_code_of_the_heads_and_of_the_factory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from torch import nn\nclass Head(nn.Module):\n    limit = {}\ndef build(): pass\n"
    found = set()
    for limit in (0.25, 0.5):
        monkeypatch.delitem(sys.modules, "heads_of_this_test", raising=False)
        (tmp_path / "heads_of_this_test.py").write_text(text.format(limit))
        module = __import__("heads_of_this_test")
        found.add(identity_of(nn.Sequential(module.Head()), BUILDER))
        found.add(identity_of(nn.Sequential(), "heads_of_this_test:build"))
    assert len(found) == 4
