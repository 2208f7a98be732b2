"""The shares of one gateway: what its volumes say, put together, offered by servers, changed as they run.

A volume registers for the time that it is shown. What all of them say becomes one offer, whenever something
has changed: shares in order of their volumes' numbers, so that of two that exclude each other it is always
the same one that is served. Servers run only while the mount is there, since they would serve the directory
below it otherwise; whoever unmounts calls `release` first, for they hold the mount as well.

A change is checked, merged into its volume's pending set, committed, and then applied. A volume that is read
here serves what its writer last shipped.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import trio

from exports import accounts
from exports.errors import ExportError
from exports.model import Share, User, conflicts
from exports.server import Offer, Placed, Server
from exports.status import ServerStatus
from fusegw.assembly import Runtime
from fusegw.clock import Entropy
from fusegw.config import VolumeSettings
from fusegw.control.protocol import PutShare, PutUser, RemoveShare, ShareChange, SharesReply
from fusegw.errors import Exists, FusegwError, Invalid, NotFound
from fusegw.shares import VolumeShares, new_sid
from fusegw.vfs.directories import VERSIONS

RETRY_S = 15.0
"""Until what could not be served is tried again."""
WATCH_S = 2.0
"""Between two looks whether the mount is still there."""

log = logging.getLogger(__name__)


class _Member(msgspec.Struct, frozen=True):
    """A volume that is shown, and what it says."""

    settings: VolumeSettings
    runtime: Runtime
    rows: VolumeShares

    @property
    def is_writer(self) -> bool:
        return not self.runtime.source.read_only and self.runtime.log.fenced is None


class Sharing:
    """See the module. Loop thread only.

    `is_mounted` looks whether the mount is there. `wanted` are the shares of the configuration, which are
    written into their volumes as these are shown.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        mountpoint: Path,
        *,
        wanted: Sequence[Share],
        entropy: Entropy,
        is_mounted: Callable[[], bool],
    ) -> None:
        self._servers = servers
        self._mountpoint = mountpoint
        self._wanted = wanted
        self._entropy = entropy
        self._is_mounted = is_mounted
        self._members: dict[str, _Member] = {}
        self._problems: dict[str, list[str]] = {}
        self._open = False
        self._dirty = trio.Event()
        self._lock = trio.Lock()

    @contextmanager
    def volume(self, settings: VolumeSettings, runtime: Runtime) -> Iterator[None]:
        """Offer what this volume says, for the time of the block."""
        rows = VolumeShares(runtime.metadata, volume=settings.volume, number=settings.volume_number)
        self._members[settings.volume] = _Member(settings, runtime, rows)
        self.look()
        try:
            yield
        finally:
            del self._members[settings.volume]
            self._problems.pop(settings.volume, None)
            self.look()

    def look(self) -> None:
        """Something may have changed."""
        self._dirty.set()

    async def run(self) -> None:
        """Serve, from `mounted` on, until cancelled."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(self._keep, server)
            nursery.start_soon(self._watch)
            failed = ""
            while True:
                with trio.move_on_after(RETRY_S if failed else math.inf):
                    await self._dirty.wait()
                self._dirty = trio.Event()
                before, failed = failed, await self._failure()
                if failed and failed != before:
                    log.error("%s", failed)

    async def _keep(self, server: Server) -> None:
        """Nothing that happens to a server may end the mount."""
        while True:
            try:
                await server.run()
            except Exception:
                log.exception("a server of shares failed, and begins again")
                await trio.sleep(RETRY_S)

    async def _failure(self) -> str:
        """Apply what is there; why that did not work, "" when it did."""
        try:
            await self._apply()
        except FusegwError as error:
            return str(error)
        except Exception as error:
            log.exception("shares could not be applied")
            return f"unexpected {type(error).__name__}"
        return ""

    def mounted(self) -> None:
        """The mount is there: begin, or go on."""
        self._open = True
        self.look()

    async def release(self) -> None:
        """Let go of the mount, until `mounted` is called again."""
        self._open = False
        async with self._lock, trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.release)

    def status(self) -> tuple[ServerStatus, ...]:
        """Of the servers that have something to say."""
        found = [server.status for server in self._servers]
        return tuple(one for one in found if one.shares or one.problems or one.health.state != "stopped")

    def problems(self, volume: str) -> tuple[str, ...]:
        """What a volume says that is not served, and why."""
        member = self._members.get(volume)
        return (*(member.rows.problems if member else ()), *self._problems.get(volume, ()))

    def listing(self, volume: str) -> SharesReply:
        """What a volume says; users without their hashes."""
        rows = self._member(volume).rows
        return SharesReply(
            shares=tuple(rows.shares().values()),
            users=tuple(msgspec.structs.replace(user, nt_hash="") for user in rows.users().values()),
        )

    async def change(self, volume: str, change: ShareChange) -> SharesReply:
        """Make it durable and apply it. Invalid, Exists, NotFound, Full; what the commit meets."""
        member = self._member(volume)
        if not member.is_writer:
            raise Invalid(f"volume {volume!r} is read only here: change its shares at its writer")
        if isinstance(change, PutShare):
            await self._check_directory(member, change.share)
        async with self._lock:
            self._merge(member, change)
            await member.runtime.committer.commit()
        await self._apply()
        return self.listing(volume)

    def _merge(self, member: _Member, change: ShareChange) -> None:
        if isinstance(change, PutShare):
            self._check_free(member, change.share)
            self._check_company(member, change.share)
        elif isinstance(change, PutUser):
            self._check_user(member, change.user)
        if isinstance(change, PutShare | RemoveShare):
            name = change.share.name if isinstance(change, PutShare) else change.name
            if any(wanted.name == name for wanted in self._wanted_of(member)):
                raise Invalid(f"share {name!r} is in the configuration file: change it there and mount again")
        merge_change(member.rows, change)

    def _member(self, volume: str) -> _Member:
        member = self._members.get(volume)
        if member is None:
            raise NotFound(f"volume {volume!r} is not shown at present")
        return member

    def _check_free(self, member: _Member, share: Share) -> None:
        for other in self._members.values():
            if other is member:
                continue
            for name in other.rows.shares():
                if name.casefold() == share.name.casefold():
                    raise Exists(
                        f"volume {other.settings.volume!r} has a share {name!r}: choose another name"
                    )

    def _check_company(self, member: _Member, share: Share) -> None:
        """That no server refuses to serve it beside the others. What was refused before does not count: it
        may be what is being mended, step by step."""
        others = [
            self._placed(other, one, {})
            for other in self._members.values()
            for one in other.rows.shares().values()
            if other.settings.fixed_at is None and not (other is member and one.name == share.name)
        ]
        for server in self._servers:
            why = server.refusal([*others, self._placed(member, share, {})])
            if why and not server.refusal(others):
                raise Invalid(why)

    def _check_user(self, member: _Member, user: User) -> None:
        for other in self._members.values():
            for one in other.rows.users().values():
                if other is not member and one.name == user.name:
                    raise Exists(
                        f"volume {other.rows.volume!r} has a user {user.name!r}: name it in the shares that "
                        "it may use as well"
                    )
                if one.name != user.name and one.uid == user.uid:
                    raise Exists(f"number {user.uid} is that of user {one.name!r}: choose another")
                for name, gid in one.groups.items():
                    if one.name != user.name and user.groups.get(name, gid) != gid:
                        raise Exists(f"group {name!r} has number {gid}, not {user.groups[name]}")

    async def _check_directory(self, member: _Member, share: Share) -> None:
        """That it is a directory of the volume, not reached by a link; when the mount is there to look."""
        if self._open:
            place = _directory(member, share)
            if await trio.to_thread.run_sync(
                os.path.realpath, place
            ) != place or not await trio.to_thread.run_sync(os.path.isdir, place):
                raise NotFound(
                    f"volume {member.settings.volume!r} has no directory {share.path!r} (links are not "
                    f"followed): make it first, it is {place} on this host"
                )

    def _wanted_of(self, member: _Member) -> list[Share]:
        return [share for share in self._wanted if share.volume == member.settings.volume]

    def _adopt(self, member: _Member) -> None:
        """Write into the volume what the configuration wants of it."""
        if not member.is_writer:
            return
        for share in self._wanted_of(member):
            try:
                before = member.rows.shares().get(share.name)
                if before is None or msgspec.structs.replace(before, export_id=0) != share:
                    member.rows.put_share(share)
            except FusegwError as error:
                log.error("share %r of the configuration: %s", share.name, error)

    async def _apply(self) -> None:
        """Have the servers offer what the volumes say now. Invalid when one of them cannot."""
        async with self._lock:
            if not self._open:
                return
            offer = await self._offer()
            failures = []
            for server in self._servers:
                try:
                    await server.apply(offer)
                except ExportError as error:
                    failures.append(str(error))
        if failures:
            raise Invalid(f"shares are kept, but not served as they should be: {'; '.join(failures)}")

    async def _offer(self) -> Offer:
        members = sorted(self._members.values(), key=lambda member: member.settings.volume_number)
        # An older state is one of the same volume, and would offer the same shares once more.
        members = [member for member in members if member.settings.fixed_at is None]
        self._problems = {member.settings.volume: [] for member in members}
        for member in members:
            self._adopt(member)
        users = self._users(members)
        found = [(member, share) for member in members for share in member.rows.shares().values()]
        excluded = conflicts(share for _, share in found)
        placed = []
        for member, share in found:
            why = excluded.get(f"{share.volume}:{share.name}") or _unserved(member, share, users)
            if why is None:
                try:
                    placed.append(self._placed(member, share, users))
                except ExportError as error:
                    why = str(error)
            if why is not None:
                self._problems[member.settings.volume].append(f"share {share.name!r}: {why}")
        return Offer(shares=tuple(placed), users=tuple(users.values()), sid=await self._sid(members))

    def _users(self, members: Sequence[_Member]) -> dict[str, User]:
        """Those of all volumes. A name or a number means one user or group in the whole gateway; who comes
        second does without."""
        users: dict[str, User] = {}
        for member in members:
            problems = self._problems[member.settings.volume]
            for user in member.rows.users().values():
                taken = [one for one in users.values() if one.name == user.name or one.uid == user.uid]
                if taken:
                    problems.append(
                        f"user {user.name!r}: its name or number is that of user {taken[0].name!r} already"
                    )
                    continue
                known = accounts.ids(users.values())
                groups = {name: gid for name, gid in user.groups.items() if known.get(name, gid) == gid}
                for name in user.groups.keys() - groups.keys():
                    problems.append(f"user {user.name!r}: not in group {name!r}, which has another number")
                users[user.name] = msgspec.structs.replace(user, groups=groups)
        return users

    def _placed(self, member: _Member, share: Share, users: dict[str, User]) -> Placed:
        return Placed(
            share=share,
            mountpoint=str(self._mountpoint),
            directory=_directory(member, share),
            tree=str(member.settings.mountpoint),
            versions=str(member.settings.mountpoint / os.fsdecode(VERSIONS)),
            read_only=share.read_only or member.runtime.source.read_only,
            members=_allowed(share, member.rows.users(), users),
        )

    async def _sid(self, members: Sequence[_Member]) -> str:
        """The server's; made up and kept when no volume with shares has one yet."""
        sid = next((member.rows.sid for member in members if member.rows.sid), None)
        sid = sid or new_sid(self._entropy.token(12))
        for member in members:
            if member.is_writer and member.rows.sid is None and member.rows.shares():
                member.rows.put_sid(sid)
                await member.runtime.committer.commit()
        return sid

    async def _watch(self) -> None:
        """A mount that was taken away by others is let go of."""
        while True:
            await trio.sleep(WATCH_S)
            if self._open and self.status() and not await trio.to_thread.run_sync(self._is_mounted):
                log.warning("%s is not mounted any more: its shares end", self._mountpoint)
                await self.release()


