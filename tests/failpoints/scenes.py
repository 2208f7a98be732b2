"""Pieces of a gateway's life, each of which passes through some fail points: how one is led up to, what is
done when the failure is due, and what is to be put right by hand afterwards.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from fusegw.assembly import Runtime
from fusegw.config import VolumePaths
from fusegw.control.protocol import CollectWish
from fusegw.daemon.lock import present_holder
from fusegw.registry import Registry
from tests.crash.lossy_disk import lose_unsynced
from tests.crash.rebuilt import rebuilt, tree
from tests.failpoints.files import ERRORS, Files
from tests.failpoints.injection import Order, Outcome
from tests.failpoints.points import POINTS, Point
from tests.model.invariants import check_index
from tests.mount.gateways import CHEAP, NAME, Gateway, drop_kernel_caches, ended

STEPS_MAX = 40
TRIES = 40
TICK_S = 0.25
KIB = 1 << 10
CACHE_SIZE = "20M"
SETTINGS = {
    # Nothing is shipped but by barriers, and whatever can be given up is.
    "ship_interval_s": "3600",
    "pack_size": "'2M'",
    "checkpoint_log_size": "'1K'",
    "checkpoint_interval_s": "0.3",
    "checkpoint_retention_s": "0",
    "gc_interval_s": "0",
    "gc_grace_s": "0",
    "gc_orphan_grace_s": "0",
    "scrub_daily_share": "0",
}


class Victim:
    """A gateway that is going to fail, and the files on it."""

    def __init__(self, base: Path, seed: int, **environment: str) -> None:
        self.base = base
        self._orders = base / "orders"
        self._orders.mkdir()
        self._notes = base / "notes"
        self._environment = {
            "FUSEGW_TEST_ORDERS": str(self._orders),
            "FUSEGW_TEST_NOTES": str(self._notes),
        } | environment
        self._hosts: list[Gateway] = []
        self._settings = SETTINGS
        self.gateway = self._host()
        self.files = Files(self.gateway.root, seed)
        self._order = Order("")

    def _host(self, volume_of: Gateway | None = None) -> Gateway:
        place = self.base / f"host{len(self._hosts)}"
        place.mkdir()
        module = "tests.failpoints.daemon"
        host = Gateway(place, module=module, environment=self._environment, volume_of=volume_of)
        self._hosts.append(host)
        return host

    def end(self) -> None:
        for host in self._hosts:
            host.end()

    # Failing.

    def order(self, order: Order) -> None:
        self._order = order
        (self._orders / "fired").unlink(missing_ok=True)
        _replace(self._orders / "order", msgspec.json.encode(order))

    @property
    def fired(self) -> bool:
        return (self._orders / "fired").exists()

    @property
    def killed(self) -> bool:
        return self.fired and self._order.outcome.kills

    @property
    def seen(self) -> set[str]:
        """Names of the points that were reached so far."""
        file = self._orders / "seen"
        return set(file.read_text().split()) if file.exists() else set()

    def until_fired(self, step: Callable[[int], object]) -> None:
        """Step by step until the failure was there, or, without one, all points of the scene were passed. An
        error before the failure is none of ours."""
        for number in range(STEPS_MAX):
            if self.attempt(partial(step, number)) is not None or self.done:
                return

    @property
    def done(self) -> bool:
        if self._order.point:
            return self.fired
        return self.seen >= {point.name for point in POINTS if point.scene == self._order.scene}

    def attempt(self, work: Callable[[], object]) -> Exception | None:
        """What became of it. Errors are allowed once the failure was there."""
        try:
            work()
        except ERRORS as error:
            if not self.fired:
                raise
            return error
        return None

    def insist(self, work: Callable[[], object]) -> None:
        """It works in the end."""
        errors: list[Exception] = []

        def works() -> bool:
            error = self.attempt(work)
            if error is not None:
                errors.append(error)
            return error is None

        assert wait_until(works), f"it still fails: {errors[-1]}"

    # Living.

    def mount(self, settings: dict[str, str] = SETTINGS, *, may_fail: bool = False) -> bool:
        """Whether it is mounted; an attempt that may fail tells why without a traceback."""
        self._settings = settings
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        self.gateway.configure(f"[volumes.{NAME}]\n{lines}")
        if may_fail:
            done = self.gateway.run("mount", NAME, self.gateway.root, "--cache-size", CACHE_SIZE)
            if done.returncode:
                assert "Traceback" not in done.stderr and done.stderr.strip(), done.stderr
                return False
            self.gateway.adopt()
            return True
        self.gateway.mount("--cache-size", CACHE_SIZE)
        return True

    def be(self, settings: dict[str, str]) -> None:
        """Mounted with these."""
        if self._settings != settings:
            self.barrier()
            self.gateway.umount()
            self.mount(settings)

    def barrier(self) -> None:
        self.gateway.barrier()
        self.files.barrier_returned()

    def kill(self) -> None:
        """And with it goes what was not synced, as the power would take it."""
        self.gateway.kill()
        self.lose()

    def wait_for_death(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError), ended(pid) as wait:
            wait()
        self.lose()

    def lose(self) -> None:
        if self._notes.exists():
            lose_unsynced(self._notes)

    def stored(self) -> dict[str, bytes]:
        """What the store alone gives back, its index checked."""

        async def look(runtime: Runtime) -> dict[str, bytes]:
            check_index(runtime.metadata)
            return {name: entry.content for name, entry in (await tree(runtime)).items()}

        place = self.base / "rebuilt"
        try:
            return rebuilt(self._hosts[0], place, look)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def check(self) -> None:
        """Every row, and every record in the store."""
        self.gateway.command("check", NAME, "--read-data")

    def refuse_tracebacks(self) -> None:
        assert "Traceback" not in self.gateway.log, self.gateway.log

    def collect(self) -> None:
        self.gateway.control().collect(CollectWish(orphans=True), lambda progress: None)

    def inherit(self) -> Gateway:
        """Another host, which knows nothing of the volume."""
        heir = self._host(volume_of=self.gateway)
        (heir.state / "registry.json").unlink()
        return heir

    @property
    def pid(self) -> int | None:
        """The process that serves the mount, if there is one."""
        holder = present_holder(VolumePaths(self.gateway.state, NAME))
        return None if holder is None else holder.pid


class Scene:
    """What most scenes are like. They begin with a volume that is mounted and has some files in the store.

    `act` ends when the failure was there; with an order that has none, when the points were passed.
    """

    damages = False
    """Whether the store is damaged on purpose until `mend`."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim

    @property
    def files(self) -> Files:
        return self.victim.files

    def lead_up(self) -> None:
        """To where the failure is ordered."""

    def act(self) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        """After a failure that the gateway outlived: it works again, without a restart."""
        files, insist = self.files, self.victim.insist
        for name in [name for name, choices in files.may.items() if len(choices) > 1]:
            insist(partial(files.save, name, files.data(20 * KIB)))
        insist(lambda: files.grow(files.new_name(), files.data(70 * KIB)))
        insist(self.victim.barrier)

    def restart(self) -> None:
        self.victim.mount()

    def mend(self) -> None:
        """What was damaged on purpose."""

    def grow(self, *sizes: int) -> None:
        for size in sizes:
            self.files.grow(self.files.new_name(), self.files.data(size))


