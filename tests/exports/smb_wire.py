"""A client of SMB that can flush, which smbclient cannot."""

import uuid

from smbprotocol.connection import Connection
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from tests.exports.smbhost import PASSWORD, SmbHost

WRITE_BYTES_MAX = 64 << 10
"""Of one request, that costs one credit."""
TIMEOUT_S = 30


class SmbClient:
    """Connected to a share. What goes wrong is an OSError or one of smbprotocol's errors."""

    def __init__(self, host: SmbHost, share: str, user: str = "max") -> None:
        self._connection = Connection(uuid.uuid4(), "127.0.0.1", host.port)
        self._connection.connect(timeout=TIMEOUT_S)
        session = Session(self._connection, user, PASSWORD, require_encryption=False)
        session.connect()
        self._tree = TreeConnect(session, rf"\\127.0.0.1\{share}")
        self._tree.connect()

    def write(self, name: str, data: bytes, *, flush: bool = True) -> None:
        """A new file, flushed on return."""
        file = Open(self._tree, name)
        file.create(
            ImpersonationLevel.Impersonation,
            FilePipePrinterAccessMask.GENERIC_WRITE,
            FileAttributes.FILE_ATTRIBUTE_NORMAL,
            ShareAccess.FILE_SHARE_READ,
            CreateDisposition.FILE_CREATE,
            CreateOptions.FILE_NON_DIRECTORY_FILE,
        )
        for start in range(0, len(data), WRITE_BYTES_MAX):
            file.write(data[start : start + WRITE_BYTES_MAX], start)
        if flush:
            file.flush()
        file.close()

    def close(self) -> None:
        self._connection.disconnect(close=True, timeout=TIMEOUT_S)
