"""The NFS server of one gateway: nfs-ganesha as a supervised child, with files and state of its own.

ganesha can neither check a configuration nor take back one that it has read with an error: it drops all
shares then. So what it reads is checked here to the last word, and shares that it could not serve (no such
directory, no address for any host, handles that would let in others) are left out and named in `status`. A
change is written beside the file, takes its place, and ganesha is told to read it again; only what changed
is touched. A share that gets another name or directory is taken away and put back: ganesha cannot.
When it does not answer that it has read the file, it is started again, which clients of NFS sit out.

Each start has a greater epoch, on disk before it is used: it is what tells clients that what they wrote and
did not commit may be lost.
"""

import glob
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from exports import ganesha, nfs_audit
from exports.audit import AuditLog
from exports.audit_channel import AuditChannel
from exports.daemon import Daemon
from exports.errors import InvalidExport, ToolFailed
from exports.ganesha import Served
from exports.nfs_probe import ask_nfs
from exports.probe import Answer
from exports.server import Offer, Placed
from exports.settings import NfsSettings
from exports.status import ServerStatus
from exports.supervisor import READY_S, KeptWaiting, never

REREAD_S = 5.0
"""ganesha has read a changed configuration after this, or is started again."""
END_S = 5.0
"""A ganesha that another gateway left here is gone after this, once killed."""
_REREAD = "Reread exports complete"
_UNBOUND = "Error binding"

log = logging.getLogger(__name__)


