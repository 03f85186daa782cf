"""The store of one start of processes, out of the one that torchrun keeps over all its restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import uuid4

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from configs.errors import UserError

_POLL_S = 0.02
_PATIENCE_S = 600.0


def store_of_this_start(store: Store, rank: int, size: int) -> Store:
    """Return the part of a store that the ranks of this start share, and none of an earlier one.

    torchrun's agents hand the same store to the processes that they restart
    (github.com/pytorch/pytorch/issues/135712): these would look for each other where those of
    before were, which are dead. The number of restarts does not tell starts apart, as each agent
    counts its own. So rank 0 names the start, and tells the name to every rank that asks for it
    under a name of its own; what a rank of before has asked is answered, too, and read by nobody.
    Raises UserError if a rank is missing for ten minutes.
    """
    mine = uuid4().hex
    if rank == 0:
        answered: dict[int, bytes] = {}

        def all_are_there() -> bool:
            for other in range(1, size):
                if not store.check([f"asks/{other}"]):
                    continue
                name = store.get(f"asks/{other}")
                if answered.get(other) != name:
                    store.set(name.decode(), mine)
                    answered[other] = name
            return int(store.add(f"{mine}/there", 0)) == size - 1

        _wait_for(all_are_there)
        return PrefixStore(mine, store)
    store.set(f"asks/{rank}", mine)
    _wait_for(lambda: store.check([mine]))
    start = store.get(mine).decode()
    store.add(f"{start}/there", 1)
    return PrefixStore(start, store)


def _wait_for(condition: Callable[[], bool]) -> None:
    """Ask again and again: a wait inside of the store would hear no signal."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(
                "torchrun: the processes of this training have not found each other: see whether "
                "one has ended, and start it again"
            )
        time.sleep(_POLL_S)
