"""Errors that are the user's to mend: one line each, with the nearest name to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

_MOST_LETTERS = 2000


class UserError(Exception):
    """A mistake that the user can mend; its text says what, where, and what to do next."""

    exit_code = 1
    met_by_all = False
    """Processes that train together all meet it at one point, and can go on together."""

    def __init__(self, message: object) -> None:
        """Take the line for the user; what it quotes from files may be of any length, and lines."""
        text = " ".join(str(message).splitlines())
        if len(text) > _MOST_LETTERS:
            text = f"{text[: _MOST_LETTERS // 2]} [...] {text[-_MOST_LETTERS // 4 :]}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process raise it as it was, whatever else its kind is made of."""
        return _made_again, (type(self), self.args, dict(self.__dict__))


def _made_again(
    kind: type[UserError], arguments: tuple[Any, ...], attributes: Mapping[str, Any]
) -> UserError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


class ConfigError(UserError):
    """A setting, a file that a setting names, or an image of the data set is wrong."""


class MissingDataError(ConfigError):
    """A file or folder of the data set that the settings name is not on this machine."""


class BadImageError(ConfigError):
    """One image of the data set cannot be used; without it the others still can."""

    def __init__(self, message: str, *, file: str, reason: str) -> None:
        """Take the line for the user, and its two parts that a manifest records."""
        super().__init__(message)
        self.file = file
        self.reason = reason


class MachineError(UserError):
    """Memory or a disk takes no more."""


class StoppedError(UserError):
    """A command was stopped by a signal, after it had saved what it had."""

    def __init__(self, message: str, number: int) -> None:
        """Take the line for the user and the signal's number."""
        super().__init__(message)
        self.exit_code = 128 + number


class PassingError(UserError):
    """The system refuses a file for now: busy, too many are open, a disk that does not answer.

    It says nothing of what the file holds, so nobody may conclude that it is damaged or missing.
    """

    @classmethod
    def reading(cls, path: object, error: OSError) -> PassingError:
        """Return the line for the user about a file that could not be read."""
        return cls(
            f"{path}: cannot be read ({error.strerror or error}), which does not say that it is "
            "damaged: mend the cause and run the same command again"
        )


class CacheError(UserError):
    """The feature cache is missing, incomplete, damaged or stale."""


def lack_of_memory(error: BaseException) -> str | None:
    """Return the first line of an error that says that memory does not suffice, None of others.

    On a CPU torch raises a plain RuntimeError, whose text alone tells it.
    """
    text = str(error)
    told = isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )
    if not told and not isinstance(error, MemoryError):
        return None
    return text.splitlines()[0] if text else type(error).__name__


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``: did you mean 'x'?``, or nothing if no valid name is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f": did you mean '{near[0]}'?" if near else ""
