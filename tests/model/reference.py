"""What a POSIX file system does, in plain dicts: the model every layer of the real one is compared with.

Operations take inode numbers and names as a FUSE server gets them, return plain values and fail with the
OSError Linux's ext4 gives (`test_reference_is_ext4` holds it to that). Everything that can be derived is
derived and never stored, so the model cannot drift: link counts are counted, a directory's parent is found
by search, times are `now`, which the test sets. Permissions are not checked, as the kernel does that.

Inode numbers are handed out in order from 1 (the root) and never again. What has lost its last name stays
until `release`. Listings come in the order of the entries' cookies: new names last, a name taken over in
place.
"""

import copy
import errno
import stat
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from tests.model.reference_acl import AclValue, fail, parse_acl

ROOT = 1
NOREPLACE, EXCHANGE = 1, 2
CREATE, REPLACE = 1, 2
ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"


class Who(Protocol):
    """The caller; uid 0 is privileged."""

    uid: int
    gid: int
    groups: Any


@dataclass
class Node:
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    target: bytes = b""
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True)
class Stat:
    """What stat(2) shows; `size` only of files and symlinks."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Reference:
    """One tree. Set `now` (ns) before an operation."""

    def __init__(self, *, uid: int = 0, gid: int = 0, mode: int = 0o755, now: int = 0) -> None:
        self.now = now
        self.nodes = {ROOT: Node(stat.S_IFDIR | mode, uid, gid, now, now, now)}
        self.next_ino = ROOT + 1

    def copy(self) -> Self:
        """A copy that goes its own way."""
        return copy.deepcopy(self)

    def become(self, other: "Reference") -> None:
        """All is as in `other`, but numbers that were handed out since never come back."""
        self.nodes = copy.deepcopy(other.nodes)

    def clone(self, past: "Reference", source: int, parent: int, name: bytes, *, over: bool) -> None:
        """A copy of what `past` has, in the order in which the inode numbers are handed out."""
        directory = self.directory(parent)
        if name in directory.entries and not over:
            raise fail(errno.EEXIST)
        copies: dict[int, int] = {}

        def make(ino: int) -> int:
            if ino not in copies:
                copies[ino], self.next_ino = self.next_ino, self.next_ino + 1
                node = self.nodes[copies[ino]] = copy.deepcopy(past.nodes[ino])
                node.entries, node.ctime_ns = {}, self.now
            return copies[ino]

        root = make(source)
        work = [source]
        while work:
            ino = work.pop()
            for entry, child in past.nodes[ino].entries.items():
                self.nodes[copies[ino]].entries[entry] = make(child)
                if past.nodes[child].is_dir:
                    work.append(child)
        replaced = directory.entries.get(name)
        directory.entries[name] = root
        if replaced is not None:
            self._drop_tree(replaced)
        self._touched(parent)

    def _drop_tree(self, ino: int) -> None:
        """What lies below a directory without a name goes, as far as it has no other."""
        node = self.nodes[ino]
        if not node.is_dir:
            return
        for child in list(node.entries.values()):
            self._drop_tree(child)
        node.entries.clear()

    def snapshot(self) -> dict[int, tuple[Stat, dict[bytes, int], dict[bytes, bytes], bytes, bytes]]:
        """All there is, as plain comparable values: (stat, entries in order, xattrs, target, data) by
        inode.
        """
        return {
            ino: (self.stat(ino), dict(node.entries), dict(node.xattrs), node.target, bytes(node.data))
            for ino, node in self.nodes.items()
        }

    # finding

    def node(self, ino: int) -> Node:
        try:
            return self.nodes[ino]
        except KeyError:
            raise fail(errno.ESTALE) from None

    def directory(self, ino: int) -> Node:
        node = self.node(ino)
        if not node.is_dir:
            raise fail(errno.ENOTDIR)
        return node

    def parent(self, ino: int) -> int:
        """The directory a directory lies in; 0 when it was removed."""
        if ino == ROOT:
            return ROOT
        return next((at for at, node in self.nodes.items() if ino in node.entries.values()), 0)

    def nlink(self, ino: int) -> int:
        if self.nodes[ino].is_dir:
            if not self.parent(ino):
                return 0
            return 2 + sum(self.nodes[child].is_dir for child in self.nodes[ino].entries.values())
        return sum(list(node.entries.values()).count(ino) for node in self.nodes.values())

    def stat(self, ino: int) -> Stat:
        node = self.node(ino)
        return Stat(
            ino,
            node.mode,
            self.nlink(ino),
            node.uid,
            node.gid,
            len(node.target) or len(node.data),
            node.rdev,
            node.atime_ns,
            node.mtime_ns,
            node.ctime_ns,
        )

    def lookup(self, parent: int, name: bytes) -> int | None:
        if name == b".":
            self.node(parent)
            if not self.nlink(parent):
                raise fail(errno.ESTALE)
            return parent
        directory = self.directory(parent)
        if name == b"..":
            above = self.parent(parent)
            if not above:
                raise fail(errno.ESTALE)
            return above
        if len(name) > 255 and self.parent(parent):
            raise fail(errno.ENAMETOOLONG)
        return directory.entries.get(name)

    def readlink(self, ino: int) -> bytes:
        node = self.node(ino)
        if not node.is_link:
            raise fail(errno.EINVAL)
        return node.target

    def readdir(self, ino: int) -> list[tuple[bytes, int]]:
        """(name, inode) in the order of their cookies."""
        return list(self.directory(ino).entries.items())

    # making

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, who: Who) -> int:
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFDIR:
            raise fail(errno.EPERM)
        if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise fail(errno.EINVAL)
        if kind not in (stat.S_IFCHR, stat.S_IFBLK):
            rdev = 0
        self._vacant(parent, name)
        return self._make(parent, name, kind | mode & 0o7777, who, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, who: Who) -> int:
        self._vacant(parent, name)
        return self._make(parent, name, stat.S_IFDIR | mode & 0o1777, who)

    def symlink(self, parent: int, name: bytes, target: bytes, who: Who) -> int:
        if not target:
            raise fail(errno.ENOENT)
        if len(target) > 4095:
            raise fail(errno.ENAMETOOLONG)
        self._vacant(parent, name)
        return self._make(parent, name, stat.S_IFLNK | 0o777, who, target=target)

    def link(self, ino: int, parent: int, name: bytes) -> int:
        node = self.node(ino)
        self._vacant(parent, name)
        if node.is_dir:
            raise fail(errno.EPERM)
        if not self.nlink(ino):
            raise fail(errno.ENOENT)
        if self.nlink(ino) >= 65_000:
            raise fail(errno.EMLINK)
        self.nodes[parent].entries[name] = ino
        self._touched(parent)
        node.ctime_ns = self.now
        return ino

    def _vacant(self, parent: int, name: bytes) -> None:
        """Whether `name` can be made in `parent`."""
        directory = self.directory(parent)
        if name in (b".", b"..") or name in directory.entries:
            raise fail(errno.EEXIST)
        if not name or not self.parent(parent):
            raise fail(errno.ENOENT)
        if len(name) > 255:
            raise fail(errno.ENAMETOOLONG)

    def _make(self, parent: int, name: bytes, mode: int, who: Who, rdev: int = 0, target: bytes = b"") -> int:
        ino, self.next_ino = self.next_ino, self.next_ino + 1
        directory = self.nodes[parent]
        node = Node(mode, who.uid, who.gid, self.now, self.now, self.now, rdev, target)
        if directory.mode & stat.S_ISGID:
            node.gid = directory.gid
            if node.is_dir:
                node.mode |= stat.S_ISGID
            elif node.mode & stat.S_IXGRP:
                self._strip_setgid(node, who)
        if DEFAULT in directory.xattrs and not node.is_link:
            acl = parse_acl(directory.xattrs[DEFAULT])
            assert acl is not None
            masked = acl & AclValue.of_mode(mode, acl.has_mask)
            node.mode = node.mode & ~0o777 | masked.mode
            if len(masked.entries) > 3:
                node.xattrs[ACCESS] = masked.encode()
            if node.is_dir:
                node.xattrs[DEFAULT] = directory.xattrs[DEFAULT]
        self.nodes[ino] = node
        directory.entries[name] = ino
        self._touched(parent)
        return ino

    def _strip_setgid(self, node: Node, who: Who) -> None:
        if who.uid and node.gid != who.gid and node.gid not in who.groups:
            node.mode &= ~stat.S_ISGID

    def _touched(self, *directories: int) -> None:
        for ino in directories:
            self.nodes[ino].mtime_ns = self.nodes[ino].ctime_ns = self.now

    # removing

    def unlink(self, parent: int, name: bytes) -> None:
        self.directory(parent)
        if name in (b".", b".."):
            raise fail(errno.EISDIR)
        child = self._child(parent, name)
        if self.nodes[child].is_dir:
            raise fail(errno.EISDIR)
        self._drop(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        self.directory(parent)
        if name in (b".", b".."):
            raise fail(errno.EINVAL if name == b"." else errno.ENOTEMPTY)
        child = self._child(parent, name)
        if not self.nodes[child].is_dir:
            raise fail(errno.ENOTDIR)
        if self.nodes[child].entries:
            raise fail(errno.ENOTEMPTY)
        self._drop(parent, name)

    def release(self, ino: int) -> None:
        """Nobody holds the inode any more: without a name it is gone."""
        if ino in self.nodes and not self.nlink(ino):
            del self.nodes[ino]

    def _child(self, parent: int, name: bytes) -> int:
        directory = self.directory(parent)
        if len(name) > 255 and self.parent(parent):
            raise fail(errno.ENAMETOOLONG)
        try:
            return directory.entries[name]
        except KeyError:
            raise fail(errno.ENOENT) from None

    def _drop(self, parent: int, name: bytes) -> None:
        child = self.nodes[parent].entries.pop(name)
        self.nodes[child].ctime_ns = self.now
        self._touched(parent)

    # moving

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise fail(errno.EINVAL)
        self.directory(parent)
        self.directory(new_parent)
        if name in (b".", b".."):
            raise fail(errno.EBUSY)
        if new_name in (b".", b".."):
            raise fail(errno.EEXIST if flags == NOREPLACE else errno.EBUSY)
        source = self._child(parent, name)
        try:
            target = self._child(new_parent, new_name)
        except OSError as error:
            if error.errno != errno.ENOENT or flags == EXCHANGE or not self.parent(new_parent):
                raise
            target = 0
        self._may_rename(source, parent, target, new_parent, flags)
        if source == target:
            return
        if flags == EXCHANGE:
            self.nodes[parent].entries[name] = target
        else:
            del self.nodes[parent].entries[name]
        self.nodes[new_parent].entries[new_name] = source
        for moved in filter(None, (source, target)):
            self.nodes[moved].ctime_ns = self.now
        self._touched(parent, new_parent)

    def _may_rename(self, source: int, parent: int, target: int, new_parent: int, flags: int) -> None:
        if target and flags == NOREPLACE:
            raise fail(errno.EEXIST)
        if parent != new_parent and source in self._path(new_parent):
            raise fail(errno.EINVAL)
        if parent != new_parent and target in self._path(parent):
            raise fail(errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY)
        if not target or source == target or flags == EXCHANGE:
            return
        if self.nodes[source].is_dir and not self.nodes[target].is_dir:
            raise fail(errno.ENOTDIR)
        if self.nodes[target].is_dir and not self.nodes[source].is_dir:
            raise fail(errno.EISDIR)
        if self.nodes[target].entries:
            raise fail(errno.ENOTEMPTY)

    def _path(self, ino: int) -> list[int]:
        """The directory itself and all above it."""
        path = [ino]
        while path[-1] not in (ROOT, 0):
            path.append(self.parent(path[-1]))
        return path

    # attributes

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        who: Who,
    ) -> None:
        node = self.node(ino)
        if mode is not None and node.is_link:
            raise fail(errno.EOPNOTSUPP)
        before = node.gid
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
            self._strip_setgid(node, who)
            if ACCESS in node.xattrs:
                acl = parse_acl(node.xattrs[ACCESS])
                assert acl is not None
                node.xattrs[ACCESS] = acl.replaced(AclValue.of_mode(mode, acl.has_mask)).encode()
        if (uid is not None or gid is not None) and not node.is_dir:
            node.mode &= ~stat.S_ISUID
            outsider = who.uid and before != who.gid and before not in who.groups
            if node.mode & stat.S_IXGRP or outsider:
                node.mode &= ~stat.S_ISGID
            node.xattrs.pop(b"security.capability", None)
        node.atime_ns = node.atime_ns if atime_ns is None else atime_ns
        node.mtime_ns = node.mtime_ns if mtime_ns is None else mtime_ns
        node.ctime_ns = self.now

    # extended attributes

    def getxattr(self, ino: int, name: bytes) -> bytes:
        node = self._may_have(ino, name, errno.ENODATA)
        if name not in node.xattrs:
            raise fail(errno.ENODATA)
        return node.xattrs[name]

    def listxattr(self, ino: int) -> list[bytes]:
        return sorted(self.node(ino).xattrs)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, who: Who) -> None:
        if len(value) > 65_536:
            raise fail(errno.E2BIG)
        if name in (ACCESS, DEFAULT):
            acl = parse_acl(value)
            self._set_acl(self._may_have(ino, name, errno.EPERM), name, acl, who)
            return
        node = self._may_have(ino, name, errno.EPERM)
        if name in node.xattrs and flags & CREATE:
            raise fail(errno.EEXIST)
        if name not in node.xattrs and flags & REPLACE:
            raise fail(errno.ENODATA)
        if node.xattrs.get(name) != value:
            node.ctime_ns = self.now
        node.xattrs[name] = value

    def removexattr(self, ino: int, name: bytes) -> None:
        node = self._may_have(ino, name, errno.EPERM)
        if name in node.xattrs:
            del node.xattrs[name]
            node.ctime_ns = self.now
        elif name not in (ACCESS, DEFAULT):
            raise fail(errno.ENODATA)

    def _may_have(self, ino: int, name: bytes, user_refusal: int) -> Node:
        node = self.node(ino)
        if not 0 < len(name) <= 255:
            raise fail(errno.ERANGE)
        space, _, rest = name.partition(b".")
        if name in (ACCESS, DEFAULT):
            if node.is_link:
                raise fail(errno.EOPNOTSUPP)
        elif space not in (b"user", b"trusted", b"security") or b"." not in name:
            raise fail(errno.EOPNOTSUPP)
        elif space == b"user" and not (node.is_dir or stat.S_ISREG(node.mode)):
            raise fail(user_refusal)
        elif not rest:
            raise fail(errno.EINVAL)
        return node

    def _set_acl(self, node: Node, name: bytes, acl: AclValue | None, who: Who) -> None:
        if name == DEFAULT and not node.is_dir:
            if acl is not None:
                raise fail(errno.EACCES)
            return
        before = node.mode, node.xattrs.get(name)
        if acl is not None:
            acl.check()
            if name == ACCESS:
                node.mode = node.mode & ~0o777 | acl.mode
                self._strip_setgid(node, who)
        if acl is None or (name == ACCESS and len(acl.entries) == 3):
            node.xattrs.pop(name, None)
        else:
            node.xattrs[name] = acl.encode()
        if before != (node.mode, node.xattrs.get(name)):
            node.ctime_ns = self.now

    # data

    def read(self, ino: int, offset: int, size: int) -> bytes:
        return bytes(self._file(ino).data[offset : offset + size])

    def write(self, ino: int, offset: int, data: bytes) -> int:
        node = self._file(ino)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + len(data)] = data
        node.mtime_ns = node.ctime_ns = self.now
        return len(data)

    def truncate(self, ino: int, size: int) -> None:
        node = self._file(ino)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.mtime_ns = node.ctime_ns = self.now

    def _file(self, ino: int) -> Node:
        node = self.node(ino)
        if node.is_dir:
            raise fail(errno.EISDIR)
        if not stat.S_ISREG(node.mode):
            raise fail(errno.EINVAL)
        return node
