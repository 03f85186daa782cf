"""Fine-tune an FPN detector on a data set: torchvision's own recipe, best and last checkpoints.

SGD with linear warm-up and step decay, horizontal flips, batch norms frozen, mAP every epoch.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.errors import ConfigError
from configs.log_setup import bar_interval_s
from configs.schema.data import DetectorConfig
from configs.schema.training import DetectorTrainingConfig
from data.images.image_sets import read_image
from data.images.records import ImageRecord, ImageSet
from data.system.atomic_files import write_atomically
from extract.detector.loading import build_detector, set_batch_norm_eps
from extract.detector.weights import UNREADABLE, first_sentence, read_checkpoint, read_named_weights

log = logging.getLogger(__name__)

Evaluate = Callable[[Any, tuple[str, ...]], dict[str, float]]


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
        image = torch.from_numpy(read_image(record.file)).permute(2, 0, 1).float().div_(255)
        boxes_array, categories = _kept(record)
        boxes = torch.from_numpy(boxes_array.copy()).float()
        labels = torch.tensor([self._labels[int(c)] for c in categories], dtype=torch.int64)
        if self._flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": labels}


def finetune(
    detector: DetectorConfig,
    train_set: ImageSet,
    settings: DetectorTrainingConfig,
    *,
    evaluate: Evaluate,
    device: str = "cpu",
    resume: bool = True,
) -> Path:
    """Train and return the path of best_model.pth; goes on from last_model.pth if there is one.

    `evaluate(model, classes)` returns the metrics of the val split; `map` picks the best epoch.
    Raises ConfigError if the data set has no boxes or the last checkpoint is of other classes.
    """
    if not train_set.categories:
        raise ConfigError(
            "train-detector: the data set has no boxes: use coco, kitti, voc or scenes"
        )
    classes = tuple(train_set.categories[key] for key in sorted(train_set.categories))
    folder = Path(settings.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    model, eps = start_model(detector, len(classes) + 1, settings.boxes_per_image)
    model.to(device)
    dataset = DetectionDataset(train_set, flip=settings.horizontal_flip)
    if len(dataset) == 0:
        raise ConfigError("train-detector: no image of the train split has a box")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, settings.lr_steps, gamma=0.1)
    first_epoch, best = 0, -1.0
    last_path = folder / "last_model.pth"
    if resume and last_path.is_file():
        last = _read_last(last_path, device)
        if tuple(last["classes"]) != classes:
            raise ConfigError(
                f"{last_path}: was trained on classes {last['classes']}, the data set has "
                f"{list(classes)}: choose another detector_training.save_dir"
            )
        try:
            model.load_state_dict(last["model_state_dict"])
            optimizer.load_state_dict(last["optimizer"])
        except (RuntimeError, ValueError) as error:  # other tensors, other parameter groups
            raise ConfigError(
                f"{last_path}: is of another detector than detector.builder {detector.builder!r}: "
                "choose another detector_training.save_dir, or run with --fresh"
            ) from error
        scheduler.load_state_dict(last["scheduler"])
        first_epoch, best = last["epoch"], last["best_map"]
        log.info("resuming after epoch %d (best mAP %.4f)", first_epoch, best)
    for epoch in range(first_epoch, settings.epochs):
        # One generator per epoch: a resumed run sees the order that the uninterrupted one sees.
        torch.manual_seed(settings.seed * 1000 + epoch)
        loader = DataLoader(
            dataset,
            batch_size=settings.batch_size,
            shuffle=True,
            num_workers=settings.num_workers,
            collate_fn=_collate,
            drop_last=len(dataset) >= settings.batch_size,
        )
        warmup = settings.warmup_steps if epoch == 0 else 0
        loss = _train_epoch(model, loader, optimizer, warmup, f"epoch {epoch + 1}", device)
        scheduler.step()
        model.eval()
        metrics = evaluate(model, classes)
        log.info("epoch %d: loss %.4f, mAP %.4f", epoch + 1, loss, metrics["map"])
        common = {"classes": list(classes), **metrics}
        if eps is not None:
            common["batch_norm_eps"] = eps
        if metrics["map"] > best:
            best = metrics["map"]
            state = _as_dtype(model.state_dict(), settings.save_dtype)
            _save({"model_state_dict": state, **common}, folder / "best_model.pth")
        _save(
            {
                "model_state_dict": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "epoch": epoch + 1,
                "best_map": best,
                **common,
            },
            last_path,
        )
    return folder / "best_model.pth"


def _read_last(path: Path, device: str) -> dict[str, Any]:
    """Return the last checkpoint's content; ConfigError if it is damaged or something else."""
    try:
        last = torch.load(path, map_location=device, weights_only=True)
    except UNREADABLE as error:
        raise ConfigError(
            f"{path}: cannot be read ({first_sentence(error)}): run with --fresh"
        ) from error
    wanted = {"model_state_dict", "optimizer", "scheduler", "epoch", "best_map", "classes"}
    if not isinstance(last, dict) or not wanted <= last.keys():
        raise ConfigError(f"{path}: is no checkpoint of train-detector: run with --fresh")
    return last


def start_model(
    detector: DetectorConfig, num_classes: int, boxes_per_image: int
) -> tuple[Any, float | None]:
    """Build the detector for `num_classes`, load all weights that fit; class heads start anew."""
    model = build_detector(detector, num_classes)
    eps: float | None = None
    own_factory = ":" in (detector.builder or "") and not (detector.checkpoint or detector.weights)
    if detector.weights != "random" and not own_factory:
        start = (
            read_checkpoint(detector.checkpoint)
            if detector.checkpoint is not None
            else read_named_weights(detector.builder or "", detector.weights or "COCO_V1")
        )
        own = model.state_dict()
        fitting = {k: v for k, v in start.state.items() if k in own and own[k].shape == v.shape}
        # FPN layers carry the same names and shapes in every detector; the body must fit as well.
        backbone = [key for key in own if key.startswith("backbone.")]
        absent = sum(key not in fitting for key in backbone if "num_batches" not in key)
        if 2 * absent > len(backbone):
            raise ConfigError(
                f"detector.checkpoint {detector.checkpoint}: {absent} tensors of its backbone do "
                f"not fit detector.builder {detector.builder!r}: name the builder it was trained "
                "with"
            )
        model.load_state_dict(fitting, strict=False)
        eps = start.batch_norm_eps
        if eps is not None:
            set_batch_norm_eps(model, eps)
    if hasattr(model, "roi_heads"):
        model.roi_heads.fg_bg_sampler.batch_size_per_image = boxes_per_image
    return model, eps


def _train_epoch(
    model: Any,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    warmup_steps: int,
    label: str,
    device: str,
) -> float:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    warmup = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1e-3, total_iters=min(warmup_steps, len(loader) - 1)
    ) if warmup_steps and len(loader) > 1 else None  # fmt: skip
    total = 0.0
    bar = tqdm(loader, desc=label, unit="step", leave=False, mininterval=bar_interval_s())
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
        total += loss.item()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return total / len(loader)


def _kept(record: ImageRecord) -> tuple[Any, Any]:
    """Boxes and categories to learn from: no crowds, no boxes without area."""
    boxes = record.boxes_xyxy
    keep = ~record.ignored & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[keep], record.category_ids[keep]


def _collate(batch: list[Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*batch, strict=True))


def _as_dtype(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    target = getattr(torch, dtype)
    return {key: v.to(target) if v.is_floating_point() else v for key, v in state.items()}


def _save(content: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
