"""What may stand for one level of a split when detection is run on it."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class MapSource(Protocol):
    """One level's maps: as cached, decoded, derived from another level, or made up."""

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of the split's sample number `index`, float [H, W, C]."""
