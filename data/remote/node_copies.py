"""Copies of what lies at URLs on a node of a cluster: each node makes its own, at the same path.

Nodes of one machine share them, as its processes do.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.errors import UserError
from configs.options import FeaturesPlace
from data.places.local_copies import LocalCopies, copies_in
from data.places.object_store import is_url
from data.places.store_access import store_variables, take_store_variables
from data.remote.opening import features_root


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeCopies:
    """What a command tells its tasks of them."""

    copies: LocalCopies
    features: FeaturesPlace
    splits: tuple[str, ...]
    variables: Mapping[str, str] = field(repr=False)
    """As of `store_variables`, of the command's machine."""

    @classmethod
    def of_command(cls, features: FeaturesPlace, splits: Sequence[str]) -> NodeCopies:
        """Take where the command has its own; a home may be another folder on another machine."""
        folder = copies_in(features.local_cache).folder.absolute()
        return cls(
            copies=LocalCopies(folder), features=replace(features, local_cache=str(folder)),
            splits=tuple(splits), variables=store_variables(),
        )  # fmt: skip

    def open(self) -> None:
        """Be able to ask the store from here, and open the caches if they are there.

        Raises as `features_root`.
        """
        take_store_variables(self.variables)
        if self.features.given is not None and is_url(self.features.given):
            features_root(self.features, Path(), self.splits)


@contextmanager
def naming_node() -> Iterator[None]:
    """Let the line of an error name this machine: its disk and its credentials are its own."""
    try:
        yield
    except UserError as error:
        error.args = (on_this_node(str(error)),)
        raise


def on_this_node(text: str) -> str:
    """Return a line for the user with the name of this machine."""
    return f"{text} (on node {socket.gethostname()})"
