"""Each unit is dealt once, unless who had it died; one that kills its workers ends the run."""

from __future__ import annotations

import pytest

from configs.errors import MachineError
from data.cache.plan import Unit
from extract.cluster.dealing import Dealer

UNITS = [Unit(index=n, bucket=0, first_row=3 * n, num_rows=3) for n in range(40)]


def test_packages_are_of_whole_units_in_order_and_shrink_to_single_ones() -> None:
    dealer, packages = Dealer(UNITS, num_workers=2), []
    while units := dealer.deal():
        packages.append(units)
    assert [unit for units in packages for unit in units] == UNITS
    sizes = [len(units) for units in packages]
    assert sizes[0] == 10
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2:] == [1, 1]


def test_a_package_is_no_longer_than_what_may_be_lost() -> None:
    many = [Unit(index=n, bucket=0, first_row=n, num_rows=1) for n in range(10_000)]
    assert len(Dealer(many, num_workers=1).deal()) == 256


def test_units_of_the_dead_are_the_next_to_be_dealt() -> None:
    dealer = Dealer(UNITS, num_workers=2)
    first = dealer.deal()
    dealer.give_back_of_dead(first[4:], "killed")
    assert dealer.deal()[:6] == first[4:]


def test_a_unit_that_kills_its_workers_ends_the_run_in_one_line() -> None:
    dealer = Dealer(UNITS[:1], num_workers=2)
    for _ in range(4):
        dealer.give_back_of_dead(dealer.deal(), "out of memory")
    with pytest.raises(MachineError, match=r"^5 workers died over unit 0, the last of this: out"):
        dealer.give_back_of_dead(dealer.deal(), "out of memory")
