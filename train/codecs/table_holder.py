"""The coding tables of a codec's entropy models: made of their weights, and of no others."""

from __future__ import annotations

from typing import Any

from train.codecs.entropy.latent_coder import CodingTables, coding_tables
from train.codecs.layers.origin import Origin
from train.codecs.map_transforms import MapTransforms


class TableHolder(MapTransforms):
    """Holds what real coding needs of the weights, as long as they are the same weights."""

    _tables: dict[str, tuple[Origin, CodingTables]] | None = None

    def update_tables(self) -> None:
        """Compute what real coding needs of the weights: quantiles, CDF tables, fast transforms.

        Call it again after every change of the weights. Forward, too, uses the new medians. Raises
        ConfigError for an entropy model that brings no tables.
        """
        made = [(name, module, coding_tables(module)) for name, module in self.named_modules()]
        self._tables = {
            name: (Origin(module), tables) for name, module, tables in made if tables is not None
        }
        self.hold_weights()

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        """Load weights; tables for coding have to be made anew."""
        self._tables = None
        return super().load_state_dict(state_dict, strict=strict)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        sound = {name: each for name, each in (self._tables or {}).items() if self._has(name)}
        applied = super()._apply(*args, **kwargs)
        for name, (origin, tables) in sound.items():
            module = self.get_submodule(name)
            if self._tables is not None and origin.has_values_of(module):  # they only moved
                self._tables[name] = Origin(module), tables
        return applied

    def tables(self, name: str) -> CodingTables:
        """Return the tables of the entropy model that is the codec's attribute `name`.

        Raises RuntimeError if `update_tables` has not been called since its weights changed.
        """
        if self._tables is None:
            raise RuntimeError("LevelCodec: call update_tables() before compress or decompress")
        if not self._has(name):
            raise RuntimeError(
                f"LevelCodec: the weights of {name} have changed: call update_tables() again, "
                "and decode with these weights"
            )
        return self._tables[name][1]

    def _has(self, name: str) -> bool:
        """Whether the tables of an entropy model are those of its weights."""
        return self._tables is not None and self._tables[name][0].is_still(self.get_submodule(name))