class Writing(Scene):
    def act(self) -> None:
        self.victim.until_fired(self.step)

    def step(self, number: int) -> None:
        files = self.files
        self.grow(30 * KIB)
        files.save(sorted(files.whole())[number % 4], files.data(9 * KIB))
        if number % 2:
            self.grow(1300 * KIB)
        os.utime(files.root)
        sync_directory(files.root)
        self.victim.barrier()


class Dying(Scene):
    """Files that go before their packs are stored."""

    def act(self) -> None:
        self.victim.until_fired(self.step)

    def step(self, number: int) -> None:
        name, tick = self.files.new_name(), threading.Event()
        self.files.grow(name, self.files.data(300 * KIB))
        self.files.remove(name)
        tick.wait(TICK_S)  # for the reaper, which need not be waited for: there are more steps
        self.victim.barrier()


class Collecting(Scene):
    def lead_up(self) -> None:
        files = self.files
        names = [files.new_name() for _ in range(24)]
        for name in names:
            files.grow(name, files.data(150 * KIB))
        self.victim.barrier()
        for number, name in enumerate(names):
            if number % 5:
                files.remove(name)
        self.victim.barrier()
        # Another one each time: one that the index knows already is not found anew.
        orphan = self.victim.gateway.store / "packs/ab" / f"{'ab' * 8}{int(files.new_name()[1:]):016x}"
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"left behind by another gateway")

    def act(self) -> None:
        self.victim.until_fired(self.step)

    def step(self, number: int) -> None:
        self.victim.collect()
        for _ in range(2):
            self.checkpoint()

    def checkpoint(self) -> None:
        """One of a state that is younger than all before, so that the older ones are given up."""
        control = self.victim.gateway.control()
        self.grow(1000)
        self.victim.barrier()
        at = control.status().log_seq

        def is_written() -> bool:
            self.victim.barrier()
            return (control.status().checkpoint_seq or 0) >= at or self.victim.fired

        wait_until(is_written)

    def go_on(self) -> None:
        super().go_on()
        self.victim.insist(self.victim.collect)


