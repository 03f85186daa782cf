"""Fine-tune an FPN detector on a data set: torchvision's own recipe, best and last checkpoints.

SGD with linear warm-up and step decay, horizontal flips, batch norms frozen, mAP every epoch.
"""

from __future__ import annotations

import io
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import ConfigError, MachineError, PassingError, StoppedError, UserError
from configs.given_files import regular
from configs.own_code import is_own
from configs.schema.data import DetectorConfig
from configs.schema.training import DetectorTrainingConfig
from data.images.records import ImageSet
from data.system.atomic_files import remove_leftovers, write_atomically
from data.system.locks import held
from data.system.stop_signals import StopSignals
from extract.detector.builders import build_detector
from extract.detector.honest_size import refuse_expanded, refuse_inflating
from extract.detector.loading import load_fitting, set_batch_norm_eps
from extract.detector.pytorch_files import UNREADABLE, first_sentence
from extract.detector.state_dicts import misfit
from extract.detector.weights import read_checkpoint, read_named_weights
from extract.finetuning.epoch import DetectionDataset, EpochProgress, drop_slivers, train_epoch

log = logging.getLogger(__name__)

Evaluate = Callable[[Any, tuple[str, ...]], dict[str, float]]


def finetune(
    detector: DetectorConfig,
    train_set: ImageSet,
    settings: DetectorTrainingConfig,
    *,
    evaluate: Evaluate,
    device: str | torch.device = "cpu",
    resume: bool = True,
    boxes: Mapping[str, str] | None = None,
) -> Path:
    """Train and return the path of best_model.pth; goes on from last_model.pth if there is one.

    `evaluate(model, classes)` returns the metrics of the val split; `map` picks the best epoch.
    `boxes` is split -> hash of its boxes, as the last checkpoint then says too. Raises ConfigError
    if the data set has no boxes, or the last checkpoint is of other classes or boxes; StoppedError,
    after the state has been saved, if a signal asks to stop; UserError if another process trains
    there.
    """
    if not train_set.categories:
        raise ConfigError(
            "train-detector: the data set has no boxes: use coco, kitti, voc or scenes"
        )
    classes = tuple(train_set.categories[key] for key in sorted(train_set.categories))
    dataset = DetectionDataset(train_set, flip=settings.horizontal_flip)
    if len(dataset) == 0:
        raise ConfigError("train-detector: no image of the train split has a box")
    with _locked(Path(settings.save_dir)):
        run = _Run(detector, classes, settings, device, boxes or {})
        if resume and run.last_path.is_file():
            run.resume()
        while run.num_epochs < settings.epochs:
            loss = run.train_epoch(dataset)
            metrics = evaluate(run.model.eval(), classes)
            run.close_epoch(metrics)
            log.info("epoch %d: loss %.4f, mAP %.4f", run.num_epochs, loss, metrics["map"])
    return run.best_path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder of the checkpoints, made if need be, for this process."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder / "training.lock"))
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process trains a detector here: wait for it, or choose another "
                "detector_training.save_dir"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{error.filename or folder}: cannot be written or locked ({error.strerror}): "
                "choose another detector_training.save_dir"
            ) from error
        remove_leftovers(folder)
        try:
            yield
        except OSError as error:
            raise MachineError(
                f"{error.filename or folder}: cannot be read or written ({error.strerror}): make "
                "room, or mend the disk; the same command goes on from the last checkpoint"
            ) from error


