"""`fusegw init` against S3 that cannot be reached, refuses, or is somebody else's: one line, no write."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.cli.hosts import CHEAP, Done, Host
from tests.plugins.s3servers import S3Server


class Refusing(BaseHTTPRequestHandler):
    """Answers every request with 403 and keeps a list of them."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.command)
        body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []
    handler = type("Handler", (Refusing,), {"requests": requests})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def init(host: Host, endpoint: str, *more: object) -> Done:
    store = ("--store", "s3://bucket/prefix", "--endpoint-url", endpoint, "--region", "us-east-1")
    return host.run("init", "tank", *store, "--recovery-key-file", host.recovery, *CHEAP, *more)


def assert_nothing_was_written(host: Host, done: Done) -> None:
    assert done.err.startswith("fusegw: error: ") and done.err.count("\n") == 1 and done.out == ""
    assert not host.state.exists() and not host.recovery.exists()


def test_a_denied_bucket(host: Host, refusing: tuple[str, list[str]], keys: None) -> None:
    endpoint, requests = refusing
    done = init(host, endpoint)
    assert done.code == 5 and "bucket" in done.err, done
    assert_nothing_was_written(host, done)
    assert set(requests) <= {"GET", "HEAD"} and requests


def test_an_unreachable_store(host: Host, keys: None) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        done = init(host, f"http://127.0.0.1:{nobody.getsockname()[1]}")
    assert done.code == 4, done
    assert_nothing_was_written(host, done)


def test_no_credentials(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(host.base / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(host.base / "none"))
    done = init(host, "http://127.0.0.1:1")
    assert done.code == 5, done
    assert_nothing_was_written(host, done)


def test_a_bucket_that_does_not_exist(host: Host, moto_server: S3Server) -> None:
    options = moto_server.options(bucket="never-made")
    done = init(host, moto_server.endpoint_url, "--store", options.url)
    assert done.code == 9 and "never-made" in done.err, done
    assert_nothing_was_written(host, done)


def test_a_private_authority_must_be_named(host: Host, moto_tls_server: S3Server) -> None:
    url = moto_tls_server.options().url
    done = init(host, moto_tls_server.endpoint_url, "--store", url)
    assert done.code in (3, 4, 5), done
    assert_nothing_was_written(host, done)
    bundle = moto_tls_server.ca_bundle
    assert init(host, moto_tls_server.endpoint_url, "--store", url, "--ca-bundle", bundle).code == 0
    assert host.run("key", "verify").code == 0


def test_a_prefix_is_a_volumes_own(host: Host, moto_server: S3Server) -> None:
    url = moto_server.options().url
    assert init(host, moto_server.endpoint_url, "--store", url).code == 0
    other = host.base / "other-state"
    host.recovery.unlink()
    done = init(host, moto_server.endpoint_url, "--store", url, "--state-dir", other)
    assert done.code == 8 and "holds volume 'tank' already" in done.err
    assert not other.exists() and not host.recovery.exists()


def test_a_server_that_ignores_conditions_needs_consent(host: Host, rclone_server: S3Server) -> None:
    url = rclone_server.options().url
    done = init(host, rclone_server.endpoint_url, "--store", url)
    assert done.code == 3 and "--unsafe-no-fencing" in done.err, done
    assert "If-None-Match" in done.err, done
    assert not host.recovery.exists() and host.run("ls-volumes", "--json").json() == {"volumes": []}
    done = init(host, rclone_server.endpoint_url, "--store", url, "--unsafe-no-fencing")
    assert done.code == 0, done
    assert host.run("key", "verify").code == 0
