"""Mounted volumes: one shared by tests that only need a place, one of its own for tests of its life."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.gateways import Gateway


@pytest.fixture(scope="session")
def _shared() -> Iterator[Gateway]:
    yield from _gateway(mounted=True)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A volume for this test alone, not mounted yet."""
    yield from _gateway(mounted=False)


@pytest.fixture
def place(_shared: Gateway, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory on a mounted volume, open to all users."""
    directory = _shared.root / request.node.name[:200].replace("/", "_")
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def _gateway(*, mounted: bool) -> Iterator[Gateway]:
    # pytest's own directories are closed to other users, which some tests act as.
    base = Path(tempfile.mkdtemp(prefix="fusegw-mount-"))
    base.chmod(0o755)
    gateway = Gateway(base)
    try:
        if mounted:
            gateway.mount()
        yield gateway
    finally:
        gateway.end()
        shutil.rmtree(base)