def merge_change(rows: VolumeShares, change: ShareChange) -> None:
    """Make the change part of what is to be committed. Exists, NotFound, Full, UnknownFormat."""
    if isinstance(change, PutShare):
        _expect(change.share.name in rows.shares(), change.edit, "share", change.share.name)
        rows.put_share(change.share)
    elif isinstance(change, RemoveShare):
        rows.remove_share(change.name)
    elif isinstance(change, PutUser):
        _expect(change.user.name in rows.users(), change.edit, "user", change.user.name)
        rows.put_user(change.user)
    else:
        rows.remove_user(change.name)


def _directory(member: _Member, share: Share) -> str:
    return str(member.settings.mountpoint) + ("" if share.path == "/" else share.path)


def _allowed(share: Share, own: dict[str, User], users: dict[str, User]) -> tuple[str, ...]:
    """Who may connect: by name whoever is meant, by group and where nothing is said the volume's own users.

    A user of another volume who took the name of one of this volume is not meant.
    """
    there = {
        name
        for name, user in own.items()
        if name in users and (users[name].uid, users[name].nt_hash) == (user.uid, user.nt_hash)
    }
    if not share.users and not share.groups:
        return tuple(sorted(there))
    named = {name for name in share.users if name in there or name not in own}
    grouped = {name for name in there if set(users[name].groups) & set(share.groups)}
    return tuple(sorted(named | grouped))


def _expect(known: bool, edit: bool, kind: str, name: str) -> None:
    if known and not edit:
        raise Exists(f"there is a {kind} {name!r} already: choose another name, or change that one")
    if edit and not known:
        raise NotFound(f"there is no {kind} {name!r}; see fusegw export list")


def _unserved(member: _Member, share: Share, users: dict[str, User]) -> str | None:
    """Why the servers would refuse everybody; they do not say so themselves."""
    if not member.settings.allow_other:
        return "the mount keeps other users out: mount it with -o allow_other"
    if share.force_user and share.force_user not in users:
        return f"its force_user {share.force_user!r} is no user here: add it with fusegw export user add"
    groups = accounts.ids(users.values())
    if share.force_group and share.force_group not in groups:
        return f"its force_group {share.force_group!r} is no group of any user here"
    return None
