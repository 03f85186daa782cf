"""What leads this process to object stores, for processes on other machines that ask for it."""

from __future__ import annotations

import os
from collections.abc import Mapping

_OF_A_STORE = ("AWS_", "GOOGLE_", "AZURE_")
# These lead to a file or an address of one machine: they are no other's.
_OF_A_MACHINE = ("_FILE", "_RELATIVE_URI", "_FULL_URI", "GOOGLE_APPLICATION_CREDENTIALS")


def store_variables() -> dict[str, str]:
    """Return the environment variables that say where stores are, and who asks them."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_OF_A_STORE) and not name.endswith(_OF_A_MACHINE)
    }


def take_store_variables(theirs: Mapping[str, str]) -> None:
    """Ask stores as another process does, which has these variables.

    Of each kind of store of which it has any, those alone: two sources of credentials do not go
    together. Of the others this machine's own count.
    """
    for kind in _OF_A_STORE:
        if any(name.startswith(kind) for name in theirs):
            for name in store_variables():
                if name.startswith(kind):
                    del os.environ[name]
    os.environ.update(theirs)
