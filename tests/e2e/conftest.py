"""Whole gateways, as an operator runs them, on every kind of store."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.gateways import Gateway
from tests.plugins.s3servers import RgwServer, S3Server


@pytest.fixture
def base() -> Iterator[Path]:
    """An empty directory, open to other users, that goes with the test."""
    directory = Path(tempfile.mkdtemp(prefix="fusegw-e2e-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def gateway(base: Path) -> Iterator[Gateway]:
    """A volume in a directory, not mounted yet."""
    yield from _ending(Gateway(base))


@pytest.fixture
def rgw_gateway(base: Path, rgw_server: RgwServer) -> Iterator[Gateway]:
    """A volume in a real RADOS Gateway, not mounted yet. Tests that use it carry the mark `rgw`."""
    yield from _ending(in_s3(base, rgw_server))


@pytest.fixture(
    params=[
        "directory",
        pytest.param("moto", marks=pytest.mark.soak),
        pytest.param("rgw", marks=pytest.mark.rgw),
    ]
)
def any_gateway(request: pytest.FixtureRequest, base: Path) -> Iterator[Gateway]:
    """A volume in each kind of store, not mounted yet."""
    if request.param == "directory":
        yield from _ending(Gateway(base))
    else:
        yield from _ending(in_s3(base, request.getfixturevalue(f"{request.param}_server")))


def in_s3(base: Path, server: S3Server, *, module: str = "fusegw.cli.main") -> Gateway:
    options = server.options()
    address = ("--store", options.url, "--endpoint-url", server.endpoint_url, "--region", "us-east-1")
    account = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    environment = account | {"AWS_EC2_METADATA_DISABLED": "true"}
    return Gateway(base, module=module, location=address, environment=environment)


def _ending(gateway: Gateway) -> Iterator[Gateway]:
    try:
        yield gateway
    finally:
        gateway.end()
