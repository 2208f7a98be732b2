"""Which handlers a request goes to: those of the slot, in the volume, that its node id or handle bears.

Handlers of a slot are asked for when it is first needed, and say themselves whether they still stand for
anything; a slot nobody has is ESTALE. What would join two of them (rename, link) is EXDEV. A dispatching
handler returns the coroutine of whom it chose: routing costs a shift and a look into a table.
"""

import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext, SetattrFields

from fusegw.fuse.nodes import SLOT_BITS, SLOT_MASK, SLOT_SHIFT, WITHIN_SLOT
from fusegw.fuse.operations import Operations
from fusegw.fuse.refusing import Refusing

_Request = Any
"""The coroutine of the handlers that are asked."""


class _Table(dict[int, Any]):
    """Handlers by what is above the inode in a node id or handle; `find` gives those that are not in it."""

    def __init__(self, find: Callable[[int], Any]) -> None:
        self._find = find

    def __missing__(self, key: int) -> Any:
        return self._find(key)


class Router(pyfuse3.Operations):
    """The handlers of a mount. Called on the event loop alone."""

    supports_dot_lookup = True
    enable_acl = True
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._volumes: dict[int, Operations | Refusing] = {}
        self._nobody: Any = Refusing(errno.ESTALE)
        self._nodes = _Table(self._found)
        self._handles = _Table(self._opened)

    def _show(self, number: int, handlers: Operations | Refusing) -> None:
        """From now on these are the handlers of the volume `number`."""
        self._hide(number)
        self._volumes[number] = handlers
        self._nodes[number << SLOT_BITS] = handlers
        if isinstance(handlers, Operations):
            handlers.handle_slot = partial(self._show_handles, number)

    def _hide(self, number: int) -> None:
        self._volumes.pop(number, None)
        for table in (self._nodes, self._handles):
            for key in [key for key in table if key >> SLOT_BITS == number]:
                del table[key]

    def _show_handles(self, number: int, slot: int, handlers: Any) -> None:
        """From now on these are the handlers of what has been opened under this slot."""
        self._handles[number << SLOT_BITS | slot] = handlers

    def _found(self, key: int) -> Any:
        volume = self._volumes.get(key >> SLOT_BITS)
        if not isinstance(volume, Operations):
            return volume or self._nobody
        handlers = volume.beside.handlers(key & SLOT_MASK)
        if handlers is None:
            return self._nobody
        self._nodes[key] = handlers
        return handlers

    def _opened(self, key: int) -> Any:
        """Handles are made like nodes, unless the table says otherwise."""
        handlers = self._nodes[key]
        if handlers is not self._nobody:
            self._handles[key] = handlers
        return handlers

    # names

    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].lookup(parent, name, ctx)

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """Has no reply: what is not known is not missed."""
        apart: dict[int, list[tuple[int, int]]] = {}
        for one in forgotten:
            apart.setdefault(one[0] >> SLOT_SHIFT, []).append(one)
        for key, some in apart.items():
            handlers = self._nodes.get(key)
            if isinstance(handlers, Operations):
                await handlers.forget(some)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].mknod(parent, name, mode, rdev, ctx)

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].mkdir(parent, name, mode, ctx)

    def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].symlink(parent, name, target, ctx)

    def link(self, node: int, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._common(node, parent).link(node, parent, name, ctx)

    def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].unlink(parent, name, ctx)

    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].rmdir(parent, name, ctx)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> _Request:
        return self._common(parent, new_parent).rename(parent, name, new_parent, new_name, flags, ctx)

    def readlink(self, node: int, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].readlink(node, ctx)

    # directories

    def opendir(self, node: int, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].opendir(node, ctx)

    def readdir(self, handle: int, cookie: int, token: pyfuse3.ReaddirToken) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].readdir(handle & WITHIN_SLOT, cookie, token)

    def releasedir(self, handle: int) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].releasedir(handle & WITHIN_SLOT)

    def fsyncdir(self, handle: int, datasync: bool) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].fsyncdir(handle & WITHIN_SLOT, datasync)

    # attributes

    def getattr(self, node: int, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].getattr(node, ctx)

    def setattr(
        self, node: int, wanted: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> _Request:
        if fh is None:
            return self._nodes[node >> SLOT_SHIFT].setattr(node, wanted, fields, None, ctx)
        return self._handles[fh >> SLOT_SHIFT].setattr(node, wanted, fields, fh & WITHIN_SLOT, ctx)

    def access(self, node: int, mode: int, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].access(node, mode, ctx)

    # extended attributes

    def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].getxattr(node, name, ctx)

    def listxattr(self, node: int, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].listxattr(node, ctx)

    def setxattr(self, node: int, name: bytes, value: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].setxattr(node, name, value, ctx)

    def removexattr(self, node: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].removexattr(node, name, ctx)

    # data

    def open(self, node: int, flags: int, ctx: RequestContext) -> _Request:
        return self._nodes[node >> SLOT_SHIFT].open(node, flags, ctx)

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext) -> _Request:
        return self._nodes[parent >> SLOT_SHIFT].create(parent, name, mode, flags, ctx)

    def read(self, handle: int, offset: int, size: int) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].read(handle & WITHIN_SLOT, offset, size)

    def write(self, handle: int, offset: int, data: bytes) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].write(handle & WITHIN_SLOT, offset, data)

    def flush(self, handle: int) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].flush(handle & WITHIN_SLOT)

    def release(self, handle: int) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].release(handle & WITHIN_SLOT)

    def fsync(self, handle: int, datasync: bool) -> _Request:
        return self._handles[handle >> SLOT_SHIFT].fsync(handle & WITHIN_SLOT, datasync)

    # inside

    def _common(self, one: int, other: int) -> Any:
        """The handlers of both nodes."""
        handlers = self._nodes[one >> SLOT_SHIFT]
        if self._nodes[other >> SLOT_SHIFT] is not handlers:
            raise FUSEError(errno.EXDEV)
        return handlers


class Alone(Router):
    """The mount of one volume, whose root is the mount's."""

    def __init__(self, volume: Operations) -> None:
        super().__init__()
        self._show(volume.number, volume)
        self._nodes[0] = self._volume = volume

    def statfs(self, ctx: RequestContext) -> _Request:
        return self._volume.statfs(ctx)
