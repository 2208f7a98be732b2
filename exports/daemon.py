"""A protocol's daemon, kept running for as long as there is something to serve.

Nothing to serve means that it has ended: one that is ending must not meet the shares that come next. What it
tells the audit log is heard to its end.
"""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
import trio

from exports.audit_channel import AuditChannel
from exports.probe import Answer
from exports.server import Placed
from exports.supervisor import Command, KeptWaiting, Supervisor


class Daemon:
    """Loop thread only. `probe`, `kept_waiting`, `arguments` and `heard` are the `Supervisor`'s; `ended` is
    called in a worker thread each time that there is nothing more to serve."""

    def __init__(
        self,
        command: Command,
        audit: AuditChannel | None,
        *,
        probe: Callable[[], Awaitable[Answer]],
        kept_waiting: KeptWaiting,
        arguments: Callable[[], tuple[str, ...]] = tuple,
        heard: Callable[[str], None] = lambda line: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._audit = audit
        if audit is not None:
            command = msgspec.structs.replace(command, environment=command.environment | audit.environment)
        self.supervisor = Supervisor(
            command,
            probe=probe,
            kept_waiting=kept_waiting,
            arguments=arguments,
            heard=heard,
            descriptors=() if audit is None else (audit.descriptor,),
        )
        self._ended = ended
        self._shares: tuple[Placed, ...] = ()
        self._turned = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def serve(self, placed: Iterable[Placed]) -> None:
        """From now on there are these; what the daemon reads must lie there for them already."""
        self._shares = tuple(placed)
        if self._audit is not None:
            self._audit.serve(self._shares)
        turned, self._turned = self._turned, trio.Event()
        turned.set()

    async def release(self) -> None:
        """It has ended on return, and stays away until `serve` is called."""
        self.serve(())
        await self._idle.wait()

    async def run(self) -> None:
        """Supervise it whenever there is something to serve, until cancelled."""
        if self._audit is None:
            await self._attend()
            return
        auditing = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._audit.run, auditing)
            try:
                await self._attend()
            finally:
                auditing.cancel()

    async def _attend(self) -> None:
        while True:
            turned = self._turned
            if not self._shares:
                await turned.wait()
                continue
            self._idle = trio.Event()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.supervisor.run)
                    while self._shares:
                        await self._turned.wait()
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._ended)
                self._idle.set()
