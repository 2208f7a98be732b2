"""Attributes on a real mount: modes, owners, times, extended attributes, ACLs, and what df shows."""

import errno
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.gateways import drop_kernel_caches
from tests.mount.users import ALICE, BOB, STAFF, act_as

pytestmark = pytest.mark.mount

SUID, SGID = stat.S_ISUID, stat.S_ISGID
SECOND = 1_000_000_000


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make(path: Path, mode: int, uid: int = 0, gid: int = 0, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel stores it: (tag, permissions, id) each, sorted."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OWNER, USER, GROUP_OWNER, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF


@pytest.mark.parametrize(
    "time_ns",
    [
        0,
        -1,
        -1_234_567_890_123_456_789,
        1,
        2_147_483_647 * SECOND + 999_999_999,
        2_147_483_648 * SECOND,
        4_294_967_296 * SECOND + 1,
        10_000_000_000 * SECOND + 123_456_789,
        15_032_385_535 * SECOND + 999_999_999,
        253_402_300_799 * SECOND + 999_999_992,
        -11_644_473_600 * SECOND,
        1 << 64,
        -(1 << 64) - 1,
    ],
)
def test_times_to_the_nanosecond_far_back_and_ahead(place: Path, time_ns: int) -> None:
    path = place / "file"
    path.touch()
    os.utime(path, ns=(time_ns, time_ns + 7))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (time_ns, time_ns + 7)
    drop_kernel_caches()
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (time_ns, time_ns + 7)


def test_rsync_carries_times_of_all_centuries(place: Path) -> None:
    source = place / "source"
    source.mkdir()
    for year_s in (-11_644_473_600, -(1 << 32), -1, 1 << 32, 15_032_385_535, 253_402_300_799):
        os.close(os.open(source / str(year_s), os.O_CREAT))
        os.utime(source / str(year_s), ns=(0, year_s * SECOND + 123_456_789))
    subprocess.run(["rsync", "-a", f"{source}/", place / "copy"], check=True, capture_output=True, timeout=60)
    drop_kernel_caches()
    found = {file.name: file.stat().st_mtime_ns for file in (place / "copy").iterdir()}
    assert found == {name: int(name) * SECOND + 123_456_789 for name in os.listdir(source)}


def test_a_time_that_nothing_holds_becomes_the_nearest_that_is_held(place: Path) -> None:
    """The longest that a program can ask for: 64 bits of seconds."""
    path = place / "file"
    path.touch()
    os.utime(path, ns=(-(1 << 63) * SECOND, ((1 << 63) - 1) * SECOND + 999_999_999))
    for _ in range(2):
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (-(1 << 71), (1 << 71) - 1)
        drop_kernel_caches()


def test_times_of_symlinks_are_their_own(place: Path) -> None:
    (place / "file").touch()
    os.symlink("file", place / "link")
    os.utime(place / "link", ns=(5, 6), follow_symlinks=False)
    assert (place / "link").lstat().st_mtime_ns == 6
    assert (place / "file").stat().st_mtime_ns != 6


def test_change_time_follows_every_change_of_attributes(place: Path) -> None:
    path = place / "file"
    path.touch()
    for action in (
        lambda: path.chmod(0o600),
        lambda: os.chown(path, 5, 6),
        lambda: os.utime(path, ns=(1, 2)),
        lambda: os.setxattr(path, "user.x", b"y"),
        lambda: os.removexattr(path, "user.x"),
    ):
        before = path.stat()
        action()
        assert path.stat().st_ctime_ns > before.st_ctime_ns
    assert path.stat().st_mtime_ns == 2


def test_permissions_are_enforced(place: Path) -> None:
    secret = make(place / "secret", 0o640, ALICE, STAFF)
    assert act_as(ALICE, secret.read_bytes) == 0
    assert act_as(BOB, secret.read_bytes) == errno.EACCES
    assert act_as(BOB, secret.read_bytes, groups=[STAFF]) == 0
    assert act_as(BOB, lambda: secret.write_bytes(b""), groups=[STAFF]) == errno.EACCES
    assert act_as(BOB, lambda: secret.chmod(0o777)) == errno.EPERM
    assert act_as(ALICE, lambda: os.chown(secret, BOB, -1)) == errno.EPERM
    assert act_as(ALICE, lambda: os.chown(secret, -1, BOB)) == errno.EPERM
    assert act_as(ALICE, lambda: os.chown(secret, -1, STAFF), groups=[STAFF]) == 0
    assert act_as(BOB, lambda: os.utime(secret)) == errno.EACCES
    place.chmod(0o755)
    assert act_as(ALICE, (place / "new").touch) == errno.EACCES
    assert act_as(ALICE, lambda: os.unlink(secret)) == errno.EACCES


def test_new_files_belong_to_their_makers(place: Path) -> None:
    assert (
        act_as(ALICE, lambda: os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o666)), gid=STAFF) == 0
    )
    assert act_as(ALICE, lambda: os.mkdir(place / "d", 0o777), gid=STAFF) == 0
    made = (place / "f").stat()
    assert (made.st_uid, made.st_gid, mode_of(place / "f")) == (ALICE, STAFF, 0o644)
    assert mode_of(place / "d") == 0o755


