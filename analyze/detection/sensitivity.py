"""How much detection suffers from errors of each level, and of groups of its channels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from analyze.detection.head_response import HeadResponse, few_proposals
from analyze.detection.heads_on_levels import detect_from_levels, remembered_heads
from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.kept_results import Kept
from analyze.maps.map_source import as_batch
from analyze.maps.replacements import NoisyMaps, water_filled
from configs.plain_json import parse_json
from data.system.atomic_files import write_atomically
from extract.accuracy.matches import Detections

_METHOD = "sensitivity 3"
_LEAST_WEIGHT = 0.01  # of the mean: a channel that nothing is asked of must not decode to anything


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivitySettings:
    """What is measured; the times are in docs/analysis.md."""

    mse_shares: tuple[float, ...] = (0.2, 1.0)
    """Errors of a level at which mAP is measured, in shares of its mean variance; 1: dropped."""
    num_groups: int = 8
    """Groups of neighbouring channels of each level."""
    group_share: float = 0.02
    """Error of a level, all of it in one group, at which the heads' change is measured."""
    num_group_images: int = 8
    """The first so many images are used for groups."""
    num_proposals: int = 100
    """Proposals that an R-CNN may pass on while sensitivity is measured, for speed."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSensitivity:
    """Channels `first` to `first + size - 1` of a level, with noise in them alone."""

    first: int
    size: int
    mse: float
    """Of the level, so that groups compare: squared error over all of its channels."""
    change: float
    """Mean change of the heads' outputs over the images (analyze.detection.head_response)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """mAP under noise in one level, and the heads' change under noise in one group of channels."""

    levels: Mapping[int, tuple[tuple[float, float], ...]]
    """Level -> (mse of the noise, mAP), rising in mse from (0, mAP of the cached levels)."""
    groups: Mapping[int, tuple[GroupSensitivity, ...]]

    def channel_weights(self, level: int) -> NDArray[Any]:
        """Return the weight of each channel's squared error, float64 [C] of mean 1.

        It is the heads' change by error of the group's channel; channels of a group share it.
        """
        groups = self.groups[level]
        sizes = [group.size for group in groups]
        slopes = np.array([group.change / group.mse if group.mse else 0.0 for group in groups])
        weights = np.repeat(slopes, sizes)
        if not weights.sum() > 0:
            return np.ones(len(weights))
        weights = np.maximum(weights / weights.mean(), _LEAST_WEIGHT)
        scaled: NDArray[Any] = weights / weights.mean()
        return scaled


def measure_sensitivity(
    evaluator: SplitEvaluator, kept: Kept, settings: SensitivitySettings | None = None
) -> Sensitivity:
    """Measure with the evaluator's images, or return what was kept for the same cache and settings.

    Detection for each image, level and error, and a part of the heads for each level, group and
    image of the first few. Raises ConfigError for a detector whose heads are unknown.
    """
    settings = settings or SensitivitySettings()
    reader = next(iter(evaluator.readers.values()))
    key = {
        "method": _METHOD,
        "cache": reader.content_id,
        "truth": evaluator.truth,
        "images": [int(index) for index in evaluator.indices],
        "levels": sorted(evaluator.readers),
        "settings": parse_json(json.dumps(asdict(settings))),
    }
    found = kept.get(key)
    if found is not None:
        return _from_facts(found.facts)
    groups = _group_sensitivities(evaluator, settings)
    sensitivity = Sensitivity(levels=_level_curves(evaluator, settings), groups=groups)
    kept.put(key, _to_facts(sensitivity), {})
    return sensitivity


def write_weights(path: Path, sensitivity: Sensitivity) -> None:
    """Write `weights_text` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, weights_text(sensitivity).encode())


def weights_text(sensitivity: Sensitivity) -> str:
    """Return the file that `training.channel_weights` names: level -> weights, mean 1."""
    levels = {
        str(level): sensitivity.channel_weights(level).tolist() for level in sensitivity.groups
    }
    return json.dumps({"levels": levels})


