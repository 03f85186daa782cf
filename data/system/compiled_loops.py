"""Loops that Numba compiles, and keeps compiled from one process to the next where it can.

Numba looks at the file of the function alone, so it would go on running a formula of another file
as that was before an edit. Here each state of all our sources, of the compiler and of its settings
has a folder of its own, in the user's cache folder or in NUMBA_CACHE_DIR: the package may be
installed where nobody may write.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from configs.doors import PACKAGES

_PROJECT = Path(__file__).resolve().parents[2]
_MOST_UNUSED_S = 30 * 24 * 3600
_while_numba_looks = threading.Lock()


def user_cache() -> Path:
    """Return the user's cache folder; raises RuntimeError for a user without a home."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return `function` compiled when first called, to run without the GIL; options are njit's."""
    # Importing Numba takes longer than many a command that needs none of its loops.
    from numba import config, njit

    settings: Any = config
    folder = _folder()
    # Edited since they were imported, the sources are not those that are compiled.
    if folder is None or _stamps() != _stamps_at_start:
        plain: Callable[..., Any] = njit(nogil=True, **options)(function)
        return plain
    with _while_numba_looks:
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
        try:
            kept: Any = njit(nogil=True, cache=True, **options)(function)
            _keep_where_there_is_room(kept)
        except RuntimeError:  # a function of no file
            kept = njit(nogil=True, **options)(function)
        finally:
            settings.CACHE_DIR = before
    return kept  # type: ignore[no-any-return]


def _keep_where_there_is_room(loop: Any) -> None:
    """Let a loop run, too, whose compiled form a full disk cannot take."""
    if not hasattr(loop, "_cache"):  # NUMBA_DISABLE_JIT
        return
    save = loop._cache.save_overload

    def save_if_possible(*what: Any) -> None:
        with suppress(OSError):
            save(*what)

    loop._cache.save_overload = save_if_possible


@cache
def _folder() -> Path | None:
    """Return where the compiled forms of these very sources are kept; None if nowhere can be."""
    from numba import config

    settings: Any = config
    if getattr(config, "CACHE_LOCATOR_CLASSES", ""):
        return None  # the user has them kept elsewhere, and not by all that they depend on
    try:
        folder = Path(settings.CACHE_DIR or user_cache(), "fpn-feature-codecs", "compiled", _key())
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
    except (OSError, RuntimeError):  # cannot be written; a user without a home
        return None
    if is_new:
        _forget_unused(folder.parent)
    return folder


def _key() -> str:
    """Return a name for all that the compiled depends on, but the processor: that is Numba's."""
    import llvmlite
    import numba
    import numpy as np

    versions = [sys.version, numba.__version__, llvmlite.__version__, np.__version__]
    settings = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR"
    )
    key = hashlib.sha256(repr((versions, settings)).encode())
    for path in _sources():
        content = path.read_bytes()
        key.update(f"{path.relative_to(_PROJECT)} {len(content)}\n".encode())
        key.update(content)
    return key.hexdigest()[:32]


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted(_PROJECT.joinpath(package).rglob("*.py"))


def _stamps() -> list[tuple[str, int, int]]:
    """Return what changes with any source, without reading them."""
    try:
        files = [(path, path.stat()) for path in _sources()]
    except FileNotFoundError:  # just being replaced
        return []
    return [(str(path), stat.st_mtime_ns, stat.st_size) for path, stat in files]


def _forget_unused(folder: Path) -> None:
    """Remove what was kept for sources that nothing has run for a month."""
    for each in folder.iterdir():
        try:
            if time.time() - each.stat().st_mtime > _MOST_UNUSED_S:
                shutil.rmtree(each)
        except OSError:  # another process was faster
            continue


_stamps_at_start = _stamps()
