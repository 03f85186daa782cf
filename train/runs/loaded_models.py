"""The trained models that a command works with: made by the command, and handed on."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from configs.errors import ConfigError
from configs.trusted_code import Trust
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import BEST_NAME, RunInfo, read_checkpoint, ready_to_code


class LoadedModels:
    """Best models by run folder; a checkpoint is read when first asked for, and then held.

    Facts are held for good, weights while all that are held take at most `most_bytes` (a level's
    take 10 to 45 MB); then the longest unused go, and are read again if they are asked for.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        fast_cpu: str | None = None,
        trust_code: Trust = False,
        most_bytes: int = 1024 * 2**20,
    ) -> None:
        """Take the device on which codecs are to work; nothing is read yet.

        `fast_cpu`: as `model.fast_cpu`; None: as each run's own configuration says. `trust_code`:
        as of `load_codec`.
        """
        self.device = str(device)
        self.fast_cpu = fast_cpu
        self._trust_code = trust_code
        self._most_bytes = most_bytes
        self._infos: dict[Path, RunInfo] = {}
        self._codecs: dict[Path, LevelCodec] = {}
        """On the CPU, as they were stored; the longest unused first."""

    def info(self, run: str | Path) -> RunInfo:
        """Return what is known of a run; ConfigError if its checkpoint is missing or damaged."""
        key = Path(run).resolve()
        if key not in self._infos:
            self._stored(Path(run))
        return self._infos[key]

    def is_layer_by_layer(self, run: str | Path) -> bool:
        """Say whether a run's transforms never take the fast way on a CPU."""
        return (self.fast_cpu or self.info(run).config.model.fast_cpu) == "never"

    def codec(self, run: str | Path, *, level: int | None = None) -> LevelCodec:
        """Return a run's codec, ready to code: one for each call, which is the caller's own.

        What it prepares to be fast takes several times the room of its weights, and goes with it.
        `level` chooses the standardisation of a codec that serves several. Raises ConfigError as
        above, or if it does not serve that level.
        """
        codec = copy.deepcopy(self._stored(Path(run)))
        codec.layer_by_layer = self.is_layer_by_layer(run)
        if level is not None:
            codec.use_level(self.info(run).row_of(level, Path(run) / BEST_NAME))
        return ready_to_code(codec, self.device)

    def _stored(self, run: Path) -> LevelCodec:
        key = run.resolve()
        if key in self._codecs:
            codec = self._codecs.pop(key)
        else:
            codec, info = read_checkpoint(run / BEST_NAME, self._trust_code)
            if self._infos.setdefault(key, info).model_sha256 != info.model_sha256:
                raise ConfigError(
                    f"{run}: its best model is another one than a moment ago: wait until the run "
                    "is finished, and run the same command again"
                )
        self._codecs[key] = codec  # now the last to go
        while len(self._codecs) > 1 and sum(map(_num_bytes, self._codecs.values())) > (
            self._most_bytes
        ):
            del self._codecs[next(iter(self._codecs))]
        return codec


def _num_bytes(codec: LevelCodec) -> int:
    return sum(each.numel() * each.element_size() for each in codec.state_dict().values())