def _level_curves(
    evaluator: SplitEvaluator, settings: SensitivitySettings
) -> dict[int, tuple[tuple[float, float], ...]]:
    sources: dict[tuple[int, float], NoisyMaps] = {}
    for level, reader in sorted(evaluator.readers.items()):
        variance = reader.statistics.variance
        for share in sorted(settings.mse_shares):
            errors = water_filled(variance, share * float(variance.sum()))
            sources[level, float(errors.mean())] = NoisyMaps(reader, errors, settings.seed)
    samples = next(iter(evaluator.readers.values())).manifest.samples
    device = next(evaluator.detector.parameters()).device
    clean: dict[int, dict[str, Tensor]] = {}
    noisy: dict[tuple[int, float], dict[int, dict[str, Tensor]]] = {name: {} for name in sources}
    for index in tqdm(evaluator.indices, desc="sensitivity", unit="image", disable=None):
        sample = samples[index]
        hw = (sample.height, sample.width)
        levels = {key: maps.to(device) for key, maps in evaluator.levels(index, {}).items()}
        with (
            few_proposals(evaluator.detector, settings.num_proposals),
            remembered_heads(evaluator.detector),
        ):
            clean[sample.image_id] = detect_from_levels(evaluator.detector, levels, hw)
            for (level, mse), source in sources.items():
                changed = {
                    **levels,
                    evaluator.readers[level].info.key: as_batch(source.read(index)),
                }
                found = detect_from_levels(evaluator.detector, changed, hw)
                noisy[level, mse][sample.image_id] = found
    original = evaluator.evaluate(Detections.of(clean)).accuracy.map
    curves = {level: [(0.0, original)] for level in sorted(evaluator.readers)}
    for (level, mse), results in noisy.items():
        figure = evaluator.evaluate(Detections.of(results)).accuracy.map
        curves[level].append((mse, figure))
    return {level: tuple(points) for level, points in curves.items()}


def _group_sensitivities(
    evaluator: SplitEvaluator, settings: SensitivitySettings
) -> dict[int, tuple[GroupSensitivity, ...]]:
    samples = next(iter(evaluator.readers.values())).manifest.samples
    device = next(evaluator.detector.parameters()).device
    indices = list(evaluator.indices)[: settings.num_group_images]
    plans = {
        level: _planned_groups(reader.statistics.variance, settings)
        for level, reader in sorted(evaluator.readers.items())
    }
    changes = {level: np.zeros(len(plan)) for level, plan in plans.items()}
    for index in indices:
        sample = samples[index]
        levels = {key: maps.to(device) for key, maps in evaluator.levels(index, {}).items()}
        hw = (sample.height, sample.width)
        response = HeadResponse(evaluator.detector, levels, hw, settings.num_proposals)
        for level, plan in plans.items():
            reader = evaluator.readers[level]
            every = np.sum([errors for _, _, errors in plan], axis=0)
            noisy = as_batch(NoisyMaps(reader, every, settings.seed).read(index)).to(device)
            for number, (first, size, _) in enumerate(plan):
                maps = levels[reader.info.key].clone()
                maps[:, first : first + size] = noisy[:, first : first + size]
                changes[level][number] += response.change(reader.info.key, maps)
    return {
        level: tuple(
            GroupSensitivity(
                first=first, size=size, mse=float(errors.mean()), change=change / len(indices)
            )
            for (first, size, errors), change in zip(plan, changes[level].tolist(), strict=True)
        )
        for level, plan in plans.items()
    }


def _planned_groups(
    variance: NDArray[Any], settings: SensitivitySettings
) -> list[tuple[int, int, NDArray[Any]]]:
    """Return each group's first channel, size, and errors [C], zero elsewhere."""
    ends = np.linspace(0, len(variance), min(settings.num_groups, len(variance)) + 1).astype(int)
    total = settings.group_share * float(variance.sum())
    plans = []
    for first, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        errors = np.zeros(len(variance))
        errors[first:end] = water_filled(variance[first:end], total)
        plans.append((first, end - first, errors))
    return plans


def _to_facts(sensitivity: Sensitivity) -> dict[str, Any]:
    return {
        "levels": {str(level): list(points) for level, points in sensitivity.levels.items()},
        "groups": {
            str(level): [asdict(group) for group in groups]
            for level, groups in sensitivity.groups.items()
        },
    }


def _from_facts(facts: Mapping[str, Any]) -> Sensitivity:
    return Sensitivity(
        levels={
            int(level): tuple((mse, figure) for mse, figure in points)
            for level, points in facts["levels"].items()
        },
        groups={
            int(level): tuple(GroupSensitivity(**group) for group in groups)
            for level, groups in facts["groups"].items()
        },
    )
