"""Code of one's own by its name, `package.module:name`: what a setting can say instead of ours."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, UserError

_FAILURES = (Exception, SystemExit)


def is_own(name: str) -> bool:
    """Whether a setting names code of the user's own, `package.module:name`, rather than ours."""
    return ":" in name


def load_own(name: str, what: str) -> Callable[..., Any]:
    """Import the class or function `package.module:name`; `what` is the setting that names it.

    The package is installed, or lies in the working directory. Raises ConfigError, in one line
    that begins with `what`, if there is none, it fails, lacks the name, or that cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ConfigError(f"{what}: {name!r} is no name of own code: write package.module:name")
    _look_in_working_directory()
    try:
        module = importlib.import_module(module_name)
    except _FAILURES as error:  # whatever someone else's file does when it is read
        raise _not_imported(error, module_name, f"{what}: {name!r}") from error
    if not hasattr(module, attribute):
        where = getattr(module, "__file__", None) or module_name
        raise ConfigError(
            f"{what}: {name!r} is not there: {where} has no {attribute!r}: mend the name"
        )
    value: Any = getattr(module, attribute)
    if not callable(value):
        raise ConfigError(
            f"{what}: {name!r} is a {type(value).__name__} and cannot be called: "
            "name a class or a function"
        )
    return value  # type: ignore[no-any-return]


def code_of(name: str) -> str:
    """Return the SHA-256 of the file of the module that `package.module:name` names.

    What that file imports is not looked at. Empty if the module has no file, or is not found.
    """
    _look_in_working_directory()
    file = _file_of(name.partition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else ""


@contextmanager
def own_code(shown: str) -> Iterator[None]:
    """Run someone else's code: what it raises is a ConfigError, in one line that begins `shown`.

    Our own errors pass as they are.
    """
    try:
        yield
    except UserError:
        raise
    except _FAILURES as error:
        raise ConfigError(f"{shown}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """Return what an error of someone else's code says, and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def _file_of(module: str) -> Path | None:
    if module in sys.modules:  # __main__ has a file and need not have a spec
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except _FAILURES:  # of a package above it; `load_own` says so to the user
            return None
        origin = spec.origin if spec and spec.has_location else None
    return Path(origin) if origin else None


def _look_in_working_directory() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        # A console script looks beside itself for modules, not in the working directory. Last, so
        # that nothing there hides a package.
        sys.path.append(here)
        importlib.invalidate_caches()


def _not_imported(error: BaseException, module: str, shown: str) -> ConfigError:
    is_missing = isinstance(error, ModuleNotFoundError) and error.name is not None
    if is_missing and f"{module}.".startswith(f"{error.name}."):  # type: ignore[attr-defined]
        return ConfigError(
            f"{shown} cannot be imported ({error}): "
            f"install its package, or run the command in the folder that holds it ({Path.cwd()})"
        )
    return ConfigError(f"{shown} cannot be imported: {_told(error)}")
