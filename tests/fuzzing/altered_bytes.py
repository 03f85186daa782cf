"""What a disk, a network or somebody with a hex editor makes of a file."""

from __future__ import annotations

from hypothesis import strategies as st

_ODD_FIELDS = (
    b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f",
    b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\0" * 7 + b"\x80", b"\0\0\0\0\x01\0\0\0", b"\x80" * 10,
    b"\x01\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\xf0\x7f", b"-", b"9" * 30, b"1e999", b"nan", b"\n", b'"',
    b"\xc3\x28", b"{", b"]", b"<", b"&x;", b"..", b"\xef\xbb\xbf",
)  # fmt: skip
"""Numbers at the ends of their types, and what text formats trip over."""


@st.composite
def altered_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """A file after one to four changes: flips, odd fields, cuts, insertions, repetitions."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(out)))
        how = draw(st.integers(0, 7))
        if how <= 1 and place < len(out):
            out[place] ^= 1 << draw(st.integers(0, 7))
        elif how == 2 and place < len(out):
            out[place] = draw(st.integers(0, 255))
        elif how == 3:
            field = draw(st.sampled_from(_ODD_FIELDS))
            out[place : place + len(field)] = field
        elif how == 4:
            del out[place : place + draw(st.integers(1, 64))]
        elif how == 5:
            out[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif how == 6:
            start = draw(st.integers(0, len(out)))
            out[place:place] = out[start : start + draw(st.integers(1, 64))]
        else:
            del out[place:]
    return bytes(out)
