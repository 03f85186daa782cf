"""A folder in an object store, named by its URL: s3://bucket/prefix, gs://... or az://...

Objects appear whole or not at all, as files do that are renamed into their place, but nothing can
be appended to one. The client (obstore) asks again what fails in passing: a server's error, a
connection that is refused or dropped, an answer that does not come.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from configs.errors import ConfigError, PassingError
from data.places.slow_answers import SlowAnswers
from data.places.store_errors import ALLOW_HTTP, BROKEN_OFF, ENDPOINT, NoCredentialsError, for_user

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

Result = TypeVar("Result")

_URL = re.compile(r"(s3|gs|az)://")
# Of requests that fail in passing. The number of tries does not end it, as short waits are drawn by
# lot: a store that comes back within this time was never away.
RETRY_TIME_S = 180.0
# Nothing stops the client while it tries by itself, not even Ctrl-C. So it tries for this long and
# is asked anew, but for what it writes: of a large file, it would begin with the first part again.
_TRY_TIME_S = 5.0
_ANSWER_TIME_S = 60.0
PART_BYTES = 8 * 2**20
"""Of an object that is sent in parts, and the most that one request for bytes is worth."""
_PARTS_IN_FLIGHT = 12

_ENDPOINTS = (*ENDPOINT.values(), "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_SLOW = SlowAnswers()


def is_url(place: str | os.PathLike[str]) -> bool:
    """Say whether a place is a folder in an object store. A Path never is: it joins slashes."""
    return isinstance(place, str) and _URL.match(place) is not None


def is_tag_of(tag: str, content: bytes) -> bool:
    """Say whether an object with this tag is known to hold a content: with S3, small ones are."""
    return tag.strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest()


class RemoteFolder:
    """The objects below a URL, by their names relative to it, with slashes.

    Each method raises one line for the user if the store refuses or is out of reach, and
    FileNotFoundError if it is the object alone that is missing. Safe to use by many threads.
    """

    def __init__(self, url: str) -> None:
        """Name it; nothing is asked of the store yet. ConfigError if obstore is not installed."""
        self.url = url.rstrip("/")
        self._scheme = self.url.partition(":")[0]
        try:
            import obstore  # an extra of the package, and nobody else waits for it
        except ImportError:
            raise ConfigError(
                f"{self.url}: object stores need one more package: "
                "pip install 'fpn-feature-codecs[remote]'"
            ) from None
        self._client = obstore
        self._has_answered = False

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[type[RemoteFolder], tuple[str]]:
        return RemoteFolder, (self.url,)  # another process has connections of its own

    @cached_property
    def store(self) -> ObjectStore:
        """The client's own object for it: what obstore's functions, and zarr's, take."""
        return self._opened(RETRY_TIME_S)

    @cached_property
    def _reader(self) -> ObjectStore:
        return self._opened(min(_TRY_TIME_S, RETRY_TIME_S))

    def _opened(self, retry_time_s: float) -> ObjectStore:
        from obstore.store import from_url

        return self._asked(
            "open", "",
            lambda: from_url(
                self.url, retry_config=_retries(retry_time_s), client_options=_client_options()
            ),
        )  # fmt: skip

    def put(self, name: str, content: Any | Path) -> str:
        """Store an object, whole or not at all: bytes, a flat uint8 buffer, or a file's content.

        Returns its tag, as `versions`. What is larger than a part is sent in parts, many at once.
        """

        def send() -> str:
            if hasattr(content, "seek"):
                content.seek(0)  # of a file, what was sent before the answer broke off
            done = self._client.put(
                self.store, name, content,
                chunk_size=PART_BYTES, max_concurrency=_PARTS_IN_FLIGHT,
            )  # fmt: skip
            return _tag(done["e_tag"])

        return self._asked("write", name, send)

    def get(self, name: str) -> bytes:
        """Return what an object holds; for small ones."""
        return self._asked(
            "read", name, lambda: bytes(self._client.get(self._reader, name).bytes())
        )

    def get_range(self, name: str, start: int, num_bytes: int) -> memoryview:
        """Return `num_bytes` of an object from `start` on, uint8, by one request."""

        def fetch() -> memoryview:
            return memoryview(
                self._client.get_range(self._reader, name, start=start, length=num_bytes)
            )

        return self._asked("read", name, fetch)

    def get_ranges(
        self,
        name: str,
        starts: Sequence[int],
        lengths: Sequence[int],
        *,
        max_gap_bytes: int = 2**20,
    ) -> list[memoryview]:
        """Return ranges of one object, in their order; those that lie near share a request.

        Up to ten requests are under way at once.
        """

        def fetch() -> list[memoryview]:
            found = self._client.get_ranges(
                self._reader, name, starts=starts, lengths=lengths, coalesce=max_gap_bytes
            )
            return [memoryview(each) for each in found]

        return self._asked("read", name, fetch)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return name -> size in bytes of all objects below a name that ends before a slash."""
        return {name: size for name, (size, _) in self.versions(prefix).items()}

    def versions(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Return name -> (size in bytes, a tag that changes with the content), as `sizes`."""
        found = self._asked(
            "list", prefix, lambda: self._client.list(self._reader, prefix or None).collect()
        )
        return {each["path"]: (each["size"], _tag(each["e_tag"])) for each in found}

    def folders(self) -> list[str]:
        """Return the names of the folders right below, in order."""
        found = self._asked("list", "", lambda: self._client.list_with_delimiter(self._reader))
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes; None if there is no such object."""
        try:
            found = self._asked("read", name, lambda: self._client.head(self._reader, name))
        except FileNotFoundError:
            return None
        return int(found["size"])

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is removed already."""
        for name in names:
            with suppress(FileNotFoundError):
                self._asked("delete", name, partial(self._client.delete, self._reader, name))

    def version(self, name: str) -> str:
        """Return one object's tag, as `versions`."""
        found = self._asked("read", name, partial(self._client.head, self._reader, name))
        return _tag(found["e_tag"])

    def _asked(self, verb: str, name: str, ask: Callable[[], Result]) -> Result:
        """Return what the store answers; it is asked again and again for what fails in passing.

        Credentials that are not found are such a thing only if they once were: who has set none
        hears it soon.
        """
        from obstore.exceptions import BaseError

        end, wait_s = time.monotonic() + RETRY_TIME_S, 0.1
        place = f"{self.url}/{name}" if name else self.url
        with _SLOW.watched(place):
            while True:
                try:
                    answer = ask()
                except (FileNotFoundError, PermissionError, BaseError) as error:
                    told = for_user(error, self._scheme, place, verb, RETRY_TIME_S)
                    if time.monotonic() > end or not self._may_pass(told, str(error)):
                        raise told from error
                else:
                    self._has_answered |= verb != "open"
                    return answer
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, 5)

    def _may_pass(self, told: Exception, text: str) -> bool:
        if isinstance(told, NoCredentialsError):
            return self._has_answered
        return isinstance(told, PassingError) or BROKEN_OFF.search(text) is not None


def _tag(said: str | None) -> str:
    """Return a tag in quotes: Azure has none around those that it lists."""
    return '"{}"'.format((said or "").strip('"'))


def _retries(time_s: float) -> RetryConfig:
    waits: Any = {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    }
    return {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=time_s),
        "backoff": waits,
    }


def _client_options() -> ClientConfig:
    # Options given here hide the variable of that name; and who names an endpoint by http:// has
    # said so already.
    endpoints = (os.environ.get(name, "") for name in _ENDPOINTS)
    said = (os.environ.get(name, "") for name in ALLOW_HTTP.values())
    plain = any(url.startswith("http://") for url in endpoints)
    return {
        "allow_http": plain or any(value.lower() in ("1", "true", "yes", "on") for value in said),
        "timeout": f"{_ANSWER_TIME_S:g}s",
        "connect_timeout": "5s",
    }
