"""The host as the benchmark uses it: commands, caches, free space, mounts. What starts here ends here."""

import contextlib
import filecmp
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fusegw.cli.output import size as size_text
from fusegw.errors import Corrupt, Full, Invalid, Unavailable

READ_BYTES = 1 << 20
POLL_S = 0.05
READY_TIMEOUT_S = 60
END_TIMEOUT_S = 30
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_FOREIGN = ("FUSEGW_", "AWS_", "RESTIC_", "BORG_", "RCLONE_")
_LAST_BYTES = 2000
_MEMORY_LEFT_BYTES = 1 << 30


class Stopwatch:
    """`with Stopwatch() as watch: …`; then `watch.seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> "Stopwatch":
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


def clean_environment() -> dict[str, str]:
    """The caller's environment without settings and credentials meant for any of the contenders."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def run(
    command: Iterable[object], *, environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> str:
    """Standard output of a command that succeeds. Unavailable, with what it said, when it does not.

    Whatever ends the wait, an interrupt included, ends the command and what it started.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        env=clean_environment() if environment is None else environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, complaints = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        said = (complaints or output).strip()[-_LAST_BYTES:]
        raise Unavailable(f"{' '.join(words)} ended with status {process.returncode}: {said}")
    return output


def settle() -> None:
    """What earlier work left to be written is written now, not while the next is timed."""
    os.sync()


def forget_pages() -> bool:
    """The kernel forgets file contents, names and inodes; False when it does not let us (not root)."""
    settle()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def touch_memory(limit_bytes: int, memory_file: Path = Path("/proc/meminfo")) -> int:
    """Have free memory in hand, all but a little or `limit_bytes`: how much it was.

    The host of a virtual machine finds a page when it is first used, which takes ten times as long as filling
    it, and may take pages back that lie free for some seconds (free page reporting of its balloon). Whoever
    makes pages, such as those of the page cache, would be measured by that, and by what went before.
    """
    free = next(line for line in memory_file.read_text().splitlines() if line.startswith("MemFree:"))
    size_bytes = min(int(free.split()[1]) * 1024 - _MEMORY_LEFT_BYTES, limit_bytes)
    if size_bytes <= 0:
        return 0
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    with mmap.mmap(-1, size_bytes, flags=flags):
        return size_bytes


def warm(file: Path) -> None:
    """`file` is in the page cache, so that the source's disk is not what is measured."""
    read_through(file)


def read_through(file: Path) -> int:
    """Bytes read from the beginning of `file` to its end, in `READ_BYTES` at a time."""
    buffer = bytearray(READ_BYTES)
    total = 0
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            total += count
    return total


def peak_memory_bytes(process: int) -> int:
    """The most that the process ever had resident; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def expect_same(original: Path, copy: Path) -> None:
    """Corrupt when the two differ: the speed of wrong bytes means nothing."""
    filecmp.clear_cache()
    if not filecmp.cmp(original, copy, shallow=False):
        raise Corrupt(f"{copy} came back different from {original}; this contender lost data")


def tree_bytes(directory: Path) -> int:
    """The sum of the lengths of all files below `directory`."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def wait_until(condition: "Iterator[bool]", what: str, timeout_s: float) -> None:
    """Ask `condition` until it says True; Unavailable when `what` does not come within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    for holds in condition:
        if holds:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def detach(mountpoint: Path) -> None:
    """Nothing is mounted at `mountpoint` any more, whatever became of who served it."""
    while is_mounted(mountpoint):
        run(["umount", "--lazy", mountpoint])


def is_mounted(mountpoint: Path) -> bool:
    """Asks the kernel's table, not the mount, which may hang."""
    table = Path("/proc/self/mountinfo").read_text()
    places = (line.split(" ")[4] for line in table.splitlines())
    return str(mountpoint).replace(" ", "\\040") in places


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL when that does not help."""
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def choose_directory(needed_bytes: int) -> Path:
    """Where temporary files go: TMPDIR, or /var/tmp when that is memory or too small.

    Full when neither will do.
    """
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp")]
    for place in candidates:
        if place.is_dir() and not _in_memory(place) and shutil.disk_usage(place).free >= needed_bytes:
            return place
    free = ", ".join(f"{place} has {size_text(_free(place))}" for place in candidates)
    raise Full(
        f"the benchmark needs {size_text(needed_bytes)} on a disk ({free}); "
        "give --keep DIR elsewhere, a smaller --size or fewer --peers"
    )


def check_room(directory: Path, needed_bytes: int) -> None:
    """Full when `directory` has less than `needed_bytes` free, Invalid when it is memory."""
    if _in_memory(directory):
        raise Invalid(f"{directory} lies in memory; the benchmark needs a directory on a disk")
    free = _free(directory)
    if free < needed_bytes:
        raise Full(
            f"the benchmark needs {size_text(needed_bytes)} in {directory}, which has {size_text(free)}; "
            "give a smaller --size, fewer --peers or another directory"
        )


def _free(place: Path) -> int:
    return shutil.disk_usage(place).free if place.is_dir() else 0


def _in_memory(place: Path) -> bool:
    """Does `place` lie on a file system without a disk?"""
    device = place.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[2] == number:
            return fields[fields.index("-") + 1] in _MEMORY_FILE_SYSTEMS
    return False