class Evicting(Scene):
    def lead_up(self) -> None:
        for _ in range(8):
            self.grow(2500 * KIB)
            self.victim.barrier()

    def act(self) -> None:
        self.victim.until_fired(self.step)

    def step(self, number: int) -> None:
        self.grow(2500 * KIB)
        self.victim.barrier()
        drop_kernel_caches()
        for name, data in list(self.files.whole().items())[number % 3 :: 3]:
            assert (self.files.root / name).read_bytes() == data
        if number % 2:
            self.victim.gateway.control().cache_drop()


class Mending(Scene):
    """A pack is lost in the store, and the cache still has it."""

    damages = True

    def lead_up(self) -> None:
        self.into_a_pack_alone(self.files.data(1500 * KIB))

    def into_a_pack_alone(self, data: bytes) -> None:
        """And with room for it in the cache."""
        self.victim.barrier()
        self.victim.gateway.control().cache_drop()
        self.files.grow(self.files.new_name(), data)
        self.victim.barrier()

    def act(self) -> None:
        self.victim.until_fired(self.step)

    def step(self, number: int) -> None:
        self.lose_the_newest_pack()
        self.repair()

    def lose_the_newest_pack(self) -> None:
        packs = self.victim.gateway.store.glob("packs/*/*")
        max(packs, key=lambda path: path.stat().st_mtime_ns).unlink()

    def repair(self) -> None:
        done = self.victim.gateway.run("check", NAME, "--repair", "--read-data")
        assert "Traceback" not in done.stderr, done.stderr

    def mend(self) -> None:
        self.repair()
        self.victim.barrier()


class Healing(Mending):
    """A pack is lost in the store and in the cache; its data is written once more."""

    def lead_up(self) -> None:
        self.lost = self.files.data(1500 * KIB)
        self.into_a_pack_alone(self.lost)

    def step(self, number: int) -> None:
        self.lose_the_newest_pack()
        self.victim.gateway.control().cache_drop()
        self.repair()
        self.write_again()

    def write_again(self) -> None:
        self.files.grow(self.files.new_name(), self.lost)
        self.victim.barrier()

    def mend(self) -> None:
        self.repair()
        self.write_again()


class Scrubbing(Scene):
    def lead_up(self) -> None:
        self.victim.be(SETTINGS | {"scrub_daily_share": "1"})

    def act(self) -> None:
        self.victim.until_fired(self.step)

    def step(self, number: int) -> None:
        self.grow(40 * KIB)
        self.victim.barrier()
        threading.Event().wait(TICK_S)


class AtTheStart(Scene):
    """The failure comes while the volume is being mounted."""

    def act(self) -> None:
        mounted = self.victim.mount(may_fail=True)
        assert not (mounted and self.victim.killed)

    def go_on(self) -> None:
        if self.victim.pid is None:
            self.victim.mount()
        super().go_on()


class Starting(AtTheStart):
    """What the run before has acknowledged is in its open pack."""

    def lead_up(self) -> None:
        self.grow(10, 90 * KIB, 400 * KIB)
        self.victim.kill()


class Resending(AtTheStart):
    """A segment of the run before is in the store, and nobody knows."""

    def lead_up(self) -> None:
        pid = self.victim.pid
        assert pid is not None
        self.victim.order(Order("writing", "segment-put", Outcome.ABORT_AFTER))
        Writing(self.victim).act()
        self.victim.wait_for_death(pid)


class CatchingUp(AtTheStart):
    """Another host has written the volume since; this one has nothing of its own."""

    def lead_up(self) -> None:
        self.victim.gateway.umount()
        self.elsewhere()

    def elsewhere(self) -> None:
        heir = self.victim.inherit()
        heir.command("recover", NAME, "--store", f"file://{heir.store}")
        heir.mount("--cache-size", CACHE_SIZE)
        files = self.files.copy_for(heir.root)
        files.verify()
        for size in (50, 80 * KIB):
            files.grow(files.new_name(), files.data(size))
        heir.barrier()
        files.barrier_returned()
        heir.kill()
        self.victim.files = files.copy_for(self.victim.gateway.root)


