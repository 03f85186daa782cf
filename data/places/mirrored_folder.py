"""A folder at a URL and its copy on this machine: what is there is fetched, what changes is sent.

Whoever works in the copy knows nothing of the URL. Files that appear whole are sent as they stand,
also while more are written.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from configs.errors import ConfigError, MachineError, PassingError, UserError
from data.places.known_copies import FileState, Known, KnownCopies
from data.places.local_disk import disk_told
from data.places.object_store import RemoteFolder
from data.system.atomic_files import write_atomically
from data.system.locks import held

_LOG = logging.getLogger(__name__)

EVERY_S = 15.0
"""How often what has changed is sent while a command works."""
_AT_ONCE = 8
_LOCK_NAME = "fetching.lock"
# Of this machine's processes, or not whole yet.
_PASSING = (".lock", ".part", ".new")


class MirroredFolder:
    """One folder in both places; `path` is the one on this machine."""

    def __init__(
        self, remote: RemoteFolder, path: Path, known: KnownCopies, *,
        in_order: Sequence[str] = (), at_end: Sequence[str] = (), left_out: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Nothing is fetched yet.

        `in_order`: names of files that are sent after all others, in this order, in which they are
        written too; `at_end`: of those that are sent when all is done, and not before; `left_out`:
        of those that stay here.
        """
        self.remote = remote
        self.path = path
        self._known = known
        self._in_order = tuple(in_order)
        self._at_end = tuple(at_end)
        self._left_out = set(left_out)
        self._fetched: set[str] = set()
        self._is_sent: Callable[[str], bool] = lambda _: True

    def send_only(self, is_ours: Callable[[str], bool]) -> None:
        """Send those files alone of whose name this is true: others are of other processes."""
        self._is_sent = is_ours

    def sends(self, name: str) -> bool:
        """Say whether a file of this name is among those that are sent."""
        return self._belongs(name) and self._is_sent(name)

    def fetch(self, files: Container[str] | None = None, below: str = "") -> set[str]:
        """Bring the copy of all that lies `below` a subfolder up to date; return its names there.

        `files`: names of files, in each subfolder, if not all are wanted. What has changed here
        alone, and was not sent, stays. Raises ConfigError if a file has changed in both places,
        MachineError if it cannot be written, and as `RemoteFolder` does.
        """
        versions = {
            name: version
            for name, (_, version) in self.remote.versions(below).items()
            if self._belongs(name) and (files is None or Path(name).name in files)
        }
        self._fetch_all(versions)
        return set(versions)

    def fetch_lacking(self) -> None:
        """Fetch those files alone that are not here; for such as never change under their name."""
        versions = self.remote.versions().items()
        self._fetch_all({
            name: version
            for name, (_, version) in versions
            if self._belongs(name) and not (self.path / name).exists()
        })  # fmt: skip

    def fetch_file(self, name: str) -> Path:
        """Return the copy of one file; raises as `fetch`, ConfigError if it is not there."""
        try:
            version = self.remote.version(name)
        except FileNotFoundError:
            raise ConfigError(f"{self._url(name)}: there is no such file") from None
        self._fetch_all({name: version})
        return self.path / name

    def give_way(self, below: str) -> None:
        """Remove the copy of a subfolder if it holds what was not sent, and there is news there.

        For one who did less than another that went on with what was sent.
        """
        known = self._known.below(self.remote.url)
        there = [
            (name, tag)
            for name, (_, tag) in self.remote.versions(below).items()
            if self._belongs(name)
        ]
        if all(name in known and known[name].version == tag for name, tag in there):
            return
        here = [(name, state) for name, state in self._files() if name.startswith(f"{below}/")]
        unsent = [name for name, state in here if not known.is_as(name, state)]
        if unsent:
            _LOG.warning("%s: has gone on since: what was not sent is dropped", self._url(below))
            with disk_told(self.path):
                shutil.rmtree(self.path / below)

    def push(self, *, is_done: bool = True) -> None:
        """Send what has changed here.

        Raises MachineError, which names the file, if one cannot be sent: it stays.
        """
        last = (*self._in_order, *(self._at_end if is_done else ()))
        with disk_told(self.path), ExitStack() as stack:
            # Opened from the last to the first, and sent from the first to the last: so of those
            # that are written meanwhile none is sent that is newer than one before it.
            ordered = [
                (name, stack.enter_context(handle))
                for place in reversed(last)
                for name, handle in self._opened(place)
            ]
            apart = {*self._in_order, *self._at_end}
            known = self._known.below(self.remote.url)
            self._each(self._send, [
                (name,)
                for name, state in self._files()
                if Path(name).name not in apart
                and self._is_sent(name)
                and not known.is_as(name, state)
            ])  # fmt: skip
            for name, handle in reversed(ordered):
                self._send_open(name, handle)

    def remove_gone(self) -> None:
        """Remove there what was fetched from there, and is not here any more."""
        gone = [name for name in self._fetched if not (self.path / name).exists()]
        self.remote.delete(gone)
        for name in gone:
            self._known.forget(self._url(name))

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send what changes while the body runs, in a thread of its own, and the rest at its end.

        What the store does not take in the meantime is tried again; at the end that is an error,
        but for one of the body's own.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._send_until, args=(done,), name="sending")
        thread.start()
        try:
            yield
        except BaseException:
            done.set()
            thread.join()
            try:
                self.push(is_done=False)
            except UserError as error:
                _LOG.error("%s", error)
            raise
        done.set()
        thread.join()
        self.push()

    def _send_until(self, done: threading.Event) -> None:
        while not done.wait(EVERY_S):
            try:
                self.push(is_done=False)
            except UserError as error:
                _LOG.warning("%s: trying again in %g s", error, EVERY_S)

    def _fetch_all(self, versions: Mapping[str, str]) -> None:
        with disk_told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with held(self.path / _LOCK_NAME, waiting=self._tell_of_waiting):
                known = self._known.below(self.remote.url)
                self._each(self._fetch, [
                    (name, version, known.get(name)) for name, version in versions.items()
                ])  # fmt: skip
        self._fetched.update(versions)

    def _fetch(self, name: str, version: str, known: Known | None) -> None:
        path = self.path / name
        try:
            here = FileState.of(path.stat())
        except FileNotFoundError:
            here = None
        if here is not None and known is not None and known.version == version:
            return
        try:
            content = self.remote.get(name)
        except FileNotFoundError as error:
            raise PassingError(
                f"{self._url(name)}: went away while it was fetched: run the same command again"
            ) from error
        if here is None or (known is not None and known.file == here):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        elif path.read_bytes() != content:
            raise ConfigError(
                f"{path}: has changed since it was fetched or sent, and so has {self._url(name)}: "
                "move the file away to take what is there, or remove that to keep the file"
            )
        self._known.note(self._url(name), Known(version, FileState.of(path.stat())))

    def _files(self) -> Iterator[tuple[str, FileState]]:
        """Yield name and state of all files here that belong there."""
        for folder, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                path = Path(folder, file)
                name = path.relative_to(self.path).as_posix()
                if self._belongs(name) and not path.is_symlink():
                    with suppress(FileNotFoundError):  # another one takes its place just now
                        yield name, FileState.of(path.stat())

    def _opened(self, file: str) -> Iterator[tuple[str, BinaryIO]]:
        """Open all files of one name, in each subfolder, that are not there as they are here."""
        known = self._known.below(self.remote.url)
        for name, _ in list(self._files()):
            if Path(name).name != file or not self._is_sent(name):
                continue
            with suppress(FileNotFoundError):
                handle = (self.path / name).open("rb")
                if known.is_as(name, FileState.of(os.fstat(handle.fileno()))):
                    handle.close()
                else:
                    yield name, handle

    def _send(self, name: str) -> None:
        with suppress(FileNotFoundError), (self.path / name).open("rb") as handle:
            self._send_open(name, handle)

    def _send_open(self, name: str, handle: BinaryIO) -> None:
        state = FileState.of(os.fstat(handle.fileno()))  # what grows meanwhile is sent again
        try:
            version = self.remote.put(name, handle)
        except UserError as error:
            raise MachineError(
                f"{self.path / name}: could not be sent, and stays: the same command sends it "
                f"({error})"
            ) from error
        self._known.note(self._url(name), Known(version, state))

    @staticmethod
    def _each(task: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        """Do it with each, several at a time; the first error ends it."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tasks = [pool.submit(task, *each) for each in arguments]
            try:
                for each in tasks:
                    each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _belongs(self, name: str) -> bool:
        """Say whether a name is that of a file in both places, and leads nowhere else."""
        parts = name.split("/")
        if "\0" in name or any(not part or part.startswith(".") for part in parts):
            return False
        return not name.endswith(_PASSING) and parts[-1] not in self._left_out

    def _url(self, name: str) -> str:
        return f"{self.remote.url}/{name}"

    def _tell_of_waiting(self) -> None:
        _LOG.info("%s: another process fetches here: waiting", self.path)
