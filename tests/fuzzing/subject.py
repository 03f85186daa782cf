"""What is known of a kind of file that is to be altered: whole ones, and how we read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.altered_bytes import altered_bytes
from tests.fuzzing.altered_values import Path as Place
from tests.fuzzing.altered_values import altered_values, places_in


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A file in its place, among whatever else is needed to read it."""

    path: Path
    whole: Sequence[bytes]
    """Whole files, as our own writers make them."""
    read: Callable[[], object]
    """Read what lies at `path` as commands do, and believe it as they do."""
    sealed: Callable[[bytes], bytes] | None = None
    """Body of a file -> the file, with the right checksum: for who is no accident."""
    body: Callable[[bytes], bytes] = bytes
    """Inverse of `sealed`."""
    contents: Sequence[Any] = ()
    """What whole files say, in nested lists and dicts."""
    rendered: Callable[[Any], bytes] | None = None
    """A file that says something."""
    odd_values: tuple[Any, ...] = ()
    """Beside the usual ones."""

    @cached_property
    def _places(self) -> list[list[Place]]:
        return [list(places_in(content)) for content in self.contents]

    def altered(self) -> st.SearchStrategy[bytes]:
        """Files that are damaged, forged byte by byte, or written by somebody who knows how."""
        ways: list[st.SearchStrategy[bytes]] = [altered_bytes(data) for data in self.whole]
        if self.sealed is not None:
            forged = [altered_bytes(self.body(data)).map(self.sealed) for data in self.whole]
            ways += forged * 2  # what has the wrong checksum gets no further
        if self.rendered is not None:
            for content, places in zip(self.contents, self._places, strict=True):
                ways += [altered_values(content, places, self.odd_values).map(self._written)] * 2
        return st.one_of(ways)

    def _written(self, content: Any) -> bytes:
        """A file that says something, or as much of it as the format can say."""
        assert self.rendered is not None
        try:
            return self.rendered(content)
        except Exception:
            return repr(content).encode(errors="surrogatepass")
