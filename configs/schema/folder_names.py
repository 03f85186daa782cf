"""Names that become folders: of data sets and splits, in settings, on command lines, in files."""

from __future__ import annotations

_LONGEST_NAME_BYTES = 255


def path_component(name: str) -> str:
    """Return a name that is one component of a path; ValueError for any other.

    Whoever wrote it: joined to a folder, it stays in that folder.
    """
    is_one = name not in ("", ".", "..") and name.isprintable() and not set(name) & {"/", "\\"}
    # What is printable has no lone surrogates, and so can be encoded.
    if not is_one or len(name.encode()) > _LONGEST_NAME_BYTES:
        raise ValueError("a folder gets this name: write a short one, without '/' and not '..'")
    return name
