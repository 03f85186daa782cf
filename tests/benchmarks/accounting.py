"""What the kernel says about this process: bytes read, memory; and how to make files cold."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class BytesRead:
    """Bytes that this process read: `from_disk` fetched by the kernel, `by_calls` through read().

    Pages of a mapped file count as the first only, reads from the page cache as the second only.
    """

    from_disk: int
    by_calls: int

    @classmethod
    def until_now(cls) -> BytesRead:
        """Read the counters of /proc/self/io."""
        fields = _fields(Path("/proc/self/io"))
        return cls(from_disk=int(fields["read_bytes"]), by_calls=int(fields["rchar"]))

    def since(self, earlier: BytesRead) -> BytesRead:
        """Return what was read after an earlier moment."""
        return BytesRead(
            from_disk=self.from_disk - earlier.from_disk, by_calls=self.by_calls - earlier.by_calls
        )

    @property
    def larger(self) -> int:
        """The larger of both counts: a byte that came from the disk by read() is in each."""
        return max(self.from_disk, self.by_calls)


def anonymous_bytes() -> int:
    """Return this process's own memory in bytes; pages of mapped files are the kernel's cache."""
    return int(_fields(Path("/proc/self/status"))["RssAnon"].split()[0]) * 1024


def evict(paths: Iterable[Path]) -> None:
    """Drop files from the page cache. No privileges are needed, and no other file suffers."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # only clean pages can be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def files_below(folder: Path) -> list[Path]:
    """Return every file of a folder, at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def in_fresh_process(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function of a module in a new interpreter, whose counters nothing else has moved."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _fields(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
