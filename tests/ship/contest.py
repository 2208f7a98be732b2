"""Gateways that compete for one volume, and what must be true of it when they are done.

Each writer changes files of its own and calls barriers. What a returned barrier covered must be in the state
that the store alone gives back, in the order it was made; whatever else is there of a writer must be a
beginning of what it did. In the end one writer is left, and the others know that they are fenced.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from msgspec.structs import replace

from fusegw.assembly import Runtime, promote
from fusegw.errors import Busy, Fenced, Invalid, Unavailable
from fusegw.index import Source
from fusegw.meta.schema import ROOT_INODE
from tests.faults.support import content, create, read_file, volume, write_file
from tests.model.invariants import check_index

SIZES = (0, 100, 3_000, 90_000, 200_000)
PATIENCE_S = 600.0
"""Bound of a whole contest, in the time of its clock."""

Step = tuple[str, bytes, int]
"""create (with a size), remove, or rename (the name gets a dash)."""


class Writer:
    """One competitor: what it did, and how much of it barriers have confirmed."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.history: list[Step] = []
        self.confirmed = 0
        """Steps that a returned barrier covers."""
        self.barriers = 0
        self.fenced = False
        self._chance = chance

    async def work(self, runtime: Runtime, steps: int) -> None:
        """Change files, with barriers between, until done or fenced."""
        for _ in range(steps):
            await self._step(runtime)
            if self._chance.random() < 0.5:
                await self.barrier(runtime)
            await trio.sleep(self._chance.choice((0.0, 0.05, 0.3)))
            if self.fenced:
                return

    async def barrier(self, runtime: Runtime) -> bool:
        """Try one; what it confirms counts. False when the store's failure ended it."""
        covered = len(self.history)
        try:
            await runtime.volume.barrier()
        except Fenced:
            self.fenced = True
        except Unavailable:
            return False
        else:
            assert not self.fenced, f"{self.name}: a barrier returned after one that said fenced"
            self.confirmed, self.barriers = covered, self.barriers + 1
        return True

    async def _step(self, runtime: Runtime) -> None:
        number = len(self.history)
        names = [*replayed(self.history)]
        kind = self._chance.choice(("create", "create", "create", "rename", "remove")) if names else "create"
        if kind == "create":
            name, size = b"%s%d" % (self.name.encode(), number), self._chance.choice(SIZES)
            self.history.append((kind, name, size))
            if size:
                await write_file(runtime, name, content_of(name, size))
            else:
                create(runtime, name)
            return
        name = self._chance.choice(names)
        self.history.append((kind, name, 0))
        if kind == "remove":
            runtime.volume.namespace.unlink(ROOT_INODE, name)
        else:
            runtime.volume.namespace.rename(ROOT_INODE, name, ROOT_INODE, name + b"-", 0)

    def expected(self, found: set[bytes]) -> dict[bytes, tuple[int, bool]]:
        """For the names that are there: size, and whether a barrier confirmed it.

        AssertionError when they are of no state that may be there.
        """
        for steps in range(len(self.history), self.confirmed - 1, -1):
            state = replayed(self.history[:steps])
            if set(state) == found:
                return {name: (size, at < self.confirmed) for name, (size, at) in state.items()}
        raise AssertionError(
            f"{self.name}: found {sorted(found)}, which is no state after {self.confirmed} steps or more of "
            f"{self.history}"
        )


def replayed(history: list[Step]) -> dict[bytes, tuple[int, int]]:
    """The files after these steps: size, and the number of the step that made them."""
    files: dict[bytes, tuple[int, int]] = {}
    for number, (kind, name, size) in enumerate(history):
        if kind == "create":
            files[name] = size, number
        elif kind == "remove":
            del files[name]
        else:
            files[name + b"-"] = files.pop(name)
    return files


def content_of(name: bytes, size: int) -> bytes:
    """What a writer puts into a file; a renamed one keeps it."""
    return content(int.from_bytes(name.rstrip(b"-"), "big"), size)


async def contest(
    chance: random.Random,
    source_of: Callable[[str], Source],
    calm: Callable[[], object] = lambda: None,
) -> list[Writer]:
    """An old writer at work, one or two that take over from it at any time, by a mount or as a standby that
    is promoted, and the state they leave."""
    names = ["old", "new", "newer"][: chance.choice((2, 2, 3))]
    writers = [Writer(name, random.Random(chance.random())) for name in names]
    delays = [0.0, *(chance.uniform(0.0, 3.0) for _ in names[1:])]
    standbys = {name for name in names[1:] if chance.random() < 0.4}
    quiet, settled = trio.Event(), trio.Event()
    busy = len(writers)

    async def compete(writer: Writer, delay_s: float, begun: trio.Event, after: trio.Event) -> None:
        nonlocal busy
        await after.wait()
        await trio.sleep(delay_s)
        mounting = promoted if writer.name in standbys else mounted
        async with mounting(source_of(writer.name)) as runtime:
            begun.set()
            await writer.work(runtime, 6)
            busy -= 1
            if not busy:
                quiet.set()
            await settled.wait()
            while not await writer.barrier(runtime):
                pass  # of a request that was on its way before the store calmed down

    async def referee() -> None:
        await quiet.wait()
        calm()
        settled.set()

    first = trio.Event()
    first.set()
    begun = trio.Event()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(referee)
            nursery.start_soon(compete, writers[0], 0.0, begun, first)
            for writer, delay_s in zip(writers[1:], delays[1:], strict=True):
                nursery.start_soon(compete, writer, delay_s, trio.Event(), begun)
    left = [writer.name for writer in writers if not writer.fenced]
    assert len(left) == 1, f"still writing: {left}"
    return writers


async def verify(writers: list[Writer], source: Source) -> None:
    """Recover on a host that has nothing, and compare."""
    async with volume(source) as runtime:
        names = {name for name, _, _ in runtime.volume.namespace.readdir(ROOT_INODE, 0)}
        for writer in writers:
            mine = {name for name in names if name.rstrip(b"-0123456789") == writer.name.encode()}
            for name, (size, confirmed) in writer.expected(mine).items():
                found, right = await read_file(runtime, name), content_of(name, size)
                assert found == right or (not confirmed and right.startswith(found)), (
                    f"{writer.name}: {name!r} has {len(found)} bytes"
                )
            names -= mine
        assert not names, f"nobody made {names}"
        await runtime.volume.sync()
        check_index(runtime.metadata)


@asynccontextmanager
async def mounted(source: Source) -> AsyncIterator[Runtime]:
    """The volume, however often the store fails meanwhile."""
    async with AsyncExitStack() as stack:
        while True:
            try:
                runtime = await stack.enter_async_context(volume(source))
                break
            except Unavailable:
                await trio.sleep(0.1)
        yield runtime


@asynccontextmanager
async def promoted(source: Source) -> AsyncIterator[Runtime]:
    """The volume on a standby that became its writer, likewise; it stands by once something is there."""
    given = replace(source, read_only=True, follow=True)
    async with AsyncExitStack() as stack:
        while True:
            try:
                runtime = await stack.enter_async_context(volume(given))
                break
            except (Unavailable, Invalid):
                await trio.sleep(0.1)
        while True:
            try:
                await promote(runtime, switch=lambda: None)
                break
            except (Unavailable, Busy):
                await trio.sleep(0.1)
        yield runtime
