"""The SMB server of one gateway: smbd as a supervised child, with files and state of its own.

A change is applied in this order: the new configuration is written beside the old one and checked → accounts
and check program take their places → the configuration takes its place → smbd is started, or told to read it
again → sessions in shares that somebody may be in who could not come in now are ended. Others go on. When
the check fails, everything is as before.

smbd starts helpers for the listing of shares, which leave its process group; they end by themselves when
they have been idle, and are ended here with it.
"""

import errno
import logging
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import trio

from exports import accounts, smb_audit, tools
from exports.audit import AuditLog
from exports.audit_channel import AuditChannel, library
from exports.daemon import Daemon
from exports.errors import ExportError, ToolFailed
from exports.interfaces import reachable
from exports.model import User
from exports.probe import Answer
from exports.server import Offer, Placed, check_directory
from exports.settings import SmbSettings
from exports.smb_probe import ask_smb
from exports.smbconf import Places, allowed, render, render_check, rules
from exports.status import ServerStatus
from exports.supervisor import Command, KeptWaiting, never

SMBD = "/usr/sbin/smbd"
PRIVATE, PROGRAM = 0o600, 0o700
_SMBD = (SMBD, "--foreground", "--no-process-group", "--debug-stdout")
_HELPERS = "samba-dcerpcd.pid"
log = logging.getLogger(__name__)


