"""Extended attributes, POSIX ACLs among them.

Attributes of the spaces `user.` (files and directories only), `trusted.` and `security.` are kept as they
come. `system.posix_acl_access` and `_default` are checked and change what they must: an access ACL sets the
mode and is stored only when it says more than the mode; a default ACL exists only on directories.

`user.fusegw.state` is not kept but answered: how safe all that was acknowledged of the inode is (`Standing`).
It can be read, of any kind of inode, and is never listed, so nobody copies it along with a file. Likewise
`user.fusegw.quota`: what the limits of quotas leave there, ENODATA where there are none.
"""

import errno
import stat
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.meta.metadata import Metadata
from fusegw.meta.past import Readable
from fusegw.meta.schema import XATTR, Inode
from fusegw.meta.unshipped import Standing
from fusegw.vfs import acl
from fusegw.vfs.caller import Caller
from fusegw.vfs.directories import InodeSource
from fusegw.vfs.inodes import Inodes

STATE = b"user.fusegw.state"
QUOTA = b"user.fusegw.quota"
CREATE = 1
REPLACE = 2
NAME_MAX = 255
VALUE_MAX = 1 << 16
LIST_MAX = 1 << 16
"""Most bytes listxattr may return: names, each with a NUL."""
TOTAL_MAX = 1 << 20
"""Most bytes of names and values one inode may have."""
_ACLS = frozenset((acl.ACCESS_ACL, acl.DEFAULT_ACL))
_USER, _TRUSTED = b"user.", b"trusted."
_SPACES = (_USER, _TRUSTED, b"security.")


class XattrReader:
    """The extended attributes in `rows` of the inodes that `inodes` has; `standing` tells how safe one is.
    Loop thread only."""

    def __init__(self, rows: Readable, inodes: InodeSource, *, standing: Callable[[int], Standing]) -> None:
        self._rows = rows
        self._find = inodes.get
        self._standing = standing

    def get(self, ino: int, name: bytes) -> bytes:
        """The value; OSError ENODATA, EOPNOTSUPP (unknown space, symlink's ACL), ERANGE, EINVAL, ESTALE."""
        if name == STATE:
            self._inode(ino)
            return self._standing(ino).value.encode()
        if len(name) <= NAME_MAX:
            value = self._rows.get(XATTR, (ino, name))
            if value is not None:
                return value
        self._check(self._inode(ino), name, errno.ENODATA)
        raise OSError(errno.ENODATA, f"inode {ino} has no {name!r}")

    def list(self, ino: int, caller: Caller | None = None) -> list[bytes]:
        """The names, in byte order; `trusted.` ones only for the privileged (no caller: the gateway
        itself).
        """
        self._inode(ino)
        names = [name for name, _ in self._kept(ino)]
        if caller is not None and not caller.privileged:
            return [name for name in names if not name.startswith(_TRUSTED)]
        return names

    def _check(self, inode: Inode, name: bytes, user_refusal: int) -> None:
        """Whether `inode` may have such an attribute at all; `user_refusal` is what `user.` ones give
        otherwise.
        """
        if name in (STATE, QUOTA):
            raise OSError(errno.EPERM, f"{name.decode()} tells how things are, it cannot be set")
        if not 0 < len(name) <= NAME_MAX:
            raise OSError(errno.ERANGE, f"attribute name of {len(name)} bytes, 1 to {NAME_MAX} are allowed")
        if name in _ACLS:
            if stat.S_ISLNK(inode.mode):
                raise OSError(errno.EOPNOTSUPP, f"inode {inode.ino} is a symlink, it has no ACL")
        elif not name.startswith(_SPACES):
            raise OSError(errno.EOPNOTSUPP, f"attributes like {name!r} are not kept")
        elif name.startswith(_USER) and not (inode.is_file or inode.is_dir):
            raise OSError(user_refusal, "only files and directories have user attributes")
        elif name in _SPACES:
            raise OSError(errno.EINVAL, f"{name!r} is no complete attribute name")

    def _kept(self, ino: int) -> Iterator[tuple[bytes, bytes]]:
        for (_, name), value in self._rows.scan(XATTR, (ino, b""), (ino + 1, b"")):
            yield name, value

    def _inode(self, ino: int) -> Inode:
        inode = self._find(ino)
        if inode is None:
            raise OSError(errno.ESTALE, f"inode {ino} is gone")
        return inode


