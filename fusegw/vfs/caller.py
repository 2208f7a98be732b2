"""Who asks for a change: the credentials file-system semantics depend on.

Permission itself is checked before a request comes here (by the kernel); what is left to decide is who owns a
new object and whether set-group-id may be kept.
"""

from collections.abc import Callable, Collection

import msgspec

Groups = Collection[int] | Callable[[], Collection[int]]


class Caller(msgspec.Struct, frozen=True, gc=False):
    """The user a request comes from."""

    uid: int
    gid: int
    umask: int = 0
    """Already taken off every mode a request carries: kept for the record, never applied again."""
    groups: Groups = ()
    """Supplementary groups, or how to find them out; that is done only when they matter."""

    @property
    def privileged(self) -> bool:
        """Whether the caller may do what others may not (CAP_FSETID and its like)."""
        return self.uid == 0

    def in_group(self, gid: int) -> bool:
        """Whether `gid` is the caller's group or one of the supplementary ones."""
        if gid == self.gid:
            return True
        groups = self.groups
        return gid in (groups() if callable(groups) else groups)

    def keeps_setgid(self, gid: int) -> bool:
        """Whether set-group-id stays on an object of group `gid` when this caller changes its mode."""
        return self.uid == 0 or self.in_group(gid)
