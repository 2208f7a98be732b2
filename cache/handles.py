"""Open descriptors of pack files: least recently used, bounded, never closed under a reader.

No I/O and no lock of its own: the cache's lock guards it, and every method that lets go of a
descriptor returns it for the caller to close after the lock was given up (closing the last
descriptor of an unlinked file frees its space, which is disk I/O).
"""

from collections import OrderedDict

from cache.blocks import Handle, PackFile


class Handles:
    """At most `limit` descriptors stay open, more only while that many are in use at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._order: OrderedDict[Handle, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def acquire(self, file: PackFile) -> Handle | None:
        """The open handle of `file` for one more user; None when it has to be opened."""
        handle = file.handle
        if handle is not None:
            handle.users += 1
            self._order.move_to_end(handle)
        return handle

    def install(self, file: PackFile, fd: int) -> tuple[Handle, list[int]]:
        """Take over `fd`, just opened, for one user; with it the descriptors to close."""
        handle = file.handle
        if handle is not None:
            handle.users += 1
            return handle, [fd]
        file.handle = handle = Handle(fd, file)
        handle.users = 1
        self._order[handle] = None
        return handle, self._trim() if len(self._order) > self._limit else []

    def release(self, handle: Handle) -> list[int]:
        """One user less; returns the descriptors to close."""
        handle.users -= 1
        return [handle.fd] if handle.retired and not handle.users else []

    def retire(self, file: PackFile) -> list[int]:
        """The file is gone: forget its handle; returns the descriptors to close."""
        handle, file.handle = file.handle, None
        if handle is None:
            return []
        del self._order[handle]
        handle.retired = True
        return [] if handle.users else [handle.fd]

    def clear(self) -> list[int]:
        """Forget all handles; returns every descriptor."""
        descriptors = [handle.fd for handle in self._order]
        for handle in self._order:
            handle.file.handle = None
        self._order.clear()
        return descriptors

    def _trim(self) -> list[int]:
        surplus = []
        for handle in list(self._order):
            if len(self._order) <= self._limit:
                break
            if not handle.users:
                del self._order[handle]
                handle.file.handle = None
                surplus.append(handle.fd)
        return surplus
