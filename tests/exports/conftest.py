"""One gateway with shares for all tests that only need a share."""

from collections.abc import Iterator

import pytest

from tests.exports.smbhost import SmbHost, directory, smb_host


@pytest.fixture(scope="session")
def smb() -> Iterator[SmbHost]:
    """Serves the share `data` (directory `data`) to the user max."""
    with smb_host() as host:
        host.mount()
        directory(host, "data")
        host.add_user("max")
        host.command("export", "add", "data", "--path", "/data", "--user", "max")
        host.serving()
        yield host
