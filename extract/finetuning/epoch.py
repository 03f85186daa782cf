"""One epoch of fine-tuning: images and boxes to learn from, and steps that may be left between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from configs.errors import ConfigError
from configs.log_setup import bar_interval_s
from configs.schema.training import DetectorTrainingConfig
from data.images.image_sets import read_planned_image
from data.images.records import ImageRecord, ImageSet


class DetectionDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images float32 [3, H, W] in 0..1; boxes [N, 4] xyxy px, contiguous labels [N] from 1."""

    def __init__(self, images: ImageSet, *, flip: bool) -> None:
        self._labels = {category: i for i, category in enumerate(sorted(images.categories), 1)}
        self._records = [record for record in images.records if len(_kept(record)[0])]
        self._flip = flip

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        record = self._records[index]
        image = _as_floats(read_planned_image(record.file, (record.height, record.width)))
        boxes_array, categories = _kept(record)
        boxes = torch.from_numpy(boxes_array.copy()).float()
        labels = torch.tensor([self._labels[int(c)] for c in categories], dtype=torch.int64)
        if self._flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": labels}


def drop_slivers(_transform: Any, _inputs: Any, output: tuple[Any, Any]) -> tuple[Any, Any]:
    """Forward hook of a detector's transform: leave out boxes that it leaves without area.

    In float32 a thin box may lose its width as it is mirrored or resized, and torchvision's
    detectors end on such a one.
    """
    images, targets = output
    if targets is None:
        return output
    return images, [_with_area(target) for target in targets]


def _with_area(target: dict[str, Tensor]) -> dict[str, Tensor]:
    boxes = target["boxes"]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {name: values[keep] for name, values in target.items()}


def _as_floats(image: Any) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float().div_(255)


def _kept(record: ImageRecord) -> tuple[Any, Any]:
    """Boxes and categories to learn from: no crowds, no boxes without area."""
    boxes = record.boxes_xyxy
    keep = ~record.ignored & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[keep], record.category_ids[keep]


@dataclass(kw_only=True, slots=True)
class EpochProgress:
    """How far an epoch is, beside the weights and the optimizer's state; plain, for a checkpoint.

    `random` are the states of the random numbers, by device; with `num_workers` the flips of what
    is left of an epoch are drawn anew, as each worker has numbers of its own.
    """

    num_steps: int = 0
    is_done: bool = False
    total_loss: float = 0.0
    warmup: dict[str, Any] | None = None
    random: dict[str, Any] = field(default_factory=dict)


def train_epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    dataset: DetectionDataset,
    settings: DetectorTrainingConfig,
    *,
    number: int,
    progress: EpochProgress,
    between_steps: Callable[[], None],
) -> float:
    """Learn once from every image of which `progress` has not; return the epoch's mean loss.

    `number` counts from 0. `progress` is up to date whenever `between_steps` is called, after each
    step but the last. Raises ConfigError if the loss is not finite.
    """
    device = next(model.parameters()).device
    label = f"epoch {number + 1}"
    # One generator per epoch: a resumed run sees the order that the uninterrupted one sees.
    torch.manual_seed(settings.seed * 1000 + number)
    is_cut = len(dataset) >= settings.batch_size  # else there would be no batch at all
    batches = list(BatchSampler(RandomSampler(dataset), settings.batch_size, is_cut))
    loader = DataLoader(
        dataset,
        batch_sampler=batches[progress.num_steps :],
        num_workers=settings.num_workers,
        collate_fn=_collate,
    )
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    num_warmup = settings.warmup_steps if number == 0 else 0
    warmup = _warmup(optimizer, min(num_warmup, len(batches) - 1), progress.warmup)
    upcoming = iter(loader)  # draws from the generator
    _restore_random(progress.random, device)
    bar = tqdm(
        upcoming, desc=label, unit="step", leave=False, mininterval=bar_interval_s(),
        initial=progress.num_steps, total=len(batches),
    )  # fmt: skip
    for images, targets in bar:
        losses = model(
            [image.to(device) for image in images],
            [{key: value.to(device) for key, value in target.items()} for target in targets],
        )
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise ConfigError(
                f"train-detector: the loss became {loss.item()} in {label}: "
                "lower detector_training.learning_rate or check the boxes"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if warmup is not None:
            warmup.step()
            progress.warmup = warmup.state_dict()
        progress.num_steps += 1
        progress.total_loss += loss.item()
        progress.random = _random_states(device)
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if progress.num_steps < len(batches):
            between_steps()
    progress.is_done = True
    return progress.total_loss / len(batches)


def _warmup(
    optimizer: torch.optim.Optimizer, num_steps: int, state: dict[str, Any] | None
) -> torch.optim.lr_scheduler.LinearLR | None:
    if num_steps < 1:
        return None
    rates = [group["lr"] for group in optimizer.param_groups]
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=num_steps)
    if state is not None:
        warmup.load_state_dict(state)
        # To make a schedule sets the rates of its beginning.
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    return warmup


def _random_states(device: torch.device) -> dict[str, Any]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random(states: dict[str, Any], device: torch.device) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def _collate(batch: list[Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*batch, strict=True))
