"""A real S3 interface for tests: moto's server, in a thread of this process, on loopback."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.request import ProxyHandler, Request, build_opener


@dataclass(frozen=True)
class ObjectServer:
    """A running server; `endpoint` is its URL, http://127.0.0.1:port."""

    endpoint: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[ObjectServer]:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            yield cls("http://{}:{}".format(*server.get_host_and_port()))
        finally:
            server.stop()

    def new_bucket(self) -> str:
        """Make an empty bucket and return its URL."""
        name = f"bucket-{next(self._numbers)}"
        # urlopen keeps for ever what its first caller's environment said of proxies.
        direct = build_opener(ProxyHandler({}))
        direct.open(Request(f"{self.endpoint}/{name}", method="PUT")).close()
        return f"s3://{name}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables that lead a client here, or to what stands in front of it."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
        }
