"""The processes that train one model together (torchrun), and what they tell each other."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from configs.errors import ConfigError, UserError
from train.codecs.level_codec import LevelCodec
from train.machine.own_store import store_of_this_start

Value = TypeVar("Value")

_LOST_PEER = ("Connection closed by peer", "Connection reset by peer")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process is `rank` of `size`; only rank 0 writes."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors, which have one shape."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return on every rank what `make` returns on rank 0, the only one that calls it.

        A UserError that it raises is raised on every rank: one that went on alone would wait for
        the others, or be answered by what they ask next.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.writes:
            try:
                box[0] = make()
            except UserError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        _raise(box[1:])
        value: Value = box[0]
        return value

    def together(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns, which every rank calls, and which asks nothing of the others.

        A UserError that it raises on any rank is raised on all.
        """
        if self.size == 1:
            return make()
        made: list[Value] = []
        error: UserError | None = None
        try:
            made.append(make())
        except UserError as raised:
            error = raised
        errors: list[UserError | None] = [None] * self.size
        dist.all_gather_object(errors, error)
        _raise(errors)
        return made[0]

    def any(self, flag: bool, device: str) -> bool:
        """Say whether the flag is set on any rank; every rank has to ask."""
        if self.size == 1:
            return flag
        return bool(self.add_up(torch.tensor(float(flag), device=device)) > 0)

    def wrap(self, codec: LevelCodec) -> nn.Module:
        """Return a model whose backward pass averages the gradients over the ranks."""
        if self.size == 1:
            return codec
        # Each rank learns the quantiles by itself, from the same parameters: nothing to average.
        ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        quantiles = {id(parameter) for parameter in codec.aux_parameters()}
        names = [name for name, each in codec.named_parameters() if id(each) in quantiles]
        ignore(codec, names)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(codec, broadcast_buffers=False)


ALONE = World()


def _raise(errors: Iterable[UserError | None]) -> None:
    """Raise the first error, if there is one; every rank has to have the same."""
    for error in errors:
        if error is not None:
            error.met_by_all = True
            raise error


@contextmanager
def open_world(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that torchrun started, if it did; yield the world and the device to use.

    On GPUs rank r of a machine computes on its r-th one.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE, device
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if device.startswith("cuda"):
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun: local rank {local_rank}, but this machine has "
                f"{torch.cuda.device_count()} GPUs: use a smaller --nproc-per-node, or --device cpu"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    _join("nccl" if device.startswith("cuda") else "gloo", size)
    try:
        yield World(rank=dist.get_rank(), size=size), device
    except BaseException as error:
        if dist.get_backend() == "nccl":
            # To take it down takes all ranks, and the others wait for this one somewhere else.
            atexit.register(_leave_at_once, getattr(error, "exit_code", 1))
        else:
            dist.destroy_process_group()
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_PEER):
            raise UserError(
                "torchrun: another process of this training has ended: its line says why"
            ) from error
        raise
    dist.destroy_process_group()


def most_restarts() -> int:
    """Return how often torchrun may start this training again (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def _join(backend: str, size: int) -> None:
    """Make the group of all processes."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend)
        return
    # The agents' own, which outlives the processes.
    store, rank, _ = next(rendezvous("env://"))
    own = store_of_this_start(store, rank, size)
    dist.init_process_group(backend, store=own, rank=rank, world_size=size)


def _leave_at_once(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
