"""One gateway with shares for all tests that only need a share."""

from collections.abc import Iterator

import pytest

from tests.exports.smbhost import SmbHost, data_host


@pytest.fixture(scope="session")
def smb() -> Iterator[SmbHost]:
    """Serves the share `data` (directory `data`) to the user max."""
    with data_host() as host:
        yield host
