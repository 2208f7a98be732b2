"""The running volume and the reference, with quotas set and removed on the way.

The reference knows no quotas. What is refused because of one must be refused rightly, by a count that walks
all inodes and extents; what is not refused must stay within the limits; and what each quota says is used must
be what that count makes, at any time.
"""

import errno
from pathlib import Path
from typing import Any

import trio

from fusegw.assembly import Runtime
from fusegw.errors import FusegwError
from fusegw.meta.quota import ACTIVE, QUOTA_NUMBER_MAX
from fusegw.meta.schema import (
    EXTENT,
    HOLE,
    INODE,
    INODE_MAX,
    QUOTA,
    ROOT_INODE,
    STATE_NEXT_INODE,
    Quota,
    Used,
)
from fusegw.store.base import ObjectStore
from fusegw.vfs.volume import Volume
from tests.model.steps import outcome, random_step, resolve
from tests.model.world import Tree, World
from tests.vfs.counting import check_quotas

QUOTAS_MAX = 6
BYTES = (None, None, 60_000, 300_000, 2_000_000)
FILES = (None, 2, 5, 15, 40)
_REFUSALS = ("EDQUOT", "EXDEV")


class _Refused(Exception):
    """A clone met a quota."""


class QuotaWorld(World):
    """See the module."""

    def __init__(self, directory: Path, store: ObjectStore, seed: int) -> None:
        super().__init__(directory, store, seed)
        self.refused = {"write": 0, "EDQUOT": 0, "EXDEV": 0, "clone": 0}
        self.counted = 0
        """Quotas of trees that were there before."""
        self._runtime: Any = None
        self._linked: set[int] = set()
        """What had several names once: it may count elsewhere than where it is found."""
        self._within: dict[int, Quota] = {}
        """Quotas that were kept to the last time."""

    async def _live(self, budget: int, end: str) -> None:
        self._within.clear()
        await super()._live(budget, end)

    async def _step(self, runtime: Runtime, background: trio.Nursery) -> None:
        self._runtime = runtime
        if self.random.random() < 0.01:
            self._quota_step()
            self._check(runtime)
        await super()._step(runtime, background)

    def _quota_step(self) -> None:
        quotas = self._runtime.quotas
        there = [one.quota.directory for one in quotas.all()]
        if there and (len(there) >= QUOTAS_MAX or self.random.random() < 0.3):
            ino = self.random.choice(there)
            try:
                quotas.remove(ino)
            except FusegwError:
                assert quotas.all()[there.index(ino)].quota.state != ACTIVE
            return
        directories = [
            i for i, node in self.reference.nodes.items() if node.is_dir and self.reference.nlink(i)
        ]
        limits = {"bytes_max": self.random.choice(BYTES), "files_max": self.random.choice(FILES)}
        if any(limits.values()):
            ino = (
                self.random.choice([ROOT_INODE, *directories])
                if self.random.random() < 0.2
                else max(directories)
            )
            found = quotas.set(ino, **limits)
            self.counted += found.quota.state != ACTIVE

    def _name_step(self, volume: Volume) -> None:
        step = random_step(self.random.choice)
        arguments = resolve(step, self.reference)
        if step.operation == "rename" and len(self.reference.nodes) < 3:
            return
        before = dict(self._runtime.metadata.scan(INODE, 0, INODE_MAX + 1))
        ours = outcome(Tree(volume), step.operation, arguments)
        if ours in _REFUSALS:
            expected = outcome(self.reference.copy(), step.operation, arguments)
            assert not str(expected).startswith("E"), f"{step.operation} {arguments}: {ours}, is {expected}"
            self._judge(ours, arguments, before)
            return
        expected = outcome(self.reference, step.operation, arguments)
        assert ours == expected, f"{step.operation} {arguments}: {ours}, expected {expected}"
        if step.operation == "link" and isinstance(ours, int):
            self._linked.add(ours)
        self._release(*self.reference.nodes)
        if len(self.reference.nodes) > 60:
            self._prune(volume)

    def _judge(self, refusal: str, arguments: dict[str, Any], inodes: dict) -> None:
        """Whether a name was refused rightly."""
        self.refused[refusal] += 1
        tags = {inodes[arguments[key]].quota for key in ("parent", "new_parent", "ino") if key in arguments}
        if refusal == "EXDEV":
            assert len(tags) > 1 or any(quota.state != ACTIVE for _, quota in self._limits(None)), arguments
            return
        most = max(inode.allocated for inode in inodes.values()) + self._runtime.pipeline.bytes_in_flight
        assert any(
            (quota.files_max and used.files + 1 > quota.files_max)
            or ("new_parent" in arguments and quota.bytes_max and used.nbytes + most > quota.bytes_max)
            for used, quota in self._limits(None)
        ), f"{arguments} refused within all limits"

    async def _write_at(self, volume: Volume, ino: int, offset: int, data: bytes) -> None:
        try:
            await super()._write_at(volume, ino, offset, data)
        except OSError as error:
            assert error.errno == errno.EDQUOT, error
            self.refused["write"] += 1
            new = len(data)
            for (_, start), extent in self._runtime.metadata.scan(EXTENT, (ino, 0), (ino + 1, 0)):
                if extent.chunk != HOLE:
                    new -= max(0, min(offset + len(data), start + extent.length) - max(offset, start))
            assert any(
                quota.bytes_max and used.nbytes + new > quota.bytes_max for used, quota in self._limits(ino)
            ), f"{len(data)} bytes at {offset} of inode {ino} refused within all limits"

    async def _roll_back(self, runtime: Runtime, name: str) -> None:
        """The volume may hold more afterwards than is allowed by now."""
        self._within.clear()
        await super()._roll_back(runtime, name)

    async def _clone(self, runtime: Runtime, name: str) -> None:
        before, cloner = self.reference.copy(), runtime.volume.cloner
        clone = cloner.clone

        async def judged(*arguments: Any, **more: Any) -> Any:
            try:
                return await clone(*arguments, **more)
            except OSError as error:
                if error.errno in (errno.EDQUOT, errno.EBUSY):
                    raise _Refused from None
                raise

        cloner.clone = judged  # type: ignore[method-assign]
        try:
            await super()._clone(runtime, name)
        except _Refused:
            self.refused["clone"] += 1
            self.reference.become(before)
            self.reference.next_ino = runtime.metadata.number(STATE_NEXT_INODE)
            await self._settle_reaper(runtime)
        finally:
            del cloner.clone

    async def compare(self, runtime: Runtime) -> None:
        """And all counts."""
        await super().compare(runtime)
        self._check(runtime)

    def _check(self, runtime: Runtime) -> None:
        check_quotas(runtime.metadata, apart=frozenset(self._linked))
        within = {}
        for one in runtime.quotas.all():
            is_within = (not one.quota.bytes_max or one.used.nbytes <= one.quota.bytes_max) and (
                not one.quota.files_max or one.used.files <= one.quota.files_max
            )
            if one.quota.state == ACTIVE and self._within.get(one.number) == one.quota:
                assert is_within, f"{one} was kept to, and is not any more"
            if one.quota.state == ACTIVE and is_within:
                within[one.number] = one.quota
        self._within = within

    def _limits(self, ino: int | None) -> list[tuple[Used, Quota]]:
        """What is used of the quotas that an inode counts for (None: of all), counted by walking."""
        metadata = self._runtime.metadata
        quotas = dict(metadata.scan(QUOTA, 0, QUOTA_NUMBER_MAX + 1))
        inodes = dict(metadata.scan(INODE, 0, INODE_MAX + 1))

        def levels(number: int) -> set[int]:
            found = {0}
            while number in quotas and number:
                found.add(number)
                number = quotas[number].parent
            return found

        counted = quotas if ino is None else levels(inodes[ino].quota) & quotas.keys()
        sums = []
        for number in counted:
            own = [inode for inode in inodes.values() if number in levels(inode.quota)]
            used = Used(sum(inode.allocated for inode in own), sum(inode.nlink > 0 for inode in own))
            if ino is None or quotas[number].state == ACTIVE:
                sums.append((used, quotas[number]))
        return sums
