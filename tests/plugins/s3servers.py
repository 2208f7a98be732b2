"""Fixtures any test folder can use: moto, Ceph's RADOS Gateway and rclone as S3 servers on 127.0.0.1.

Servers start once per run, when the first test asks, and are ended by the ids of their processes. Every test
that uses one gets clean AWS settings in its environment and a key prefix of its own.
"""

import itertools
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from fusegw.store.options import StoreOptions
from tests.plugins.certificates import write_certificates

ROOT = Path(__file__).resolve().parents[2]
ACCESS_KEY, SECRET_KEY = "fusegwtestaccess", "fusegwtestsecret"
SERVER_TIMEOUT_S = 60
_numbers = itertools.count(1)


class S3Server(msgspec.Struct, frozen=True):
    """A running server and the account the tests use there."""

    endpoint_url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    ca_bundle: str | None = None

    def options(self, bucket: str | None = None) -> StoreOptions:
        """Options of an empty store there: a prefix of its own, by default in a bucket that exists."""
        url = f"s3://{bucket or _shared_bucket(self)}/volumes/{next(_numbers)}"
        return StoreOptions(url, endpoint_url=self.endpoint_url, ca_bundle=self.ca_bundle)


class RgwServer(S3Server, frozen=True):
    """A RADOS Gateway that can be stopped and started again with its data."""

    directory: str = ""

    def start(self) -> None:
        _rgw("start", self.directory, self.endpoint_url.rpartition(":")[2])

    def stop(self) -> None:
        _rgw("stop", self.directory)


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of `S3Server` as the only AWS setting there is, and no proxy."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def _moto_process() -> Iterator[S3Server]:
    yield from moto_process()


@pytest.fixture(scope="session")
def _moto_tls_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    ca, certificate, key = write_certificates(tmp_path_factory.mktemp("tls"))
    yield from moto_process(certificate, key, ca_bundle=ca)


@pytest.fixture(scope="session")
def _rgw_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RgwServer]:
    server = RgwServer(f"http://127.0.0.1:{free_port()}", directory=str(tmp_path_factory.mktemp("rgw")))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def moto_server(_moto_process: S3Server, aws_environment: None) -> S3Server:
    """moto: S3 as its authors read the documentation; checks no credentials."""
    return _moto_process


@pytest.fixture
def moto_tls_server(_moto_tls_process: S3Server, aws_environment: None) -> S3Server:
    """moto behind a certificate that only `ca_bundle` vouches for."""
    return _moto_tls_process


@pytest.fixture
def rgw_server(_rgw_process: RgwServer, aws_environment: None) -> RgwServer:
    """A real RADOS Gateway, shared by the run. Tests that use it carry the mark `rgw`."""
    return _rgw_process


@pytest.fixture
def rclone_server(tmp_path: Path, aws_environment: None) -> Iterator[S3Server]:
    """`rclone serve s3`: an S3 server that takes no notice of conditions."""
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}")
    (tmp_path / "rclone").mkdir()
    command = [
        *(str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(tmp_path / "rclone")),
        *("--addr", f"127.0.0.1:{port}", "--auth-key", f"{server.access_key},{server.secret_key}"),
        *("--config", os.devnull, "--log-level", "NOTICE"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "Starting s3 server" in line:
                    break
            yield server
        finally:
            process.terminate()
            process.wait(SERVER_TIMEOUT_S)


@cache
def _shared_bucket(server: S3Server) -> str:
    import boto3  # slow to import: tests without S3 need not wait
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        verify=server.ca_bundle,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket="shared-bucket")
    client.close()
    return "shared-bucket"


def moto_process(*tls: str, ca_bundle: str | None = None) -> Iterator[S3Server]:
    """A server of moto's until the generator ends, by TLS when given certificate and key."""
    program = Path(__file__).with_name("moto_main.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with subprocess.Popen(
        [sys.executable, str(program), *tls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            scheme = "https" if tls else "http"
            yield S3Server(f"{scheme}://127.0.0.1:{port}", ca_bundle=ca_bundle)
        finally:
            process.terminate()
            process.wait(SERVER_TIMEOUT_S)


def _rgw(*arguments: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "rgw"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * SERVER_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
