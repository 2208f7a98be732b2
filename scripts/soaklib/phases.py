"""What goes wrong in a soak, one thing after the other. After each phase all is compared.

The work of a phase goes on under the weather that its store has; whoever compares has calm weather, since
what is asked then is whether anything was lost, not whether it can be had at once.
"""

import os
from collections.abc import Callable

from fusegw.control.protocol import CollectWish
from fusegw.errors import FusegwError, Unavailable
from scripts.soaklib.chaos import Weather
from scripts.soaklib.patient import Patient, corrupt
from tests.mount.gateways import NAME

WORK_S = (1.0, 6.0)
FREE_BYTES = 6 << 20
"""What a full disk has left."""


def work(patient: Patient, low: float = WORK_S[0], high: float = WORK_S[1]) -> None:
    """Time passes."""
    patient.pause.wait(patient.chance.uniform(low, high))


def remount(patient: Patient) -> None:
    """Mounted again, in any weather; calm weather afterwards."""
    if patient.chance.random() < 0.5:
        patient.weather(Weather.CALM)
    patient.mount()
    patient.weather(Weather.CALM)


def load(patient: Patient) -> None:
    """The store fails, and nothing else."""
    with patient.load():
        work(patient)


def evict(patient: Patient) -> None:
    """What can be fetched again leaves the cache, again and again."""
    with patient.load():
        for _ in range(3):
            work(patient, 0.5, 2)
            patient.gateway.command("cache", "drop", NAME)
    patient.gateway.command("cache", "drop", NAME)


def kill(patient: Patient) -> None:
    """kill -9 at a random moment, and the next mount."""
    with patient.load(doomed=True):
        work(patient)
        patient.kill()
    remount(patient)
    patient.compare_local()


def lose_host(patient: Patient) -> None:
    """kill -9, and every local file is gone: the store gives back what it was said to have."""
    with patient.load(doomed=True):
        work(patient)
        patient.kill()
    patient.move()
    remount(patient)
    patient.compare_stored()
    patient.forget_lost()


def lose_store(patient: Patient) -> None:
    """The store is away for a while."""
    with patient.load():
        work(patient, 0.5, 1)
        patient.weather(Weather.AWAY)
        work(patient, 3, 8)
        patient.weather(Weather.ROUGH)
        work(patient, 1, 2)


def fill_disk(patient: Patient) -> None:
    """The disk below the cache is full while the store is away; the store comes back, then there is room."""
    patient.gateway.umount()
    patient.mount(write_wait_s=0.5)
    ballast = patient.disk / "ballast"
    with patient.load(may_be_full=True):
        work(patient, 0.5, 2)
        patient.weather(Weather.AWAY)
        figures = os.statvfs(patient.disk)
        free = figures.f_bavail * figures.f_frsize
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - FREE_BYTES, 1))
        work(patient, 4, 8)
        patient.weather(Weather.ROUGH)
        work(patient, 1, 2)
        ballast.unlink()
        work(patient, 1, 2)
    patient.weather(Weather.CALM)
    assert patient.barrier(), "there is room and the store answers, and yet not everything can be stored"
    patient.gateway.umount()
    patient.mount()


def corrupt_cache(patient: Patient) -> None:
    """Files of the cache change below the gateway; what the store has is good."""
    with patient.load():
        work(patient)
    patient.weather(Weather.CALM)
    assert patient.barrier()
    stored = patient.place.packs()
    mounted = patient.chance.random() < 0.5
    if not mounted:
        patient.gateway.umount()
    for path in sorted(patient.gateway.cache.glob("*/packs/*/*")):
        if path.name in stored and path.stat().st_size and patient.chance.random() < 0.7:
            corrupt(path, patient.chance)
            patient.figures.corrupted_files += 1
    if not mounted:
        patient.mount()
    patient.compare_all()


def collect(patient: Patient) -> None:
    """Room is made in the store."""
    with patient.load():
        work(patient, 0.5, 1)
        patient.collect(Unavailable)


def collect_and_kill(patient: Patient) -> None:
    """kill -9 while room is made in the store."""
    with patient.load(doomed=True):
        work(patient, 0.5, 1)
        with patient.meanwhile(lambda: _collect(patient)):
            work(patient, 0, 2)
            patient.kill()
    remount(patient)
    patient.compare_local()


def check_data(patient: Patient) -> None:
    """Every record in the store is read while work goes on."""
    patient.weather(Weather.CALM)
    with patient.load():
        work(patient, 0.5, 1)
        patient.check("--read-data")


def _collect(patient: Patient) -> None:
    try:
        patient.gateway.control().collect(CollectWish(), lambda progress: None)
    except FusegwError:
        pass  # it died
    patient.figures.collections += 1


PHASES: dict[str, Callable[[Patient], None]] = {
    "load": load,
    "evict": evict,
    "kill": kill,
    "lose-host": lose_host,
    "lose-store": lose_store,
    "fill-disk": fill_disk,
    "corrupt-cache": corrupt_cache,
    "collect": collect,
    "collect-and-kill": collect_and_kill,
    "check-data": check_data,
}


def lose_object(patient: Patient) -> None:
    """The control: the store loses a pack that it had acknowledged, and nothing else has it."""
    patient.weather(Weather.CALM)
    assert patient.barrier()
    alive = patient.living_bytes()
    patient.place.lose(max(patient.place.packs(), key=lambda name: alive.get(name, 0)))
    patient.gateway.command("cache", "drop", NAME)