class NfsServer:
    """See `exports.server.Server`.

    `fsid` as in `ganesha.command`; `now_s` is the wall clock, in s since 1970.
    """

    def __init__(
        self,
        settings: NfsSettings,
        directory: Path,
        *,
        mountpoint: Path,
        fsid: int,
        now_s: Callable[[], float],
        kept_waiting: KeptWaiting = never,
        audit: AuditLog | None = None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._now_s = now_s
        self._daemon = Daemon(
            ganesha.command(settings, directory, mountpoint=mountpoint, fsid=fsid),
            None if audit is None else AuditChannel(audit, "nfs", nfs_audit.operation),
            probe=self._ask,
            kept_waiting=kept_waiting,
            arguments=self._next_epoch,
            heard=self._heard,
        )
        self._served: tuple[Served, ...] = ()
        self._problems: dict[str, str] = {}
        self._first = True
        self._reread = trio.Event()
        self._applying = trio.Lock()

    @property
    def status(self) -> ServerStatus:
        health, problems = self._daemon.supervisor.health, self._problems
        if health.state in ("waiting", "starting") and _UNBOUND in (health.last_error or ""):
            chosen = self._settings
            problems = problems | {
                "": f"nfs-ganesha cannot listen at {chosen.listen}, ports {chosen.port} and "
                f"{chosen.mount_port}: is another NFS server running, or is that no address of this host?"
            }
        return ServerStatus(
            protocol="nfs",
            health=health,
            shares=tuple(served.placed.share.name for served in self._served),
            problems=problems,
            listen=(self._settings.listen,),
            port=self._settings.port,
        )

    async def run(self) -> None:
        """Supervise ganesha for as long as there is something to serve, until cancelled."""
        await self._daemon.run()

    async def apply(self, offer: Offer) -> None:
        """Serve this from now on, but for the shares that cannot be. ExportError, and nothing has changed."""
        async with self._applying:
            placed = offer.over("nfs")
            served: tuple[Served, ...] = ()
            problems: dict[str, str] = {}
            if placed:
                try:
                    served, problems = await trio.to_thread.run_sync(self._prepare, placed)
                    if served:
                        await trio.to_thread.run_sync(self._write, served)
                except (InvalidExport, ToolFailed) as error:
                    self._problems = {"": str(error)}
                    raise
            before, self._problems = self._served, problems
            self._serve(served)
            if not served:
                await self._daemon.release()
            elif before and before != served:
                await self._tell(before, served)

    async def release(self) -> None:
        """ganesha has ended on return, and stays away until `apply` is called."""
        self._serve(())
        await self._daemon.release()

    def refusal(self, shares: Iterable[Placed]) -> str | None:
        """See `ganesha.forgeable`."""
        return ganesha.forgeable(placed for placed in shares if placed.share.serves("nfs"))

    async def _tell(self, before: tuple[Served, ...], now: tuple[Served, ...]) -> None:
        """Have the running ganesha read the file that lies there for `now`."""
        if self._daemon.supervisor.health.state == "waiting":
            return  # its next start reads what lies there
        with trio.move_on_after(READY_S):
            await self._daemon.supervisor.running()
        places = {served.export_id: _place(served) for served in before}
        staying = tuple(
            served for served in now if places.get(served.export_id, _place(served)) == _place(served)
        )
        told = True
        if staying != now:
            await trio.to_thread.run_sync(self._write, staying)
            told = await self._read_again()
            await trio.to_thread.run_sync(self._write, now)
        if not (told and await self._read_again()):
            log.warning("nfs-ganesha is started again, since it did not read its changed configuration")
            await self._daemon.supervisor.restart()

    async def _read_again(self) -> bool:
        """Whether ganesha read its configuration again."""
        self._reread = trio.Event()
        if not self._daemon.supervisor.send(signal.SIGHUP):
            return False
        with trio.move_on_after(REREAD_S):
            await self._reread.wait()
        return self._reread.is_set()

    def _heard(self, line: str) -> None:
        if _REREAD in line:
            self._reread.set()

    def _serve(self, served: tuple[Served, ...]) -> None:
        self._served = served
        self._daemon.serve(one.placed for one in served)

    def _prepare(self, placed: tuple[Placed, ...]) -> tuple[tuple[Served, ...], dict[str, str]]:
        """Blocking: those of `placed` that can be served, and why the others cannot. ToolFailed."""
        self._check_installed()
        if self._first:
            _make_directory(self._directory)
            _end_former(ganesha.pid_file(self._directory), ganesha.config_file(self._directory))
            self._first = False
        served: list[Served] = []
        problems = {}
        for one in placed:
            share = one.share
            try:
                if why := self.refusal((*(other.placed for other in served), one)):
                    raise InvalidExport(why)
                if not os.path.isdir(one.directory):
                    raise InvalidExport(f"{one.directory} is no directory")
                ready = Served(one, _addresses(share.hosts))
                ganesha.configuration(self._settings, self._directory, [*served, ready])
            except InvalidExport as error:
                problems[share.name] = str(error)
            else:
                served.append(ready)
        return tuple(served), problems

    def _check_installed(self) -> None:
        if os.geteuid() != 0:
            raise ToolFailed(
                "nfs-ganesha must run as root, to act as the users of its clients: mount as root"
            )
        if not os.access(ganesha.PROGRAM, os.X_OK) or not glob.glob(ganesha.MODULE):
            raise ToolFailed("NFS needs nfs-ganesha, which is not installed: see docs/operations.md")
        if ganesha.preload_library() is None:
            raise ToolFailed(
                "fusegw was installed without its library for nfs-ganesha (exports/nfs_preload.c): "
                "install it again, where there is a C compiler"
            )

    def _write(self, served: tuple[Served, ...]) -> None:
        """Blocking: the configuration, whole or not at all."""
        text = ganesha.configuration(self._settings, self._directory, served)
        try:
            _replace(ganesha.config_file(self._directory), text)
        except OSError as error:
            raise ToolFailed(f"{error.filename or self._directory}: {error.strerror}") from None

    def _next_epoch(self) -> tuple[str, ...]:
        """The arguments of one start."""
        file = self._directory / "epoch"
        try:
            last = int(file.read_text())
        except (FileNotFoundError, ValueError):
            last = 0
        epoch = ganesha.next_epoch(last, int(self._now_s()))
        _replace(file, f"{epoch}\n")
        return ("-E", str(epoch))

    async def _ask(self) -> Answer:
        return await ask_nfs(self._settings.address, self._settings.port)


def _place(served: Served) -> tuple[str, str]:
    """What of a share ganesha cannot change: its name (it does, and crashes later) and its directory."""
    return served.placed.share.name, served.placed.directory


def _addresses(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Blocking: addresses and networks as they are, names as what they stand for now. InvalidExport when
    not one is known."""
    found: dict[str, None] = {}
    for host in hosts:
        if ganesha.is_address(host):
            found[host] = None
            continue
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            log.warning("host %s has no address: it is not let in over NFS", host)
            continue
        found.update({str(answer[4][0]).partition("%")[0]: None for answer in answers})
    if hosts and not found:
        raise InvalidExport(f"none of its hosts has an address: {', '.join(hosts)}")
    return tuple(found)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "krb5").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ToolFailed(f"{error.filename or directory}: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    """`text` in the place of what is at `path`, durable on return. OSError."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _end_former(pid_file: Path, config_file: Path) -> None:
    """Blocking: kill a ganesha that serves from this very configuration file and outlived its gateway.

    It ends by itself with its gateway; this is for one that is stuck. ToolFailed when it cannot be ended.
    """
    try:
        number = int(pid_file.read_text().strip())
        handle = os.pidfd_open(number)
    except (OSError, ValueError):
        return
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(config_file) not in words:
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not select.select([handle], [], [], END_S)[0]:
            raise ToolFailed(
                f"nfs-ganesha of a former gateway (process {number}) does not end: see ps -l {number}"
            )
    except (ProcessLookupError, FileNotFoundError):
        pass
    finally:
        os.close(handle)
