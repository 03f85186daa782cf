"""When and what a run saves: often enough to lose little, seldom enough to cost nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.schema.config import Config
from train.loop.session import Session
from train.machine.distributed import World
from train.runs.checkpoint import Provenance, encode_checkpoint, save_best, save_last
from train.runs.run_record import RunRecord


class Saver:
    """Writes best_model.pth, last_model.pth and run.json of one run, on the rank that writes."""

    def __init__(
        self, folder: Path, session: Session, config: Config, record: RunRecord,
        levels: tuple[int, ...], world: World,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._session = session
        self._config = config
        self._record = record
        self._levels = levels
        self._world = world
        self._best: dict[str, Tensor] | None = None
        self._started = time.monotonic()
        self._seconds_before = session.progress.seconds
        self._saved = self._started

    def note_best(self) -> None:
        """Keep the weights as they are now: they are the best so far."""
        if self._world.writes:
            state = self._session.codec.state_dict()
            self._best = {name: value.detach().cpu().clone() for name, value in state.items()}

    @property
    def is_due(self) -> bool:
        """Whether the last save was a while ago."""
        return time.monotonic() - self._saved >= self._config.training.save_interval_s

    def save_if_due(self) -> None:
        """Save unless that was done a short while ago."""
        if self.is_due:
            self.save()

    def save(self) -> None:
        """Write everything; a crash in between leaves what was there, or a newer best model."""
        if not self._world.writes:
            return
        progress, record = self._session.progress, self._record
        progress.seconds = self._seconds_before + time.monotonic() - self._started
        if self._best is not None:
            assert progress.best is not None, "the best epoch is noted with its weights"
            save_best(self.folder, self._encode(self._best, epoch=progress.best["epoch"]))
            self._best = None
        state = self._session.state()
        save_last(
            self.folder,
            self._encode(
                self._session.codec.state_dict(), epoch=progress.epoch - 1, training_state=state
            ),
        )
        record.seconds = progress.seconds
        record.samples_per_s = progress.num_samples / max(progress.seconds, 1e-9)
        record.epochs = progress.epoch - 1
        record.save(self.folder)
        self._saved = time.monotonic()

    def _encode(self, model_state: dict[str, Any], **more: Any) -> bytes:
        return encode_checkpoint(
            model_state,
            self._config,
            Provenance(
                cache_fingerprint=self._record.cache_fingerprints["train"],
                detector_weights_sha256=self._record.detector_weights_sha256,
                versions=self._record.versions,
                context=tuple(each["model_sha256"] for each in self._record.context),
            ),
            levels=self._levels,
            best_validation_loss=self._session.progress.best_loss,
            **more,
        )
