"""Processes that torchrun has started again find each other, and not those of before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, Store

from configs.errors import UserError
from train.machine.own_store import store_of_this_start


def begin(common: Store, size: int) -> list[Store]:
    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(lambda rank: store_of_this_start(common, rank, size), range(size)))


def test_ranks_of_one_start_share_what_those_of_another_do_not_see() -> None:
    common = HashStore()
    first = begin(common, 3)
    first[0].set("address", "of before")
    again = begin(common, 3)
    assert not any(store.check(["address"]) for store in again)
    again[2].set("address", "of now")
    assert [store.get("address") for store in again] == [b"of now"] * 3
    assert first[1].get("address") == b"of before"


def test_a_rank_that_was_killed_while_it_asked_is_not_waited_for() -> None:
    common = HashStore()
    common.set("asks/1", "a name that nobody waits under")
    stores = begin(common, 2)
    stores[0].set("address", "of now")
    assert stores[1].get("address") == b"of now"


def test_a_rank_that_does_not_come_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.machine.own_store._PATIENCE_S", 0.05)
    with pytest.raises(UserError, match="have not found each other"):
        store_of_this_start(HashStore(), 0, 2)
