"""What somebody makes of a file who knows its format: lists, dicts and values, one replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Path = tuple[Any, ...]

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53,
    2**62, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30, -(10**30), 10**400, 0.5, -0.0,
    1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), "", " ", "0", "-1", "1e999",
    "nan", "1_0", "0x10", "٣", "..", "../../x", "/etc/passwd", "a/b", "a\0b", "a\nb", "\ud800", "é",
    "x" * 300, "x" * 70_000, "9" * 5000, "zarr", "cpu", [], [[]], [None], [0], {}, {"": None},
    {"0": 0}, [[[[[[]]]]]], [1e308] * 3, "AAAA", "AADAfw==", "//////8=",
)  # fmt: skip


def places_in(content: Any, so_far: Path = ()) -> Iterator[Path]:
    """Yield where each value of nested lists and dicts stands, the outermost left out."""
    entries: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(content, dict):
        entries = iter(content.items())
    elif isinstance(content, list):
        entries = iter(enumerate(content))
    for key, value in entries:
        yield (*so_far, key)
        yield from places_in(value, (*so_far, key))


def copied(content: Any) -> Any:
    """Return new lists and dicts of the same values."""
    if isinstance(content, dict):
        return {key: copied(value) for key, value in content.items()}
    return [copied(each) for each in content] if isinstance(content, list) else content


@st.composite
def altered_values(
    draw: st.DrawFn, content: Any, places: list[Path], more: tuple[Any, ...] = ()
) -> Any:
    """Nested lists and dicts with one to three values replaced, removed, repeated or renamed.

    `places` are those of `places_in`, `more` odd values of this format.
    """
    out = copied(content)
    for _ in range(draw(st.integers(1, 3))):
        *outer, key = draw(st.sampled_from(places))
        inside = _at(out, outer)
        if not _has(inside, key):
            continue  # an earlier change has removed it
        how = draw(st.integers(0, 9))
        if how <= 3:
            inside[key] = draw(st.sampled_from(_ODD + more))
        elif how <= 5:
            inside[key] = draw(st.sampled_from(_near(inside[key])))
        elif how == 6:
            *other, name = draw(st.sampled_from(places))
            if _has(_at(out, other), name):
                inside[key] = copied(_at(out, other)[name])
        elif how == 7:
            del inside[key]
        elif isinstance(inside, list):
            times = draw(st.sampled_from((1, 1, 1, 300)))
            inside[key:key] = [copied(inside[key]) for _ in range(times)]
        else:
            inside[draw(st.sampled_from((f"{key}x", "", "0", "99", "-1", key)))] = inside.pop(key)
    return out


def _has(inside: Any, key: Any) -> bool:
    if isinstance(inside, list):
        return isinstance(key, int) and key < len(inside)
    return isinstance(inside, dict) and key in inside


def _at(content: Any, place: list[Any] | Path) -> Any:
    for key in place:
        if not _has(content, key):
            return None
        content = content[key]
    return content


def _near(value: Any) -> tuple[Any, ...]:
    """Return values that are almost right."""
    if isinstance(value, bool):
        return (not value, int(value), str(value))
    if isinstance(value, int):
        as_float = float(value) if abs(value) < 2**63 else 0.5
        return (value + 1, value - 1, -value, 2 * value, as_float, hex(value), value << 20)
    if isinstance(value, float):
        return (-value, value * 1e6, str(value), round(value) if abs(value) < 1e18 else 0)
    if isinstance(value, str):
        return (value * 2, value[:-1], value.swapcase(), f" {value}", value[::-1], [value])
    if isinstance(value, list):
        return (value[::-1], value * 2, value[1:], value[:-1], dict(enumerate(value)))
    if isinstance(value, dict):
        return (list(value), list(value.values()), dict(list(value.items())[1:]), [value])
    return (None, [value], 0)