class _Run:
    """A detector in training, and the folder of its checkpoints."""

    def __init__(
        self,
        detector: DetectorConfig,
        classes: tuple[str, ...],
        settings: DetectorTrainingConfig,
        device: str | torch.device,
        boxes: Mapping[str, str],
    ) -> None:
        self._boxes = dict(boxes)
        self._classes, self._settings, self._device = classes, settings, device
        self._builder = detector.builder
        self.best_path = Path(settings.save_dir) / "best_model.pth"
        self.last_path = Path(settings.save_dir) / "last_model.pth"
        self.num_epochs, self._best_map = 0, -1.0
        self._progress = EpochProgress()
        torch.manual_seed(settings.seed)
        self.model, self._eps = start_model(detector, len(classes) + 1, settings.boxes_per_image)
        self.model.to(device)
        if isinstance(self.model.transform, nn.Module):
            self.model.transform.register_forward_hook(drop_slivers)
        self._optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self._optimizer, settings.lr_steps, gamma=0.1
        )

    def resume(self) -> None:
        """Go on from the last checkpoint; ConfigError if it is of other classes or damaged."""
        last = _read_last(self.last_path, self._device)
        if tuple(last["classes"]) != self._classes:
            raise ConfigError(
                f"{self.last_path}: was trained on classes {last['classes']}, the data set has "
                f"{list(self._classes)}: choose another detector_training.save_dir"
            )
        # Those of earlier versions do not say of which boxes they are.
        for split, hashed in self._boxes.items():
            if last.get("boxes", {}).get(split, hashed) != hashed:
                raise ConfigError(
                    f"{self.last_path}: was trained with other boxes or images of the split "
                    f"{split!r}, which have changed since: run with --fresh (and --detection-"
                    f"checkpoint {self.last_path} to begin from its weights), or choose another "
                    "detector_training.save_dir"
                )
        try:
            self.model.load_state_dict(last["model_state_dict"])
            self._optimizer.load_state_dict(last["optimizer"])
        except (RuntimeError, ValueError) as error:  # other tensors, other parameter groups
            raise ConfigError(
                f"{self.last_path}: is of another detector than detector.builder "
                f"{self._builder!r}: choose another detector_training.save_dir, or run with --fresh"
            ) from error
        self._scheduler.load_state_dict(last["scheduler"])
        self.num_epochs, self._best_map = last["epoch"], last["best_map"]
        begun = last.get("progress")
        if begun is not None:
            self._progress = EpochProgress(**begun)
        step = f", step {self._progress.num_steps} of the next" if begun else ""
        log.info("resuming after epoch %d%s (best mAP %.4f)", self.num_epochs, step, self._best_map)

    def train_epoch(self, dataset: DetectionDataset) -> float:
        """Learn from every image once; return the mean loss. StoppedError if a signal asks."""
        if self._progress.is_done:
            return self._progress.total_loss / self._progress.num_steps
        with StopSignals() as stop:

            def leave() -> None:
                self._save_last()
                number = stop.received or signal.SIGTERM
                raise StoppedError(
                    f"stopped by {signal.Signals(number).name} in epoch {self.num_epochs + 1}, "
                    f"after step {self._progress.num_steps}; saved in {self.last_path}: the same "
                    "command goes on from there",
                    number,
                )

            def between_steps() -> None:
                if stop.received is not None:
                    leave()

            try:
                loss = train_epoch(
                    self.model, self._optimizer, dataset, self._settings,
                    number=self.num_epochs, progress=self._progress, between_steps=between_steps,
                )  # fmt: skip
            except RuntimeError:
                if stop.received is None:
                    raise
                leave()  # the signal came to the processes that load images, too
            self._scheduler.step()
            between_steps()
        # To evaluate takes a while, and may be stopped at once.
        self._save_last()
        return loss

    def close_epoch(self, metrics: dict[str, float]) -> None:
        """Count the epoch, and write the last checkpoint, and the best one if this is it."""
        self.num_epochs += 1
        self._progress = EpochProgress()
        if metrics["map"] > self._best_map:
            self._best_map = metrics["map"]
            state = _as_dtype(self.model.state_dict(), self._settings.save_dtype)
            _save({"model_state_dict": state, **self._common(metrics)}, self.best_path)
        self._save_last(metrics)

    def _save_last(self, metrics: dict[str, float] | None = None) -> None:
        """Write the last checkpoint: of a whole epoch with its metrics, or of one under way."""
        _save(
            {
                "model_state_dict": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scheduler": self._scheduler.state_dict(),
                "epoch": self.num_epochs,
                "best_map": self._best_map,
                "boxes": self._boxes,
                **({"progress": asdict(self._progress)} if metrics is None else {}),
                **self._common(metrics or {}),
            },
            self.last_path,
        )

    def _common(self, metrics: dict[str, float]) -> dict[str, Any]:
        common: dict[str, Any] = {"classes": list(self._classes), **metrics}
        if self._eps is not None:
            common["batch_norm_eps"] = self._eps
        return common


def _read_last(path: Path, device: str | torch.device) -> dict[str, Any]:
    """Return the last checkpoint's content; ConfigError if it is damaged or something else."""
    try:
        data = regular(path).read_bytes()
        refuse_inflating(data)
        last = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        refuse_expanded(last, len(data))
    except OSError as error:  # to begin afresh would destroy what is whole
        raise PassingError.reading(path, error) from error
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
    own_factory = is_own(detector.builder or "") and not (detector.checkpoint or detector.weights)
    if detector.weights != "random" and not own_factory:
        start = (
            read_checkpoint(detector.checkpoint)
            if detector.checkpoint is not None
            else read_named_weights(detector.builder or "", detector.weights or "COCO_V1")
        )
        own = model.state_dict()
        alike = {k: v for k, v in start.state.items() if k not in own or own[k].shape == v.shape}
        shown = f"detector.checkpoint {detector.checkpoint}"
        missing, _ = load_fitting(model, alike, shown)
        absent = [key for key in missing if key.startswith("backbone.")]
        # FPN layers carry the same names and shapes in every detector; the body must fit as well.
        if 2 * len(absent) > sum(key.startswith("backbone.") for key in own):
            raise ConfigError(
                f"{shown}: {len(absent)} tensors of its backbone do not fit detector.builder "
                f"{detector.builder!r}: {misfit(start.state, own)}"
            )
        eps = start.batch_norm_eps
        if eps is not None:
            set_batch_norm_eps(model, eps)
    if hasattr(model, "roi_heads"):
        model.roi_heads.fg_bg_sampler.batch_size_per_image = boxes_per_image
    return model, eps


def _as_dtype(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    target = getattr(torch, dtype)
    return {key: v.to(target) if v.is_floating_point() else v for key, v in state.items()}


def _save(content: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
