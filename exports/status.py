"""How the servers of shares are doing: what commands are told, and no more to import than that."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from exports.model import Protocol

State = Literal["starting", "running", "waiting", "stopped"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon is doing."""

    state: State
    """waiting: it ended, and is started again after a pause."""
    pid: int | None = None
    restarts: int = 0
    """Since the gateway began; those that were asked for are not counted."""
    misses: int = 0
    """How often in a row it gave no answer until now; after a few it is started again."""
    up_s: float | None = None
    """Since it was started; None when it does not run."""
    last_error: str | None = None
    """How it ended, or could not be started, the last time that it should not have."""


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a protocol is doing."""

    protocol: Protocol
    health: Health
    shares: tuple[str, ...] = ()
    """Those that are served, by name."""
    problems: Mapping[str, str] = {}
    """Shares that are not served although they are offered, and why; "" for what concerns all of them."""
    listen: tuple[str, ...] = ()
    port: int = 0
