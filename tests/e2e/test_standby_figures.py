"""A standby at full size, on every kind of store: how soon it shows what was stored, how long it takes to
become the writer, and readers that find nothing stale."""

import errno
import random
import time
from collections.abc import Iterator

import pytest

from tests.mount.gateways import NAME, Gateway
from tests.mount.standbys import MIB, WAIT_S, barrier, churn, churn_and_compare, elsewhere, until

pytestmark = [pytest.mark.mount, pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture
def other(any_gateway: Gateway) -> Iterator[Gateway]:
    """Another host for the same volume, not mounted yet."""
    yield from elsewhere(any_gateway)


def test_the_kernel_keeps_nothing_stale_in_a_hundred_rounds(any_gateway: Gateway, other: Gateway) -> None:
    any_gateway.mount()
    barrier(any_gateway)
    other.mount("--follow")
    churn_and_compare(any_gateway, other, 100)


def test_a_new_file_is_seen_within_two_ship_intervals(any_gateway: Gateway, other: Gateway) -> None:
    """With the defaults: 5 s, and the looks of the standby that follow from that."""
    gateway = any_gateway
    for host in (gateway, other):
        host.configure("")
    gateway.mount()
    barrier(gateway)
    other.mount("--follow")
    interval_s, chance = 5.0, random.Random(3)
    waits = []
    for number in range(24):
        time.sleep(chance.random() * interval_s / 2)
        assert not (other.root / f"f{number}").exists()
        (gateway.root / f"f{number}").write_bytes(chance.randbytes(chance.choice((0, 5000, 3 * MIB))))
        barrier(gateway)
        begun = time.monotonic()
        while not (other.root / f"f{number}").exists():
            assert time.monotonic() < begun + WAIT_S
            time.sleep(0.005)
        waits.append(time.monotonic() - begun)
        assert (other.root / f"f{number}").read_bytes() == (gateway.root / f"f{number}").read_bytes()
    print(f"new files seen after their barrier: {figures(waits)} in {len(waits)} rounds (limit 10 s)")
    assert max(waits) <= 2 * interval_s


def test_promotions_take_less_than_five_seconds(any_gateway: Gateway, other: Gateway) -> None:
    """To and fro, with the old writer writing on until it is fenced."""
    writer, standby = any_gateway, other
    for host in (writer, standby):
        host.configure("")
    writer.mount()
    barrier(writer)
    chance, took, fenced, kept = random.Random(4), [], [], dict[str, bytes]()
    for number in range(20):
        standby.mount("--follow")
        churn(writer.root, chance)
        kept[f"kept{number}"] = chance.randbytes(200_000)
        (writer.root / f"kept{number}").write_bytes(kept[f"kept{number}"])
        barrier(writer)
        (writer.root / f"late{number}").write_bytes(chance.randbytes(50_000))
        begun = time.monotonic()
        standby.command("promote", NAME)
        (standby.root / f"first{number}").write_bytes(b"x")
        took.append(time.monotonic() - begun)
        until(writer, lambda found: found.fenced is not None, "fenced")
        fenced.append(time.monotonic() - begun)
        with pytest.raises(OSError) as caught:
            (writer.root / "refused").touch()
        assert caught.value.errno == errno.EROFS
        found = {name: (standby.root / name).read_bytes() for name in kept}
        assert found == kept
        barrier(standby)
        writer.umount()
        writer, standby = standby, writer
    print(f"promote, command and first file written: {figures(took)} in {len(took)} rounds (limit 5 s)")
    print(f"old writer fenced after: {figures(fenced)}")
    assert max(took) < 5
    assert max(fenced) < 2 * 5


def figures(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s"
