"""Nothing that was changed in the store opens, and the answer is always one of three.

Three depths: raw damage (the checksum finds it); damage under a repaired checksum, as a hostile store would
do it; and any single field of the decoded body replaced, re-encoded and framed correctly. The controls at the
end show that the same changes open once the MAC is made anew by someone with the key.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusegw.errors import Corrupt, UnknownFormat, WrongKey
from fusegw.keys import VolumeKeys, framing, kdf, list_slots, open_volume
from fusegw.keys import generation as gen
from fusegw.keys.generation import Features
from fusegw.keys.slots import seal_slot

VOLUME, GENERATION = "volume", "keys/00000001"
KEYS = (VOLUME, GENERATION)
REFUSED = (Corrupt, WrongKey, UnknownFormat)
MAGICS = {VOLUME: b"FUSEGWV\0", GENERATION: b"FUSEGWK\0"}

quick = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


def refused(bench, key: str, data: bytes) -> BaseException:  # type: ignore[no-untyped-def]
    """Open with `data` in the place of an object, by the recovery key (its slot derives in no time)."""
    store = bench.with_objects({**bench.objects(), key: data})
    try:  # without a secret nothing is authenticated, but nothing else may escape either
        list_slots(store)
    except REFUSED:
        pass
    with pytest.raises(REFUSED) as caught:
        open_volume(store, bench.recovery)
    shown = f"{caught.value} {caught.value!r}"
    for secret in (
        bench.recovery.reveal(),
        bench.created.keys.master_keys()[1],
        bench.created.keys.chunk_id_key,
    ):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    return caught.value


def repaired(data: bytes) -> bytes:
    """The length field and the checksum made right, as they hold no secret."""
    head = data[:12] + max(0, len(data) - 48).to_bytes(4) + data[16:-32]
    return head + hashlib.sha256(head).digest()


@pytest.mark.parametrize("key", KEYS)
def test_every_bit_counts(shared_bench, key: str) -> None:
    """One flipped bit of each byte of the object."""
    data = shared_bench.objects()[key]
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        refused(shared_bench, key, bytes(damaged))


@pytest.mark.parametrize("key", KEYS)
def test_every_bit_counts_under_a_repaired_checksum(shared_bench, key: str) -> None:
    data = shared_bench.objects()[key]
    for place in range(16, len(data) - 32):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        refused(shared_bench, key, repaired(bytes(damaged)))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("repair", [False, True])
def test_every_truncation_is_refused(shared_bench, key: str, repair: bool) -> None:
    data = shared_bench.objects()[key]
    for length in range(len(data)):
        cut = data[:length]
        refused(shared_bench, key, repaired(cut) if repair and length >= 48 else cut)


@quick
@given(data=st.data(), key=st.sampled_from(KEYS), repair=st.booleans())
def test_any_mutation_is_refused(shared_bench, data, key: str, repair: bool) -> None:  # type: ignore[no-untyped-def]
    """Overwrite, insert, delete or repeat any stretch."""
    original = shared_bench.objects()[key]
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 64)))
    middle = data.draw(st.binary(max_size=64) | st.just(original[start:end] * 2))
    mutated = original[:start] + middle + original[end:]
    if repair and len(mutated) >= 48:
        mutated = repaired(mutated)
    if mutated != original:
        refused(shared_bench, key, mutated)


@quick
@given(key=st.sampled_from(KEYS), payload=st.binary(max_size=2000))
def test_any_bytes_in_a_good_frame_are_refused(shared_bench, key: str, payload: bytes) -> None:
    refused(shared_bench, key, framing.frame(MAGICS[key], payload))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every map, array and scalar in a decoded body."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from leaves(value[name], (*path, name))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from leaves(one, (*path, index))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(copied[path[0]], path[1:], new)
    return copied


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def substitutes(value: Any) -> list[Any]:
    """Values that are wrong in their own way: neighbours, extremes, other types, nesting without end."""
    nested: Any = b""
    for _ in range(500):
        nested = [nested]
    wrong: list[Any] = [None, True, -1, 0, 1, 2, 2**31, 2**63 - 1, 2**64 - 1, 1.5, "", "\x1b[2J", "x" * 5000,
                        b"", b"\0" * 16, b"\0" * 32, b"\xff" * 5000, [], {}, {"x": 1}, nested]  # fmt: skip
    if isinstance(value, int):
        wrong += [value + 1, value - 1]
    if isinstance(value, bytes):
        wrong += [value + b"\0", value[:-1], value[::-1]]
    if isinstance(value, str):
        wrong += [value + "x", value[:-1], "keyfile", "recovery", "aws-kms"]
    if isinstance(value, list):
        wrong += [value + value, value[::-1], value[1:], value[:-1], value * 40]
    if isinstance(value, dict):
        wrong += [{**value, "added": 1}, *({k: v for k, v in value.items() if k != gone} for gone in value)]
    return [one for one in wrong if one != value or type(one) is not type(value)]


def split(key: str, data: bytes) -> tuple[bytes, Any]:
    payload = data[16:-32]
    mac, body = (b"", payload) if key == VOLUME else (payload[:32], payload[32:])
    return mac, msgspec.msgpack.decode(body)


@pytest.mark.parametrize("key", KEYS)
def test_every_field_counts(shared_bench, key: str) -> None:
    mac, body = split(key, shared_bench.objects()[key])
    tried = 0
    for path in leaves(body):
        for new in substitutes(at(body, path)):
            encoded = msgspec.msgpack.encode(replaced(body, path, new))
            refused(shared_bench, key, framing.frame(MAGICS[key], mac + encoded))
            tried += 1
    assert tried > (50 if key == VOLUME else 500)


def test_every_field_of_slot_params_counts(shared_bench) -> None:
    """The params of each slot are a msgpack of their own inside the body; costs beyond the ceiling are
    refused before they are paid."""
    mac, body = split(GENERATION, shared_bench.objects()[GENERATION])
    for index, slot in enumerate(body["slots"]):
        params = msgspec.msgpack.decode(slot["params"])
        for path in leaves(params):
            for new in substitutes(at(params, path)):
                nested = msgspec.msgpack.encode(replaced(params, path, new))
                encoded = msgspec.msgpack.encode(replaced(body, ("slots", index, "params"), nested))
                refused(shared_bench, GENERATION, framing.frame(MAGICS[GENERATION], mac + encoded))


@pytest.mark.parametrize(
    "costs",
    [{"memory_kib": 2**30}, {"iterations": 2**31}, {"lanes": 255}, {"memory_kib": 8}, {"iterations": 1},
     {"memory_kib": 2**20, "iterations": 16}],
    ids=str,
)  # fmt: skip
def test_costs_out_of_bounds_in_the_store_name_the_slot(shared_bench, monkeypatch, costs) -> None:  # type: ignore[no-untyped-def]
    def never(**_: object) -> None:
        pytest.fail("a cost out of bounds was paid")

    monkeypatch.setattr(kdf, "Argon2id", never)
    mac, body = split(GENERATION, shared_bench.objects()[GENERATION])
    params = msgspec.msgpack.decode(body["slots"][0]["params"]) | costs
    changed = replaced(body, ("slots", 0, "params"), msgspec.msgpack.encode(params))
    data = framing.frame(MAGICS[GENERATION], mac + msgspec.msgpack.encode(changed))
    store = shared_bench.with_objects({**shared_bench.objects(), GENERATION: data})
    for act in (list_slots, lambda store: open_volume(store, shared_bench.passphrase)):
        with pytest.raises(Corrupt, match="slot 1: Argon2id"):
            act(store)


def test_a_fitting_secret_with_a_damaged_seal_says_damage(shared_bench) -> None:
    mac, body = split(GENERATION, shared_bench.objects()[GENERATION])
    sealed = body["slots"][1]["sealed"]
    for broken in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:20], b"", sealed[:5]):
        changed = replaced(body, ("slots", 1, "sealed"), broken)
        data = framing.frame(MAGICS[GENERATION], mac + msgspec.msgpack.encode(changed))
        error = refused(shared_bench, GENERATION, data)
        assert isinstance(error, Corrupt)
        assert "the secret is right, but slot 2 is damaged" in str(error)


def test_slots_do_not_open_in_anothers_place(bench) -> None:
    """The sealed part of one slot put into another: of this volume, and of another with the same secret."""
    mac, body = split(GENERATION, bench.objects()[GENERATION])
    other = type(bench)(seed=3)
    _, foreign = split(GENERATION, other.objects()[GENERATION])
    first = body["slots"][0]
    for donor in (body["slots"][1], foreign["slots"][0]):
        for part in (
            ("sealed",),
            ("commitment",),
            ("sealed", "commitment"),
            ("sealed", "commitment", "params"),
        ):
            forged = [first | {name: donor[name] for name in part}]
            encoded = msgspec.msgpack.encode(body | {"slots": forged})
            store = bench.with_objects(
                {**bench.objects(), GENERATION: framing.frame(MAGICS[GENERATION], mac + encoded)}
            )
            with pytest.raises(REFUSED):
                open_volume(store, bench.passphrase)


# Negative controls


def test_control_what_was_not_changed_opens(shared_bench) -> None:
    for key in KEYS:
        data = shared_bench.objects()[key]
        assert repaired(data) == data
        mac, body = split(key, data)
        assert framing.frame(MAGICS[key], mac + msgspec.msgpack.encode(body)) == data
    open_volume(shared_bench.with_objects(shared_bench.objects()), shared_bench.recovery)


@pytest.mark.parametrize("fresh_mac", [False, True])
def test_control_it_is_the_mac_that_refuses(shared_bench, fresh_mac: bool) -> None:
    """A changed label, feature list and slot list: refused under the old MAC, taken under a fresh one."""
    bench = shared_bench
    objects = bench.objects()
    old = gen.decode_generation(objects[GENERATION], 1, bench.created.header.volume_id, "x")
    for changed in (
        msgspec.structs.replace(old, slots=(msgspec.structs.replace(old.slots[0], label="y"), old.slots[1])),
        msgspec.structs.replace(old, slots=old.slots[1:]),
        msgspec.structs.replace(old, features=Features(compatible=(gen.Feature("z", "1"),))),
        msgspec.structs.replace(old, next_slot=99),
    ):
        data = gen.encode_generation(changed, bench.created.keys, objects[VOLUME])
        if not fresh_mac:
            payload = objects[GENERATION][16:48] + data[48:-32]
            error = refused(bench, GENERATION, framing.frame(MAGICS[GENERATION], payload))
            assert "changed by something other than fusegw" in str(error)
        else:
            open_volume(bench.with_objects({**objects, GENERATION: data}), bench.recovery)


def contradictions(bench):  # type: ignore[no-untyped-def]
    """Generations that only someone with the keys could write, and never should."""
    old = bench.created.keys
    data = bench.objects()[GENERATION]
    good = gen.decode_generation(data, 1, old.volume_id, "x")
    first, second = good.slots
    (constants,) = good.constants
    replace = msgspec.structs.replace
    masters = {**old.master_keys(), 2: b"2" * 32}
    drifted = VolumeKeys(old.volume_id, masters, chunk_id_key=b"other" * 8, cutter_seed=1)
    second_constants = gen.seal_constants(drifted, 2, bench.entropy)
    two_masters = seal_slot(
        bench.recovery, masters, volume_id=old.volume_id, slot=2, label="", created_ns=0,
        parameters=bench.kdf, entropy=bench.entropy,
    )  # fmt: skip
    yield "volume id", replace(good, volume_id=b"x" * 16), old
    yield "two slots of one number", replace(good, slots=(replace(first, slot=2), second)), old
    yield "next slot taken", replace(good, next_slot=2), old
    yield "label", replace(good, slots=(replace(first, label="\x1b[2J"), second)), old
    yield "constants twice", replace(good, constants=(constants, constants)), old
    yield "constants of no master", replace(good, constants=(constants, replace(constants, version=2))), old
    yield "master without constants", replace(good, slots=(first, two_masters)), drifted
    both = replace(good, slots=(first, two_masters), constants=(constants, second_constants))
    yield "constants differ", both, drifted


@pytest.mark.parametrize("index", range(8))
def test_contradictions_are_refused_even_under_a_good_mac(shared_bench, index: int) -> None:
    bench = shared_bench
    name, generation, keys = list(contradictions(bench))[index]
    data = gen.encode_generation(generation, keys, bench.objects()[VOLUME])
    assert isinstance(refused(bench, GENERATION, data), Corrupt), name


def test_control_the_mac_covers_the_header(shared_bench) -> None:
    bench = shared_bench
    _, body = split(VOLUME, bench.objects()[VOLUME])
    renamed = framing.frame(MAGICS[VOLUME], msgspec.msgpack.encode(body | {"name": "mine"}))
    error = refused(bench, VOLUME, renamed)
    assert "volume header" in str(error)
    old = gen.decode_generation(bench.objects()[GENERATION], 1, bench.created.header.volume_id, "x")
    data = gen.encode_generation(old, bench.created.keys, renamed)
    store = bench.with_objects({VOLUME: renamed, GENERATION: data})
    assert open_volume(store, bench.recovery).header.name == "mine"
