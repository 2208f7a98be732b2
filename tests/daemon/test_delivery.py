"""Commands and web addresses that are told something: what they get, and the bounds of what they may do."""

import http.server
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from fusegw.daemon.delivery import OUTPUT_BYTES_MAX, post, run_command


def python(text: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-c", text, *map(str, arguments))


async def test_a_command_gets_what_it_is_given_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("FUSEGW_PASSPHRASE", "secret")
    place = tmp_path / "said"
    text = (
        "import os, sys\n"
        "found = dict(os.environ), os.getcwd(), sys.stdin.read()\n"
        "open(sys.argv[1], 'w').write(repr(found))\n"
    )
    assert await run_command(python(text, place), {"FUSEGW_SEQ": "7"}) is None
    environment, directory, given = eval(place.read_text())
    environment.pop("LC_CTYPE", None)  # python's own
    assert sorted(environment) == ["FUSEGW_SEQ", "LANG", "PATH"]
    assert (environment["FUSEGW_SEQ"], directory, given) == ("7", "/", "")


async def test_a_failure_says_what_the_command_said() -> None:
    failure = await run_command(python("import sys; print('no\\n\\x1b[1m route'); sys.exit(3)"), {})
    assert failure == f"{sys.executable} ended with 3: no [1m route"
    assert await run_command(("/nonexistent/program",), {}) == (
        "/nonexistent/program cannot be run: No such file or directory"
    )


async def test_output_is_read_but_not_kept() -> None:
    failure = await run_command(python("import sys; print('x' * 5_000_000); sys.exit(1)"), {})
    assert failure is not None
    assert len(failure) < OUTPUT_BYTES_MAX + 200


@pytest.mark.parametrize("how", ["in time", "out of time", "cancelled"])
async def test_nothing_is_left_running(tmp_path: Path, how: str) -> None:
    """Neither the command nor what it started."""
    place = tmp_path / "pid"
    os.mkfifo(place)
    text = (
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(1000)\n"
        "open(sys.argv[1], 'w').write(str(child))\n"
        f"time.sleep({0 if how == 'in time' else 1000})\n"
    )
    failure: list[str | None] = []

    async def run() -> None:
        failure.append(
            await run_command(python(text, place), {}, timeout_s=2 if how == "out of time" else 60)
        )

    descriptors: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        pid = int(await trio.to_thread.run_sync(place.read_text))
        try:
            descriptors.append(os.pidfd_open(pid))
        except ProcessLookupError:
            assert how == "in time"
        if how == "cancelled":
            nursery.cancel_scope.cancel()
    for descriptor in descriptors:
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(descriptor)
        os.close(descriptor)
    if how != "cancelled":
        expected = None if how == "in time" else f"{sys.executable} has not ended within 2 s"
        assert failure == [expected]


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with the code in the path; keeps what it got."""

    got: list[tuple[str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, self.headers["Content-Type"], body))
        code = int(self.path.strip("/").split("?")[0])
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/200")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str | None, bytes]]]]:
    handler = type("Handler", (Server,), {"got": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", handler.got
        listening.shutdown()
        thread.join()


async def test_an_address_gets_the_document_once(
    server: tuple[str, list[tuple[str, str | None, bytes]]],
) -> None:
    url, got = server
    assert await post(f"{url}/204?token=secret", b"{}") is None
    assert got == [("/204?token=secret", "application/json", b"{}")]
    assert await post(f"{url}/500", b"{}") == "127.0.0.1 answered 500"
    assert await post(f"{url}/302", b"{}") == "127.0.0.1 answered 302"
    assert len(got) == 3


async def test_an_address_that_does_not_answer() -> None:
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        failure = await post(f"http://127.0.0.1:{port}/?token=secret", b"{}")
        assert failure is not None and failure.startswith("127.0.0.1 cannot be told: ")
        assert "secret" not in failure
        silent.listen(1)
        failure = await post(f"http://127.0.0.1:{port}/", b"{}", timeout_s=0.2)
        assert failure == "127.0.0.1 has not answered within 0.2 s"