class SettingAside(CatchingUp):
    """Another host has taken the volume over, and this one has what it never shipped."""

    def lead_up(self) -> None:
        victim = self.victim
        self.unsent = {self.files.new_name(): self.files.data(size) for size in (150 * KIB, 10)}
        for name, data in self.unsent.items():
            self.files.grow(name, data)
        victim.kill()
        self.elsewhere()

    def mend(self) -> None:
        """What was acknowledged and not shipped comes out by salvage."""
        place = self.victim.base / "salvaged"
        self.victim.gateway.command("salvage", NAME, place)
        found = {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert self.unsent.items() <= found.items()
        shutil.rmtree(place)
        for aside in (self.victim.gateway.state / "volumes" / NAME).glob("unsent-*"):
            shutil.rmtree(aside)


class Recovering(Scene):
    """The gateway is lost; the volume is recovered on a bare host."""

    def lead_up(self) -> None:
        Collecting(self.victim).checkpoint()
        self.grow(20 * KIB)
        self.victim.barrier()
        self.victim.kill()
        self.victim.gateway = self.victim.inherit()
        self.victim.files = self.files.copy_for(self.victim.gateway.root)

    def act(self) -> None:
        self.recover()

    def recover(self) -> int:
        gateway = self.victim.gateway
        done = gateway.run("recover", NAME, "--store", f"file://{gateway.store}")
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def go_on(self) -> None:
        self.restart()
        super().go_on()

    def restart(self) -> None:
        """What it had come to is gone on with, or it begins anew; but a host that knows the volume knows it
        whole."""
        if self.victim.pid is None:
            if NAME not in Registry(self.victim.gateway.state).volumes():
                assert self.recover() == 0
            self.victim.mount()


class Creating(Scene):
    """Another volume is created on the host."""

    def act(self) -> None:
        self.create()

    def create(self) -> int:
        gateway, place = self.victim.gateway, self.victim.base / "pond"
        place.mkdir(exist_ok=True)
        key = ("--recovery-key-file", self.victim.base / "recovery-pond")
        done = gateway.run("init", "pond", "--store", f"file://{place}", *key, *CHEAP)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def mend(self) -> None:
        """It is there whole, or is created after all in an empty place."""
        registry, base = Registry(self.victim.gateway.state), self.victim.base
        if "pond" not in registry.volumes():
            shutil.rmtree(base / "pond")
            (base / "recovery-pond").unlink(missing_ok=True)
            assert self.create() == 0
        self.victim.gateway.command("key", "list", "pond")
        registry.remove("pond")
        shutil.rmtree(base / "pond")
        (base / "recovery-pond").unlink()


SCENE_OF: dict[str, type[Scene]] = {
    "writing": Writing,
    "collecting": Collecting,
    "evicting": Evicting,
    "mending": Mending,
    "healing": Healing,
    "creating": Creating,
    "scrubbing": Scrubbing,
    "dying": Dying,
    "starting": Starting,
    "resending": Resending,
    "catching-up": CatchingUp,
    "setting-aside": SettingAside,
    "recovering": Recovering,
}


def begin(victim: Victim) -> None:
    """Mounted, with some files in the store."""
    victim.mount()
    Scene(victim).grow(0, 100, 60 * KIB, 700 * KIB, 1800 * KIB)
    victim.barrier()


def play(victim: Victim, point: Point, outcome: Outcome) -> None:
    """The point fails; afterwards all that was acknowledged is there, here and from the store alone."""
    scene = SCENE_OF[point.scene](victim)
    scene.lead_up()
    pid = victim.pid
    victim.order(Order(point.scene, point.name, outcome))
    scene.act()
    assert victim.fired, f"{point.name} was not reached"
    if not outcome.kills:
        scene.go_on()
    if victim.pid is not None and (not outcome.kills or point.scene in OTHER_PROCESSES):
        victim.kill()
    elif pid is not None:
        victim.wait_for_death(pid)
    victim.lose()
    if outcome.kills and not scene.damages:
        victim.files.verify_stored(victim.stored())
    scene.restart()
    scene.mend()
    victim.check()
    victim.files.verify()
    victim.barrier()
    victim.files.verify_stored(victim.stored())
    victim.refuse_tracebacks()


def tour(victim: Victim) -> None:
    """All scenes one after the other, without a failure."""
    begin(victim)
    for name, kind in SCENE_OF.items():
        scene = kind(victim)
        if victim.pid is None:
            victim.mount()
        scene.lead_up()
        victim.order(Order(name))
        scene.act()


OTHER_PROCESSES = ("creating",)
"""Scenes in which a command dies, and not the gateway."""


def wait_until(is_so: Callable[[], bool]) -> bool:
    """Look again and again; False when it was not so in the end."""
    tick = threading.Event()
    for _ in range(TRIES):
        if is_so():
            return True
        tick.wait(TICK_S)
    return False


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").rename(path)