def test_setgid_directories_hand_on_their_group(place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, 0, STAFF)
    shared.chmod(0o2777)
    assert act_as(ALICE, lambda: os.mkdir(shared / "dir")) == 0
    assert act_as(ALICE, (shared / "file").touch) == 0
    assert (shared / "dir").stat().st_gid == (shared / "file").stat().st_gid == STAFF
    assert mode_of(shared / "dir") & SGID
    assert not mode_of(shared / "file") & SGID
    assert act_as(ALICE, lambda: os.close(os.open(shared / "x", os.O_CREAT | os.O_WRONLY, 0o2775))) == 0
    assert mode_of(shared / "x") == 0o755  # executable, and she is not of that group
    assert act_as(ALICE, lambda: os.chmod(shared / "x", 0o2755)) == 0
    assert mode_of(shared / "x") == 0o755
    assert act_as(ALICE, lambda: os.chmod(shared / "x", 0o2755), groups=[STAFF]) == 0
    assert mode_of(shared / "x") == 0o2755


def _overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def _open_truncating(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": _overwrite,
    "truncate": lambda path: os.truncate(path, 2),
    "open with O_TRUNC": _open_truncating,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changing_contents_takes_privileges_away(place: Path, change: str) -> None:
    path = make(place / "program", 0o6777, ALICE, STAFF)
    assert act_as(BOB, lambda: CHANGES[change](path)) == 0
    assert mode_of(path) == 0o777
    path.chmod(0o6777)
    CHANGES[change](path)
    assert mode_of(path) == 0o6777  # root may


def test_changing_the_owner_takes_privileges_away(place: Path) -> None:
    path = make(place / "program", 0o6755, ALICE, ALICE)
    assert act_as(ALICE, lambda: os.chown(path, -1, STAFF), groups=[STAFF]) == 0
    assert mode_of(path) == 0o755
    path.chmod(0o6755)
    os.chown(path, BOB, -1)
    assert mode_of(path) == 0o755
    locked = make(place / "mandatory", 0o2644, ALICE, ALICE)
    os.chown(locked, BOB, ALICE)
    assert mode_of(locked) == 0o2644  # no group execution: not a privilege


@pytest.mark.parametrize("name", ["user.x", "trusted.x", "security.x"])
@pytest.mark.parametrize("size", [0, 1, 4096, 65536])
def test_xattr_values_up_to_64_kib(place: Path, name: str, size: int) -> None:
    path = place / "file"
    path.touch()
    value = os.urandom(size)
    os.setxattr(path, name, value)
    drop_kernel_caches()
    assert os.getxattr(path, name) == value
    assert os.listxattr(path) == [name]
    os.removexattr(path, name)
    assert os.listxattr(path) == []


def test_the_state_of_a_file(place: Path) -> None:
    path, link, name = place / "file", place / "link", "user.fusegw.state"
    path.write_bytes(b"x" * 100_000)
    link.symlink_to("file")
    os.setxattr(path, "user.mine", b"1")
    for one in (path, place):
        assert os.getxattr(one, name) in (b"local", b"shipping", b"stored")
        assert name not in os.listxattr(one)
        for change in (
            lambda one=one: os.setxattr(one, name, b"stored"),
            lambda one=one: os.removexattr(one, name),
        ):
            with pytest.raises(PermissionError):
                change()
    with pytest.raises(OSError) as refused:
        os.getxattr(link, name, follow_symlinks=False)
    assert refused.value.errno == errno.ENODATA, "the kernel asks for no user attribute of a symlink"
    copy = place / "copy"
    shutil.copy2(path, copy)
    assert os.listxattr(copy) == ["user.mine"]


def test_xattr_rules(place: Path) -> None:
    path = make(place / "file", 0o600, ALICE)

    def code_of(action: Callable[[], object]) -> int:
        with pytest.raises(OSError) as caught:
            action()
        return caught.value.errno or 0

    assert code_of(lambda: os.getxattr(path, "user.none")) == errno.ENODATA
    assert code_of(lambda: os.removexattr(path, "user.none")) == errno.ENODATA
    assert code_of(lambda: os.setxattr(path, "user.x", b"1", os.XATTR_REPLACE)) == errno.ENODATA
    os.setxattr(path, "user.x", b"1", os.XATTR_CREATE)
    assert code_of(lambda: os.setxattr(path, "user.x", b"2", os.XATTR_CREATE)) == errno.EEXIST
    os.setxattr(path, "user.x", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.x") == b"3"
    assert code_of(lambda: os.setxattr(path, "user.x", bytes(65537))) == errno.E2BIG
    assert code_of(lambda: os.setxattr(path, "user." + "n" * 251, b"")) == errno.ERANGE
    os.setxattr(path, "user." + "n" * 250, b"")
    assert code_of(lambda: os.setxattr(path, "unknown.x", b"")) == errno.EOPNOTSUPP
    os.symlink("file", place / "link")
    assert code_of(lambda: os.setxattr(place / "link", "user.x", b"", follow_symlinks=False)) == errno.EPERM
    os.setxattr(place / "link", "trusted.x", b"of the link", follow_symlinks=False)
    assert os.getxattr(place / "link", "trusted.x", follow_symlinks=False) == b"of the link"
    assert act_as(BOB, lambda: os.getxattr(path, "user.x")) == errno.EACCES
    assert act_as(ALICE, lambda: os.setxattr(path, "trusted.x", b"")) == errno.EPERM


def test_trusted_xattrs_are_shown_to_the_privileged_only(place: Path) -> None:
    path = make(place / "file", 0o644, ALICE)
    os.setxattr(path, "user.x", b"")
    os.setxattr(path, "trusted.x", b"")
    assert os.listxattr(path) == ["trusted.x", "user.x"]

    def list_as_alice() -> None:
        assert os.listxattr(path) == ["user.x"]

    assert act_as(ALICE, list_as_alice) == 0


def test_access_acls_are_enforced(place: Path) -> None:
    path = make(place / "file", 0o600)
    grant = acl(
        (OWNER, 6, NOBODY), (USER, 4, ALICE), (GROUP_OWNER, 0, NOBODY), (MASK, 4, NOBODY), (OTHER, 0, NOBODY)
    )
    os.setxattr(path, "system.posix_acl_access", grant)
    assert mode_of(path) == 0o640  # the group bits show the mask
    assert act_as(ALICE, path.read_bytes) == 0
    assert act_as(ALICE, lambda: _overwrite(path)) == errno.EACCES
    assert act_as(BOB, path.read_bytes) == errno.EACCES
    drop_kernel_caches()
    assert act_as(ALICE, path.read_bytes) == 0
    assert os.getxattr(path, "system.posix_acl_access") == grant
    path.chmod(0o600)  # takes the mask away, and with it what ALICE was granted
    assert act_as(ALICE, path.read_bytes) == errno.EACCES
    os.removexattr(path, "system.posix_acl_access")
    assert act_as(ALICE, path.read_bytes) == errno.EACCES


def test_default_acls_are_inherited(place: Path) -> None:
    directory = place / "directory"
    directory.mkdir()
    directory.chmod(0o777)
    default = acl(
        (OWNER, 7, NOBODY), (GROUP_OWNER, 5, NOBODY), (GROUP, 7, STAFF), (MASK, 7, NOBODY), (OTHER, 0, NOBODY)
    )
    os.setxattr(directory, "system.posix_acl_default", default)
    (directory / "sub").mkdir()
    assert os.getxattr(directory / "sub", "system.posix_acl_default") == default
    (directory / "sub").chmod(0o777)
    path = directory / "sub" / "file"
    path.write_bytes(b"content")
    assert mode_of(path) & 0o007 == 0
    assert act_as(BOB, path.read_bytes) == errno.EACCES
    assert act_as(BOB, path.read_bytes, groups=[STAFF]) == 0


def test_an_acl_that_only_says_the_mode_is_not_kept(place: Path) -> None:
    path = make(place / "file", 0o644)
    plain = acl((OWNER, 6, NOBODY), (GROUP_OWNER, 4, NOBODY), (OTHER, 0, NOBODY))
    os.setxattr(path, "system.posix_acl_access", plain)
    assert mode_of(path) == 0o640
    assert os.listxattr(path) == []


def test_df_shows_room_and_use(place: Path) -> None:
    before = os.statvfs(place)
    assert before.f_blocks >= before.f_bfree > 0
    assert before.f_ffree > 1_000_000
    assert before.f_namemax == 255
    with open(place / "file", "wb") as file:
        file.write(os.urandom(16 << 20))
        os.fsync(file.fileno())
    after = os.statvfs(place)
    used = (after.f_blocks - after.f_bfree - before.f_blocks + before.f_bfree) * after.f_frsize
    assert used == 16 << 20


def test_several_attributes_survive_together(place: Path) -> None:
    path = make(place / "file", 0o4751, ALICE, STAFF, b"x" * 1000)
    os.utime(path, ns=(11, 22))
    os.setxattr(path, "user.tag", b"value")
    os.truncate(path, 500)
    os.utime(path, ns=(33, 44))
    drop_kernel_caches()
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_size) == (ALICE, STAFF, 500)
    assert (found.st_atime_ns, found.st_mtime_ns) == (33, 44)
    assert os.getxattr(path, "user.tag") == b"value"
