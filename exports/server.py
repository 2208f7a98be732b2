"""What a protocol's server has in common with the others, as the gateway sees it.

A server owns a directory of its own, writes its daemon's configuration there from an `Offer`, and supervises
the daemon while there is something to offer. It must never let another share's sessions suffer from a
share that is added, changed or removed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from exports.errors import InvalidExport
from exports.model import Protocol as ProtocolName
from exports.model import Share, User
from exports.names import plain_path
from exports.status import ServerStatus

DIRECTORY_BYTES_MAX = 80
"""Of a server's directory: daemons make sockets below it, whose addresses hold 107 bytes."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A share and where it is on this host."""

    share: Share
    mountpoint: str
    """Of the file system it is in: without that mounted, it must not be served."""
    directory: str
    tree: str = ""
    """The directory whose earlier states are in `versions`: `directory`, or one above it; "" for none."""
    versions: str = ""
    """SMB: where they are, each a directory that is named for its time, such as @GMT-2026.11.28-15.04.05."""
    read_only: bool
    """The share's own wish, or the volume's."""
    members: tuple[str, ...] = ()
    """SMB: who may connect with a password; groups of ours are resolved, those of a domain are not."""

    def __post_init__(self) -> None:
        plain_path(self.mountpoint)
        plain_path(self.directory)
        for path in filter(None, (self.tree, self.versions)):
            plain_path(path)


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gateway offers now."""

    shares: tuple[Placed, ...] = ()
    users: tuple[User, ...] = ()
    sid: str = ""
    """Of the SMB server."""

    def over(self, protocol: ProtocolName) -> tuple[Placed, ...]:
        """The shares that are offered over `protocol`."""
        return tuple(placed for placed in self.shares if placed.share.serves(protocol))


class Server(Protocol):
    """One protocol of one gateway. Loop thread only."""

    @property
    def status(self) -> ServerStatus: ...

    async def run(self) -> None:
        """Serve what is offered, until cancelled; the daemon has ended then."""
        ...

    async def apply(self, offer: Offer) -> None:
        """Serve this from now on. ExportError when that cannot be, and all stays as it was."""
        ...

    def refusal(self, shares: Iterable[Placed]) -> str | None:
        """Why these must not be served side by side, shares of other protocols aside; None when they may."""
        ...

    async def release(self) -> None:
        """Let go of the mount: the daemon has ended on return, and stays away until `apply` is called."""
        ...


def check_directory(directory: Path) -> Path:
    """A server's directory, if it can be one. InvalidExport."""
    plain_path(str(directory))
    if len(str(directory).encode()) > DIRECTORY_BYTES_MAX:
        raise InvalidExport(
            f"{directory} is too long a path for the sockets of a daemon (more than {DIRECTORY_BYTES_MAX} "
            "bytes): choose a shorter --state-dir"
        )
    return directory