class SmbServer:
    """See `exports.server.Server`."""

    def __init__(
        self,
        settings: SmbSettings,
        directory: Path,
        *,
        kept_waiting: KeptWaiting = never,
        audit: AuditLog | None = None,
    ) -> None:
        self._settings = settings
        self._audit = None if audit is None else AuditChannel(audit, "smb", smb_audit.operation)
        self._places = Places(directory)
        self._missing = ""
        environment: dict[str, str] = {}
        if not settings.realm:  # members of a domain have its accounts, by winbind
            try:
                environment = tools.accounts_environment(self._places.passwd, self._places.group)
            except ToolFailed as error:
                self._missing = f"{error}, and mount again"
        self._tools = tools.SambaTools(self._places.configuration, environment)
        command = Command(
            name="smbd",
            argv=(*_SMBD, f"--configfile={self._places.configuration}"),
            directory=self._places.directory,
            environment=self._preloaded(environment),
        )
        self._daemon = Daemon(
            command,
            self._audit,
            probe=self._ask,
            kept_waiting=kept_waiting,
            heard=self._heard,
            ended=self._end_helpers,
        )
        self._offer = Offer()
        self._served: tuple[Placed, ...] = ()
        self._problem = ""
        self._applying = trio.Lock()

    def _preloaded(self, environment: dict[str, str]) -> dict[str, str]:
        try:
            libraries = [library("_smb_preload")]
        except ToolFailed as error:
            self._missing = self._missing or str(error)
            return environment
        if "LD_PRELOAD" in environment:
            libraries.insert(0, environment["LD_PRELOAD"])
        return environment | {"LD_PRELOAD": ":".join(libraries)}

    def _heard(self, line: str) -> None:
        if self._audit is not None and (record := smb_audit.refusal(line)) is not None:
            self._audit.add(record)

    @property
    def status(self) -> ServerStatus:
        return ServerStatus(
            protocol="smb",
            health=self._daemon.supervisor.health,
            shares=tuple(placed.share.name for placed in self._served),
            problems={"": self._problem} if self._problem else {},
            listen=self._settings.listen,
            port=self._settings.port,
        )

    async def run(self) -> None:
        """Supervise smbd for as long as there is something to serve, until cancelled."""
        await self._daemon.run()

    async def apply(self, offer: Offer) -> None:
        """Serve this from now on. ExportError, and nothing has changed."""
        async with self._applying:
            shares = offer.over("smb")
            try:
                if shares:
                    await trio.to_thread.run_sync(self._write, offer, shares)
            except ExportError as error:
                self._problem = str(error)
                raise
            self._problem = ""
            before, self._offer = self._offer, offer
            served = self._served
            self._serve(shares)
            if not shares:
                await self._daemon.release()
            if not (served and shares and self._daemon.supervisor.health.state in ("starting", "running")):
                return
            if before.sid != offer.sid:
                await self._daemon.supervisor.restart()  # a server reads its own SID only once
                return
            try:
                await trio.to_thread.run_sync(self._reload, self._cut(before, offer))
            except ToolFailed as error:
                log.warning("smbd is started again, since it could not be told of a change: %s", error)
                await self._daemon.supervisor.restart()

    def refusal(self, shares: Iterable[Placed]) -> str | None:
        """None: each share of SMB is a domain of its own."""
        return None

    async def release(self) -> None:
        """smbd has ended on return, and stays away until `apply` is called."""
        self._serve(())
        await self._daemon.release()

    def _serve(self, shares: tuple[Placed, ...]) -> None:
        self._served = shares
        self._daemon.serve(shares)

    def _write(self, offer: Offer, shares: tuple[Placed, ...]) -> None:
        """Blocking: all files of the server, as they have to be for `offer`."""
        places = self._places
        if os.geteuid() != 0:
            raise ToolFailed("smbd must run as root, to act as the user who has connected: mount as root")
        if not os.access(SMBD, os.X_OK):
            raise ToolFailed(f"{SMBD} is not installed: install samba (see docs/operations.md)")
        if self._missing:
            raise ToolFailed(self._missing)
        check_directory(places.directory)
        try:
            for directory in places.directories:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            candidate = places.configuration.with_suffix(".new")
            _write(
                candidate, render(self._settings, shares, places, audited=self._audit is not None), PRIVATE
            )
            for path, text, mode in (
                (places.passwd, accounts.passwd(offer.users), 0o644),
                (places.group, accounts.group(offer.users), 0o644),
                (places.smbpasswd, accounts.smbpasswd(offer.users), PRIVATE),
                (places.check, render_check(shares), PROGRAM),
            ):
                _write(path.with_name(path.name + ".new"), text, mode)
            self._tools.check(candidate)
            for path in (places.passwd, places.group, places.smbpasswd, places.check):
                path.with_name(path.name + ".new").rename(path)
            candidate.rename(places.configuration)
        except OSError as error:
            raise ToolFailed(f"{error.filename or places.directory}: {error.strerror}") from None
        if offer.sid != self._offer.sid and not self._settings.realm:
            self._tools.set_sid(offer.sid)
        if self._settings.realm and not self._tools.is_member():
            raise ToolFailed(
                f"this host is no member of {self._settings.realm}: net ads join "
                f"--configfile={places.configuration} -U ADMINISTRATOR, and mount again"
            )

    def _cut(self, before: Offer, now: Offer) -> list[str]:
        """Shares in which somebody may be who could not connect now, or not in this way."""
        users = {user.name: _rights(user) for user in now.users}
        lost = [user for user in before.users if users.get(user.name) != _rights(user)]
        shares = {placed.share.name: placed for placed in now.over("smb")}
        return [old.share.name for old in before.over("smb") if self._cuts(old, shares, lost)]

    def _cuts(self, old: Placed, shares: dict[str, Placed], lost: Sequence[User]) -> bool:
        new = shares.get(old.share.name)
        if new is None:
            return True
        if rules(self._settings, old, self._places) != rules(self._settings, new, self._places):
            return True
        users, groups = map(set, allowed(old))
        if not (users <= set(allowed(new)[0]) and groups <= set(allowed(new)[1])):
            return True
        return any(user.name in users for user in lost)

    def _reload(self, cut: list[str]) -> None:
        """Blocking: let smbd read its files, and end all sessions in the shares `cut`."""
        self._tools.reload()
        for name in cut:
            self._tools.close_share(name)

    async def _ask(self) -> Answer:
        address = reachable(self._settings.listen)
        return Answer.OTHER if address is None else await ask_smb(address, self._settings.port)

    def _end_helpers(self) -> None:
        """Blocking: end what smbd left, if the process of that number is still one of ours."""
        try:
            number = int((self._places.lock / _HELPERS).read_text().strip())
            handle = os.pidfd_open(number)
        except (OSError, ValueError):
            return
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
            if b"--configfile=" + os.fsencode(self._places.configuration) in words:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                log.warning("helpers of smbd could not be ended: %s", error)
        finally:
            os.close(handle)


def _rights(user: User) -> User:
    """All of a user but the password."""
    return msgspec.structs.replace(user, nt_hash="")


def _write(path: Path, text: str, mode: int) -> None:
    """A new file with this mode from its first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
