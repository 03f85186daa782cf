"""Which units a worker gets next: many at first, so that it is never short of images, then few."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from configs.errors import MachineError
from data.cache.plan import Unit
from data.system.ray_tasks import MOST_DEATHS

_MOST_IMAGES = 256  # by then a worker's start into a package is forgotten; so many may be lost


class Dealer:
    """The units that nobody has. What is dealt is to be given back if it comes to nothing."""

    def __init__(self, units: Sequence[Unit], *, num_workers: int) -> None:
        self._units = deque(units)
        self._num_workers = num_workers
        self._deaths: Counter[int] = Counter()

    def deal(self) -> list[Unit]:
        """Return a worker's next units, in order: half of its share of the images; [] if none."""
        num_images = sum(unit.num_rows for unit in self._units)
        wanted = min(_MOST_IMAGES, num_images // (2 * self._num_workers))
        units: list[Unit] = []
        while self._units and (not units or wanted >= self._units[0].num_rows):
            units.append(self._units.popleft())
            wanted -= units[-1].num_rows
        return units

    def give_back(self, units: Iterable[Unit]) -> None:
        """Take back what is not whole; it is the next to be dealt."""
        self._units.extendleft(reversed(list(units)))

    def give_back_of_dead(self, units: Iterable[Unit], reason: str) -> None:
        """As `give_back`; raises MachineError for a unit over which many workers have died."""
        lost = list(units)
        self._deaths.update(unit.index for unit in lost)
        for unit in lost:
            if self._deaths[unit.index] >= MOST_DEATHS:
                raise MachineError(
                    f"{MOST_DEATHS} workers died over unit {unit.index}, the last of this: "
                    f"{reason}: if memory is short, give each more cores (--ray-cpus) or fewer "
                    "images at once (--batch-size), and run the same command again"
                )
        self.give_back(lost)
