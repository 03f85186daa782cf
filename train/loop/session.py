"""All that changes while a run trains: weights, optimisers, schedule, position, random numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema.config import Config
from configs.schema.training import TrainingConfig
from data.reading.level_stream import Batch
from train.codecs.level_codec import LevelCodec
from train.context.beside import as_read
from train.loop.feeding import BatchStream
from train.machine.cuda_graphs import StepGraphs
from train.objective.catalogue import asks_detector

log = logging.getLogger(__name__)

NUM_SUMS = 5
"""Loss, MSE, BPP, auxiliary loss and gradient norm, summed over an epoch's steps."""


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands. `step` counts the steps done in `epoch`, which is the one under way."""

    epoch: int = 1
    step: int = 0
    epoch_seconds: float = 0.0
    epoch_waited: float = 0.0
    seconds: float = 0.0
    """Wall time of all epochs before, validation and checkpoints included."""
    num_samples: int = 0
    best_loss: float = math.inf
    best: dict[str, Any] | None = None
    """Row of metrics.csv of the best epoch."""
    progress_loss: float = math.inf
    """Loss from which early stopping asks for a fall of min_delta."""
    stale: int = 0
    """Validations since that loss."""
    collapsed: list[int] = field(default_factory=list)
    """Levels whose rate has fallen to zero, of which the user is told once."""


@dataclass(kw_only=True)
class Session:
    """A run in memory; `state` and `restore` are exact: what follows is the same to the bit."""

    codec: LevelCodec
    model: nn.Module
    """The codec, or what lets several processes train it."""
    stream: BatchStream
    optimizer: torch.optim.Optimizer
    aux_optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    device: str
    sums: Tensor
    progress: Progress = field(default_factory=Progress)
    graphs: StepGraphs | None = None
    """Where steps are recorded as CUDA graphs."""
    in_context: Callable[[Batch], Batch] = as_read
    """Gives each batch of the stream what the codec sees of coarser levels."""

    @property
    def epoch_is_trained(self) -> bool:
        """Whether the epoch under way only has to be validated: its stream is in the next one."""
        return int(self.stream.state_dict()["epoch"]) >= self.progress.epoch

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, besides the codec's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "aux_optimizer": self.aux_optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stream": self.stream.state_dict(),
            "progress": asdict(self.progress),
            "sums": self.sums,
            "random": _random_state(self.device),
        }

    def restore(self, model_state: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from a state; the settings have to be those of the run that it is of.

        The number of epochs may be another: a cosine then goes on as the new number has it.
        """
        self.codec.load_state_dict(model_state)
        if self.graphs is not None:
            self.graphs.forget()  # they would go on with the optimisers' tensors of before
        self.optimizer.load_state_dict(state["optimizer"])
        self.aux_optimizer.load_state_dict(state["aux_optimizer"])
        known = self.scheduler.state_dict()  # it would take any name, those of its methods too
        self.scheduler.load_state_dict({k: v for k, v in state["scheduler"].items() if k in known})
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LambdaLR):
            # As the last step of the schedule set it, to the bit, unless the epochs are others.
            factors = [factor(self.scheduler.last_epoch) for factor in self.scheduler.lr_lambdas]
            rates = zip(self.scheduler.base_lrs, factors, strict=True)
            for group, (rate, factor) in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        self.stream.load_state_dict(state["stream"])
        self.progress = Progress(**state["progress"])
        self.sums.copy_(state["sums"])
        _set_random_state(state["random"], self.device)


def new_session(
    codec: LevelCodec,
    model: nn.Module,
    stream: BatchStream,
    config: Config,
    device: str,
    in_context: Callable[[Batch], Batch] = as_read,
) -> Session:
    """Return a run at its beginning."""
    optimizer, aux_optimizer = make_optimizers(codec, config)
    # What several processes exchange and detectors cannot be recorded.
    settings = config.training
    graphs = model is codec and settings.cuda_graphs and device.startswith("cuda")
    if graphs and asks_detector(settings):
        log.info("steps are not recorded as CUDA graphs: they ask the detector's heads")
        graphs = False
    return Session(
        codec=codec,
        model=model,
        stream=stream,
        optimizer=optimizer,
        aux_optimizer=aux_optimizer,
        scheduler=_make_scheduler(optimizer, config),
        device=device,
        sums=torch.zeros(NUM_SUMS, device=device),
        in_context=in_context,
        graphs=StepGraphs([optimizer, aux_optimizer]) if graphs else None,
    )


def make_optimizers(
    codec: LevelCodec, config: Config
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return Adam for everything but the quantiles, and the quantiles' own Adam."""
    settings = config.training.optimizer
    quantiles = codec.aux_parameters()
    of_quantiles = {id(parameter) for parameter in quantiles}
    main = [parameter for parameter in codec.parameters() if id(parameter) not in of_quantiles]
    return (
        _adam(main, config.training.learning_rate, settings.betas),
        _adam(quantiles, settings.aux_learning_rate, settings.betas),
    )


def step_scheduler(session: Session, config: Config, val_loss: float | None) -> None:
    """Let the schedule see the end of an epoch; plateau waits for a validation."""
    schedule = config.training.lr_schedule
    if not schedule.enabled:
        return
    if schedule.name == "cosine":
        session.scheduler.step()
    elif val_loss is not None:
        session.scheduler.step(val_loss)  # type: ignore[arg-type]


def _make_scheduler(
    optimizer: torch.optim.Optimizer, config: Config
) -> torch.optim.lr_scheduler.LRScheduler:
    schedule = config.training.lr_schedule
    if schedule.enabled and schedule.name == "cosine":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(config.training))
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=schedule.factor, patience=schedule.patience, min_lr=schedule.min_lr
    )


def _cosine(settings: TrainingConfig) -> Callable[[int], float]:
    """Return the factor of the learning rate in each epoch, counted from 0."""
    warmup = settings.lr_schedule.warmup_epochs
    least = min(1.0, settings.lr_schedule.min_lr / settings.learning_rate)

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        done = min(1.0, (epoch - warmup) / max(1, settings.epochs - warmup))
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def _adam(
    parameters: Sequence[nn.Parameter], learning_rate: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    # As a group, which may be empty: not every codec has quantiles.
    groups = [{"params": list(parameters)}]
    try:
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas, fused=True)
    except RuntimeError:  # this version of torch has no fused Adam for the device
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas)


def _random_state(device: str) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, Tensor], device: str) -> None:
    torch.set_rng_state(states["cpu"])
    if device.startswith("cuda") and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
