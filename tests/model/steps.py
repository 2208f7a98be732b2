"""Random file-system operations for comparing a tree with the reference.

A step names inodes by picks ("the 3rd directory there is"), so any list of steps makes sense against any
state and Hypothesis can shrink it; `resolve` turns the picks into inode numbers of the reference. Names,
modes and values come from small sets, so that steps meet each other.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fusegw.vfs.caller import Caller
from tests.model.reference import ACCESS, DEFAULT, Reference

LONG = b"n" * 255
TOO_LONG = b"n" * 256
NAMES = [b"a", b"b", b"c", b"d", b"e", b"\xff\xfe", LONG, TOO_LONG, b".", b".."]
MODES = [0o644, 0o600, 0o755, 0o2755, 0o4755, 0o6711, 0o2644, 0o1777, 0]
KINDS = [stat.S_IFREG, stat.S_IFREG, stat.S_IFREG, 0, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFDIR]
ROOT_USER = Caller(0, 0)
CALLERS = [ROOT_USER, ROOT_USER, Caller(1000, 100, 0, (200,)), Caller(1001, 300, 0, (100,))]
IDS = [0, 100, 200, 1000]
TIMES = [-1, 0, 1_000_000_007, 15_000_000_000 * 10**9 + 5]
XATTRS = [
    b"user.a", b"user.b", b"trusted.t", b"security.s", b"security.capability", b"user.", b"other.x", b"plain",
    b"system.other", ACCESS, DEFAULT,
]  # fmt: skip


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL attribute of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ANYBODY = 0xFFFFFFFF
MINIMAL_ACL = acl((1, 7, ANYBODY), (4, 5, ANYBODY), (32, 4, ANYBODY))
NAMED_ACL = acl(
    (1, 6, ANYBODY), (2, 7, 1000), (4, 4, ANYBODY), (8, 6, 100), (16, 6, ANYBODY), (32, 0, ANYBODY)
)
MASKED_ACL = acl((1, 7, ANYBODY), (4, 7, ANYBODY), (16, 1, ANYBODY), (32, 1, ANYBODY))
ACLS = [
    MINIMAL_ACL,
    NAMED_ACL,
    MASKED_ACL,
    b"",
    struct.pack("<I", 2),
    struct.pack("<I", 1),
    b"abc",
    acl((1, 7, ANYBODY), (4, 7, ANYBODY)),
    acl((1, 7, ANYBODY), (2, 7, 5), (4, 7, ANYBODY), (32, 7, ANYBODY)),
    acl((1, 9, ANYBODY), (4, 7, ANYBODY), (32, 7, ANYBODY)),
    acl((4, 7, ANYBODY), (1, 7, ANYBODY), (32, 7, ANYBODY)),
    acl((1, 7, ANYBODY), (2, 7, ANYBODY), (4, 7, ANYBODY), (16, 7, ANYBODY), (32, 7, ANYBODY)),
]


@dataclass(frozen=True)
class Pick:
    """An inode by its place among those there are: any, or directories only."""

    index: int
    directory: bool = False


@dataclass(frozen=True)
class Long:
    """Many bytes, shown as few."""

    unit: bytes
    times: int


TARGETS = [b"a", b"../b", Long(b"t", 4095), Long(b"t", 4096)]


@dataclass(frozen=True)
class Step:
    operation: str
    arguments: dict[str, Any]


Choose = Callable[[Sequence[Any]], Any]
"""Takes one of some values: Hypothesis's choice or that of a seeded random generator."""


def _node(choose: Choose) -> Pick:
    return Pick(choose(range(32)))


def _parent(choose: Choose) -> Pick:
    """Mostly a directory."""
    return Pick(choose(range(16)), choose(_MOSTLY))


def _name(choose: Choose) -> bytes:
    return choose(NAMES if choose(_SELDOM) else NAMES[:5])


def _mknod(choose: Choose) -> Step:
    mode = choose(KINDS) | choose(MODES)
    return _make("mknod", choose, mode=mode, rdev=choose([0, os.makedev(7, 300)]))


