"""The fields of a file: numbers of as many bytes as they need, read one after another."""

from __future__ import annotations

MAX_SIDE = 2**16 - 1

_MOST_VARINT_BYTES = 9


class Cursor:
    """Reads a file's fields one after another; ValueError where it ends too soon."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position
        """Of the next byte."""

    def take(self, num_bytes: int) -> bytes:
        """Return the next bytes."""
        if num_bytes > len(self._data) - self.position:
            raise ValueError("it ends within a field")
        self.position += num_bytes
        return self._data[self.position - num_bytes : self.position]

    def byte(self) -> int:
        """Return the next byte's number."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Return what `varint` wrote next."""
        value = 0
        for place in range(_MOST_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise ValueError("a number in it has no end")

    def side(self) -> int:
        """Return a map's or an image's height or width, which is 1 to `MAX_SIDE`."""
        side = self.varint()
        if not 1 <= side <= MAX_SIDE:
            raise ValueError("its header holds impossible sizes")
        return side


def varint(number: int) -> bytes:
    """Return LEB128: seven bits a byte, lowest first, the highest bit set in all but the last."""
    assert 0 <= number < 2 ** (7 * _MOST_VARINT_BYTES)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
