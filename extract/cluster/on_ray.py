"""Let Ray's actors store a plan's pending units; what the log says, this process alone writes."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.schema.data import DetectorConfig
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.system.ray_cluster import Cluster, connected, result
from data.system.seen_folders import signed
from data.writing.handed_over import ImageBytes
from data.writing.writer import CacheWriter
from extract.cluster.dealing import Dealer
from extract.cluster.detector_worker import DetectorWorker, WorkerJob

log = logging.getLogger(__name__)

_TELL_S = 60.0
_STARTS = 5
_UNREAD = 2  # of what a worker has yielded, until it waits: images, where it does not see the cache
_MOST_CORES = 16  # by then a worker's images wait for its one writing thread


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How many there are at most, and what each of them takes."""

    number: int
    num_cores: int
    num_gpus: int


def workers_of(cluster: Cluster, device: str, num_cores: int | None) -> Workers:
    """Share a cluster out: a worker for each GPU, or, without, for each `num_cores` of a node.

    `num_cores` None: on GPUs a node's cores divided by its GPUs, else all of a node's, 16 at most;
    of the smallest node each. Raises ConfigError if the cluster has no such device, or no node has
    as many cores.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--ray: --device {device}: which GPU it is Ray chooses: use cuda")
    nodes = [node for node in cluster.nodes if node.num_cpus >= 1]
    with_gpus = [node for node in nodes if node.num_gpus >= 1]
    if device == "cuda" and not with_gpus:
        raise ConfigError("--ray: --device cuda: no node of this cluster has a GPU: use cpu")
    if device != "cpu" and with_gpus:
        cores = num_cores or max(1, min(int(x.num_cpus // x.num_gpus) for x in with_gpus))
        number = sum(min(int(x.num_gpus), int(x.num_cpus // cores)) for x in with_gpus)
        most, num_gpus = max(x.num_cpus for x in with_gpus), 1
    else:
        most = max((node.num_cpus for node in nodes), default=0)
        smallest = int(min((node.num_cpus for node in nodes), default=1))
        cores, num_gpus = num_cores or min(_MOST_CORES, smallest), 0
        number = sum(int(node.num_cpus // cores) for node in nodes)
    if number == 0:
        raise ConfigError(
            f"--ray-cpus {cores}: no node of the cluster has as many, the largest has {most:g}: "
            "give fewer"
        )
    return Workers(number=number, num_cores=cores, num_gpus=num_gpus)


@dataclass(eq=False, slots=True)
class _Member:
    """An actor, and the units that it has."""

    actor: Any
    units: dict[int, Unit] = field(default_factory=dict)
    otherwise: list[Unit] = field(default_factory=list)
    """Due again at all levels: its places are locked until it has done all that it has."""


@contextmanager
def on_ray(
    address: str | None, detector: DetectorConfig, weights_sha256: str, *, device: str,
    num_cores: int | None, batch_size: int | None, num_decoding: int | None,
) -> Iterator[OnRay | None]:  # fmt: skip
    """Be connected to the cluster at `address` meanwhile; what is yielded stores units there.

    Without an address that is None. Raises as `connected` and `workers_of`.
    """
    if address is None:
        yield None
        return
    with connected(address) as cluster:
        yield OnRay(
            workers=workers_of(cluster, device, num_cores), detector=detector,
            weights_sha256=weights_sha256, batch_size=batch_size, num_decoding=num_decoding,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """Stores units on a cluster that this process is connected to."""

    workers: Workers
    detector: DetectorConfig
    weights_sha256: str
    batch_size: int | None
    num_decoding: int | None

    def __call__(
        self, folder: CacheFolder, manifest: Manifest, writer: CacheWriter
    ) -> Generator[tuple[int, int], None, None]:
        """Store what is pending; yield (images, bytes) as they are committed.

        A worker that dies is started again by Ray, where there is room; others get its units.
        Raises what a worker raises for the user; MachineError if a unit kills its workers.
        """
        import ray

        pending = writer.pending
        cores, number = self.workers.num_cores, min(self.workers.number, len(pending))
        log.info(
            "%s: %d workers of %d cores%s each", folder, number, cores,
            " and a GPU" * self.workers.num_gpus,
        )  # fmt: skip
        kind = ray.remote(
            num_cpus=cores, num_gpus=self.workers.num_gpus, max_restarts=-1, max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(DetectorWorker)  # fmt: skip
        with signed(folder.path) as sign:
            job = WorkerJob(
                detector=self.detector, weights_sha256=self.weights_sha256,
                device="cuda" if self.workers.num_gpus else "cpu", num_cores=cores,
                batch_size=self.batch_size, num_decoding=self.num_decoding or max(2, cores - 2),
                working_folder=str(Path.cwd()), sign=str(sign),
            )  # fmt: skip
            members = [_Member(kind.remote(job)) for _ in range(number)]
            dealer = Dealer(pending, num_workers=number)
            try:
                yield from _Crew(members, ray.put(manifest), dealer).store(writer, len(pending))
            finally:
                for member in members:
                    ray.kill(member.actor)


class _Crew:
    """Members at work, and what each was last asked for."""

    def __init__(self, members: list[_Member], manifest: Any, dealer: Dealer) -> None:
        self._manifest = manifest
        self._dealer = dealer
        self._idle: list[_Member] = []
        self._asked: dict[Any, _Member] = {}
        self._blind_hosts: set[str] = set()
        for member in members:
            self._start(member)

    def store(self, writer: CacheWriter, num_units: int) -> Iterator[tuple[int, int]]:
        import ray

        while num_units:
            ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=_TELL_S)
            if not ready:
                log.info("no unit was finished in the last minute: workers may be waited for")
            for asked in ready:
                member = self._asked.pop(asked)
                for unit, num_bytes in self._answered(asked, member, writer):
                    num_units -= 1
                    yield unit.num_rows, num_bytes
            # Also to those that had nothing to do until another one died.
            while self._idle and (units := self._dealer.deal()):
                self._hand_out(self._idle.pop(), units, writer)

    def _answered(
        self, asked: Any, member: _Member, writer: CacheWriter
    ) -> Iterator[tuple[Unit, int]]:
        """Take one answer of a member; yield the unit that is whole with it."""
        import ray

        try:
            if isinstance(asked, ray.ObjectRef):
                self._tell_start(*result(asked))
                self._idle.append(member)
                return
            found = result(next(asked))
        except StopIteration:
            if member.units:  # it was made anew while nobody asked it for anything
                self._dealer.give_back(member.units.values())
                self._start(member)
            else:
                self._take_otherwise(member)
                self._idle.append(member)
            return
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            if isinstance(error, ray.exceptions.ObjectLostError):
                # What it handed over: it may be alive, and waits to be asked for more of that.
                ray.kill(member.actor, no_restart=False)
            told = str(error).strip().splitlines()[0]
            log.warning("a worker died, its %d units go to others: %s", len(member.units), told)
            self._dealer.give_back_of_dead(member.units.values(), told)
            self._start(member)
            return
        self._asked[asked] = member
        if isinstance(found, ImageBytes):
            writer.take_over(member.units[found.unit], found)
            return
        unit = member.units.pop(found.unit)
        if writer.take_back(unit, found):
            yield unit, found.num_bytes
        else:
            member.otherwise.append(unit)

    def _take_otherwise(self, member: _Member) -> None:
        self._dealer.give_back(member.otherwise)
        member.otherwise = []

    def _start(self, member: _Member) -> None:
        self._take_otherwise(member)
        member.units = {}
        starting = member.actor.start.options(max_task_retries=_STARTS).remote(self._manifest)
        self._asked[starting] = member

    def _hand_out(self, member: _Member, units: list[Unit], writer: CacheWriter) -> None:
        member.units = {unit.index: unit for unit in units}
        due = [writer.hand_out(unit) for unit in units]
        store = member.actor.store.options(
            num_returns="streaming", _generator_backpressure_num_objects=_UNREAD
        )
        self._asked[store.remote(due)] = member

    def _tell_start(self, host: str, sees_cache: bool) -> None:
        log.debug("a worker has started on %s", host)
        if not sees_cache and host not in self._blind_hosts:
            self._blind_hosts.add(host)
            log.info("%s does not see the cache: what it computes is written by this machine", host)