def _mkdir(choose: Choose) -> Step:
    return _make("mkdir", choose, mode=choose(MODES))


def _symlink(choose: Choose) -> Step:
    return _make("symlink", choose, target=choose(TARGETS))


def _make(operation: str, choose: Choose, **arguments: Any) -> Step:
    return Step(
        operation, {"parent": _parent(choose), "name": _name(choose), **arguments, "who": choose(CALLERS)}
    )


def _link(choose: Choose) -> Step:
    return Step("link", {"ino": _node(choose), "parent": _parent(choose), "name": _name(choose)})


def _by_name(choose: Choose) -> Step:
    operation = choose(["lookup", "unlink", "unlink", "rmdir"])
    return Step(operation, {"parent": _parent(choose), "name": _name(choose)})


def _rename(choose: Choose) -> Step:
    old = {"parent": _parent(choose), "name": _name(choose)}
    new = {"new_parent": _parent(choose), "new_name": _name(choose)}
    return Step("rename", {**old, **new, "flags": choose([0, 0, 0, 1, 2, 2, 3, 4])})


def _setattr(choose: Choose) -> Step:
    changes = {
        "mode": {"mode": choose(MODES)},
        "owner": {"uid": choose(IDS)},
        "group": {"gid": choose(IDS)},
        "times": {"atime_ns": choose(TIMES), "mtime_ns": choose(TIMES)},
    }[choose(["mode", "owner", "group", "times"])]
    return Step("setattr", {"ino": _node(choose), "changes": changes, "who": choose(CALLERS)})


def _read(choose: Choose) -> Step:
    if choose(_SELDOM):
        return Step("readlink", {"ino": _node(choose)})
    return Step("getxattr", {"ino": _node(choose), "name": choose(XATTRS)})


def _setxattr(choose: Choose) -> Step:
    name = choose(XATTRS)
    value = choose([b"", b"v", b"w" * 100, Long(b"x", 65_537)])
    return Step(
        "setxattr",
        {
            "ino": _node(choose),
            "name": name,
            "value": value,
            "flags": choose(range(4)),
            "who": choose(CALLERS),
        },
    )


def _set_acl(choose: Choose) -> Step:
    arguments = {"name": choose([ACCESS, DEFAULT]), "value": choose(ACLS), "flags": 0, "who": choose(CALLERS)}
    return Step("setxattr", {"ino": Pick(choose(range(16)), choose(_MOSTLY)), **arguments})


def _removexattr(choose: Choose) -> Step:
    return Step("removexattr", {"ino": _node(choose), "name": choose(XATTRS)})


_MOSTLY = (True, True, True, True, True, True, True, False)
_SELDOM = (False, False, False, False, False, False, False, True)
_MAKERS: list[Callable[[Choose], Step]] = [
    _mknod, _mknod, _mkdir, _mkdir, _symlink, _link, _by_name, _by_name, _rename, _rename, _rename, _setattr,
    _read, _setxattr, _set_acl, _removexattr,
]  # fmt: skip


def random_step(choose: Choose) -> Step:
    """Any operation, with arguments of all kinds."""
    return choose(_MAKERS)(choose)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """`random_step` by Hypothesis."""
    return random_step(lambda options: draw(st.sampled_from(options)))


def resolve(step: Step, reference: Reference) -> dict[str, Any]:
    """The step's arguments, with inode numbers for picks."""
    inodes = list(reference.nodes)
    directories = [ino for ino in inodes if reference.nodes[ino].is_dir]

    def value_of(value: Any) -> Any:
        if isinstance(value, Long):
            return value.unit * value.times
        if not isinstance(value, Pick):
            return value
        choice = directories if value.directory else inodes
        return choice[value.index % len(choice)]

    return {key: value_of(value) for key, value in step.arguments.items()}


def outcome(tree: Any, operation: str, arguments: dict[str, Any]) -> Any:
    """What a call returned, or the name of its errno."""
    arguments = dict(arguments)
    arguments |= arguments.pop("changes", {})
    try:
        return getattr(tree, operation)(**arguments)
    except OSError as error:
        assert error.errno is not None
        return errno.errorcode[error.errno]