class Xattrs(XattrReader):
    """The extended attributes of one volume's inodes, as they are read and changed. Loop thread only."""

    def __init__(
        self, metadata: Metadata, inodes: Inodes, *, clock: Clock, standing: Callable[[int], Standing]
    ) -> None:
        super().__init__(metadata, inodes, standing=standing)
        self._metadata = metadata
        self._inodes = inodes
        self._clock = clock

    def get(self, ino: int, name: bytes) -> bytes:
        """See `XattrReader.get`."""
        return self._quota(ino) if name == QUOTA else super().get(ino, name)

    def _quota(self, ino: int) -> bytes:
        """Lines "bytes USED LEFT" and "files USED LEFT", as far as there are such limits."""
        room = self._inodes.usage.room(self._inode(ino).quota)
        lines = []
        if room.bytes_left is not None:
            lines.append(f"bytes {room.bytes_used} {room.bytes_left}")
        if room.files_left is not None:
            lines.append(f"files {room.files_used} {room.files_left}")
        if not lines:
            raise OSError(errno.ENODATA, f"no quota limits inode {ino}")
        return "\n".join(lines).encode()

    def set(self, ino: int, name: bytes, value: bytes, flags: int = 0, caller: Caller | None = None) -> None:
        """Create or replace; OSError EEXIST (CREATE), ENODATA (REPLACE), E2BIG, ENOSPC, EPERM, and those of
        `get`.

        ACLs: EINVAL (malformed), EACCES (default ACL of what is no directory); an empty one removes.
        """
        if flags & ~(CREATE | REPLACE):
            raise OSError(errno.EINVAL, f"setxattr cannot honour flags {flags:#x}")
        if len(value) > VALUE_MAX:
            raise OSError(errno.E2BIG, f"value of {len(value)} bytes, {VALUE_MAX} are allowed")
        inode = self._inode(ino)
        entries = acl.parse(value) if name in _ACLS else None
        self._check(inode, name, errno.EPERM)
        if name in _ACLS:
            self._set_acl(inode, name, entries, caller)
            return
        old = self._metadata.get(XATTR, (ino, name))
        if old is None:
            if flags & REPLACE:
                raise OSError(errno.ENODATA, f"inode {ino} has no {name!r}")
        elif flags & CREATE:
            raise OSError(errno.EEXIST, f"inode {ino} has {name!r} already")
        self._check_room(ino, name, value)
        self._put(inode, name, value, inode.mode)

    def remove(self, ino: int, name: bytes) -> None:
        """OSError ENODATA (an ACL that is not there is removed with success), EPERM, and those of `get`."""
        inode = self._inode(ino)
        self._check(inode, name, errno.EPERM)
        if name not in _ACLS and self._metadata.get(XATTR, (ino, name)) is None:
            raise OSError(errno.ENODATA, f"inode {ino} has no {name!r}")
        self._put(inode, name, None, inode.mode)

    def _check_room(self, ino: int, name: bytes, value: bytes) -> None:
        names, total = len(name) + 1, len(name) + len(value)
        for other, content in self._kept(ino):
            if other != name:
                names += len(other) + 1
                total += len(other) + len(content)
        if names > LIST_MAX or total > TOTAL_MAX:
            raise OSError(errno.ENOSPC, f"inode {ino} has no room for {name!r} beside its other attributes")

    def _set_acl(self, inode: Inode, name: bytes, entries: acl.Acl | None, caller: Caller | None) -> None:
        if name == acl.DEFAULT_ACL and not inode.is_dir:
            if entries is not None:
                raise OSError(errno.EACCES, f"inode {inode.ino} is no directory, it has no default ACL")
            return
        if entries is None:
            self.remove(inode.ino, name)
            return
        acl.validate(entries)
        value = acl.encode(entries)
        self._check_room(inode.ino, name, value)
        if name == acl.DEFAULT_ACL:
            self._put(inode, name, value, inode.mode)
            return
        mode = inode.mode & ~0o777 | acl.mode_bits(entries)
        if caller is not None and mode & stat.S_ISGID and not caller.keeps_setgid(inode.gid):
            mode &= ~stat.S_ISGID
        self._put(inode, name, None if acl.is_minimal(entries) else value, mode)

    def _put(self, inode: Inode, name: bytes, value: bytes | None, mode: int) -> None:
        """Make it so (None: absent); ctime moves only when that changes anything."""
        if mode == inode.mode and value == self._metadata.get(XATTR, (inode.ino, name)):
            return
        change = self._metadata.change()
        self._inodes.put(change, replace(inode, mode=mode, ctime_ns=self._clock.time_ns()))
        if value is None:
            change.delete(XATTR, (inode.ino, name))
        else:
            change.put(XATTR, (inode.ino, name), value)
        change.merge()
