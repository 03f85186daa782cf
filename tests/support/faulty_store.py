"""What can go wrong between a client and its object store, in front of one that works."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["500", "slow", "dropped", "away", "forbidden"]

_REFUSAL = (
    b"<Error><Code>SignatureDoesNotMatch</Code>"
    b"<Message>The request signature we calculated does not match</Message></Error>"
)


class FaultyStore:
    """A proxy on loopback; `fault` says by a request's number and method what goes wrong."""

    slow_s = 0.2

    def __init__(self, behind: str, fault: Callable[[int, str], Fault | None]) -> None:
        self.injected: Counter[str] = Counter()
        self._behind = behind.removeprefix("http://")
        self._fault = fault
        self._numbers = itertools.count()

    @contextmanager
    def started(self) -> Iterator[str]:
        """Yield the URL of the proxy."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # the client has gone, too

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer as the store does, or as the fault wants it."""
        fault = self._fault(next(self._numbers), request.command)
        self.injected[fault or "none"] += 1
        if fault == "away":
            request.close_connection = True
            return
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if fault == "500":
            self._send(request, 500, {}, b"")
            return
        if fault == "forbidden":
            self._send(request, 403, {}, _REFUSAL)
            return
        behind = http.client.HTTPConnection(self._behind, timeout=30)
        behind.request(request.command, request.path, body, dict(request.headers))
        response = behind.getresponse()
        content = response.read()
        behind.close()
        if fault == "slow":
            time.sleep(self.slow_s)
        self._send(
            request, response.status, dict(response.getheaders()), content,
            num_bytes=len(content) // 2 if fault == "dropped" else None,
        )  # fmt: skip

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str],
        content: bytes, num_bytes: int | None = None,
    ) -> None:  # fmt: skip
        is_head = request.command == "HEAD"
        lengths = {"content-length", "transfer-encoding", "connection", "server", "date"}
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() not in lengths or (is_head and name.lower() == "content-length"):
                request.send_header(name, value)
        if not is_head:
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if not is_head:
            request.wfile.write(content[:num_bytes])
        if num_bytes is not None:
            request.close_connection = True
