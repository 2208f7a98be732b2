"""An HTTP proxy that misbehaves on demand: faults between a real S3 client and a real server.

It stands in front of one server (`Wire(url)`), or serves as a forward proxy. Each request takes the next step
of `plan`; with none left it takes what `chance` says, by default to pass. All requests are recorded.
"""

import enum
import http.client
import socket
import ssl
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

NO_LINGER = struct.pack("ii", 1, 0)


class Step(enum.Enum):
    """What happens to one request."""

    PASS = "goes through"
    CLOSE = "connection closed before the server sees it"
    RESET = "connection reset before the server sees it"
    STALL = "no reply until the proxy ends, or for `stall_s`"
    DAMAGE_REQUEST = "one bit of the request's body flipped"
    LOSE_REPLY = "the server's reply dropped, the connection closed"
    TRUNCATE_REPLY = "half of the reply's body, then the connection closed"


class Reply(msgspec.Struct, frozen=True):
    """A canned S3 error that the server never hears of."""

    status: int
    code: str
    message: str = "as the test wants it"


class Page(msgspec.Struct, frozen=True):
    """A canned success that is no S3 at all."""

    text: str


class Request(msgspec.Struct, frozen=True):
    method: str
    target: str
    headers: dict[str, str]


class Wire:
    """Context manager; `endpoint_url` is where clients connect, by TLS when given certificate and key."""

    def __init__(
        self,
        server_url: str,
        tls: tuple[str, str] | None = None,
        *,
        chance: "Callable[[Request], Step | Reply | Page]" = lambda request: Step.PASS,
        stall_s: float | None = None,
    ) -> None:
        self.chance = chance
        self.stall_s = stall_s
        self.plan: deque[Step | Reply | Page] = deque()
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.server_address = urlsplit(server_url).netloc
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Leaves a connection that is to be reset as it is: the kernel resets it when it is closed."""

    def shutdown_request(self, request: Any) -> None:
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(NO_LINGER)) == NO_LINGER:
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give up, or are killed, end their connections in the middle."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handler_for(wire: Wire) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers)
            wire.requests.append(request)
            step = wire.plan.popleft() if wire.plan else wire.chance(request)
            if isinstance(step, Reply):
                text = f"<Error><Code>{step.code}</Code><Message>{step.message}</Message></Error>".encode()
                self.reply(step.status, {"Content-Type": "application/xml"}, text)
                return
            if isinstance(step, Page):
                self.reply(200, {"Content-Type": "text/html"}, step.text.encode())
                return
            if step in (Step.CLOSE, Step.RESET, Step.STALL):
                if step is Step.STALL:
                    wire.released.wait(wire.stall_s)
                if step is Step.RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                self.close_connection = True
                return
            if step is Step.DAMAGE_REQUEST:
                body = body[:-1] + bytes((body[-1] ^ 1,))
            status, headers, answer = self.forward(body)
            if step is Step.LOSE_REPLY:
                self.close_connection = True
                return
            self.reply(status, headers, answer, truncate=step is Step.TRUNCATE_REPLY)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            target = self.path
            if target.startswith("http://"):  # asked as a forward proxy
                target = "/" + target.split("/", 3)[3]
            connection = http.client.HTTPConnection(wire.server_address, timeout=30)
            connection.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            answer = response.read()
            headers = {
                name: value
                for name, value in response.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "content-length")
            }
            if self.command == "HEAD":
                headers["Content-Length"] = response.getheader("Content-Length", "0")
            connection.close()
            return response.status, headers, answer

        def reply(self, status: int, headers: dict[str, str], body: bytes, *, truncate: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            elif "Content-Length" not in headers:
                self.send_header("Content-Length", "0")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if truncate else body)
            self.close_connection = self.close_connection or truncate

        def log_message(self, *_: Any) -> None:
            """Requests are recorded, not printed."""

    return Handler
