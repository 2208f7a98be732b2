"""Create and open a volume: every answer an operator can get, and nothing written when it is no."""

import msgspec
import pytest

from fusegw.errors import Busy, Corrupt, Exists, Invalid, NotFound, UnknownFormat, WrongKey
from fusegw.keys import (
    Feature,
    KdfParameters,
    Secret,
    add_slot,
    change_passphrase,
    create_volume,
    framing,
    list_slots,
    open_volume,
    remove_slot,
    verify,
)
from fusegw.keys import generation as gen
from fusegw.keys.generation import Features
from fusegw.keys.header import VolumeHeader, decode_header, encode_header
from fusegw.keys.slots import Slot
from fusegw.store.directory import DirectoryStore


def rewritten(bench, **changes):  # type: ignore[no-untyped-def]
    """The bench's store with its generation changed by someone who holds the keys."""
    objects = bench.objects()
    old = gen.decode_generation(objects["keys/00000001"], 1, bench.created.header.volume_id, "the generation")
    new = msgspec.structs.replace(old, **changes)
    objects["keys/00000001"] = gen.encode_generation(new, bench.created.keys, objects["volume"])
    return bench.with_objects(objects)


def same(keys, others) -> bool:  # type: ignore[no-untyped-def]
    return (keys.volume_id, keys.chunk_id_key, keys.cutter_seed, keys.master_keys()) == (
        others.volume_id, others.chunk_id_key, others.cutter_seed, others.master_keys()
    )  # fmt: skip


def test_passphrase_and_recovery_key_open_the_same_keys(bench) -> None:
    for secret, slot in ((bench.passphrase, 1), (bench.recovery, 2)):
        opened = open_volume(bench.store, secret)
        assert opened.header == bench.created.header
        assert opened.header.name == "vol"
        assert same(opened.keys, bench.created.keys)
        assert (opened.slot.slot, opened.generation) == (slot, 1)
        assert not opened.read_only_required
        assert opened.unknown_features == ()
        assert verify(bench.store, secret) == opened.slot
    assert sorted(bench.objects()) == ["keys/00000001", "volume"]


def test_a_key_file_opens_as_well(empty_store, bench, chance) -> None:
    created = create_volume(empty_store, "v", bench.keyfile, kdf=bench.kdf, **chance)
    assert same(open_volume(empty_store, bench.keyfile).keys, created.keys)
    with pytest.raises(WrongKey):
        open_volume(empty_store, Secret.keyfile(bytes(64)))


def test_in_a_directory(tmp_path, bench, chance) -> None:
    store = DirectoryStore(tmp_path, entropy=chance["entropy"])
    created = create_volume(store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    add_slot(store, bench.passphrase, bench.keyfile, label="", kdf=bench.kdf, **chance)
    assert same(open_volume(store, bench.keyfile).keys, created.keys)


def test_constants_are_in_their_bounds(bench) -> None:
    keys = bench.created.keys
    assert len(keys.chunk_id_key) == 32
    assert 1 <= keys.cutter_seed < 1 << 63
    assert keys.versions == (1,)


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x7f"])
def test_the_cutters_seed_is_never_zero_whatever_chance_gives(empty_store, bench, fill: bytes) -> None:
    class Stuck:
        def token(self, size: int) -> bytes:
            return fill * size

    created = create_volume(
        empty_store, "v", bench.passphrase, kdf=bench.kdf, clock=bench.clock, entropy=Stuck()
    )
    assert 1 <= created.keys.cutter_seed < 1 << 63
    assert open_volume(empty_store, bench.passphrase).keys.cutter_seed == created.keys.cutter_seed


def test_wrong_secrets(shared_bench) -> None:
    bench = shared_bench
    with pytest.raises(WrongKey, match="this passphrase opens no slot of volume 'vol'") as caught:
        open_volume(bench.store, Secret.passphrase("hunter2-marker"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(WrongKey, match="this recovery key opens no slot"):
        open_volume(bench.store, Secret.new_recovery(bench.entropy))
    with pytest.raises(WrongKey, match=r"no slot for a key file.*passphrase, recovery"):
        open_volume(bench.store, bench.keyfile)


def test_the_same_bytes_as_another_kind_do_not_open(bench) -> None:
    with pytest.raises(WrongKey):
        open_volume(bench.store, Secret("passphrase", bench.recovery.reveal()))


def test_no_volume(empty_store, bench) -> None:
    with pytest.raises(NotFound, match="no volume at memory:"):
        open_volume(empty_store, bench.passphrase)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "-x", "a b", "é", "x" * 65, "a\n"])
def test_bad_names_write_nothing(empty_store, bench, chance, name: str) -> None:
    with pytest.raises(Invalid, match="cannot name a volume"):
        create_volume(empty_store, name, bench.passphrase, kdf=bench.kdf, **chance)
    assert list(empty_store.list()) == []


def test_bad_cost_writes_nothing(empty_store, bench, chance) -> None:
    with pytest.raises(Invalid, match="memory_kib"):
        create_volume(empty_store, "v", bench.passphrase, kdf=KdfParameters(memory_kib=1), **chance)
    assert list(empty_store.list()) == []


@pytest.mark.parametrize("name", ["vol", "other"])
def test_a_prefix_that_holds_a_volume_is_left_alone(bench, chance, name: str) -> None:
    before = bench.objects()
    with pytest.raises(Exists, match="holds volume 'vol'"):
        create_volume(bench.store, name, bench.other, kdf=bench.kdf, **chance)
    assert bench.objects() == before


@pytest.mark.parametrize("key", ["packs/00/" + "0" * 32, "keys/00000001", "log/1", "checkpoints/1/a"])
def test_parts_of_a_volume_are_left_alone(empty_store, bench, chance, key: str) -> None:
    empty_store.put(key, b"x")
    with pytest.raises(Exists, match=key):
        create_volume(empty_store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    assert [info.key for info in empty_store.list()] == [key]


def test_strangers_objects_do_not_matter(empty_store, bench, chance) -> None:
    empty_store.put("readme.txt", b"x")
    create_volume(empty_store, "v", bench.passphrase, kdf=bench.kdf, **chance)


# Races and crashes of init


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_init_cut_off_can_be_repeated(empty_store, bench, chance, steps: int, applied: bool) -> None:
    store = bench.StoppingStore(empty_store, steps, applied=applied)
    done = steps == 2
    if done:
        create_volume(store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    else:
        with pytest.raises(bench.PowerCut):
            create_volume(store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    if done or (steps == 1 and applied):
        open_volume(empty_store, bench.passphrase)
        with pytest.raises(Exists):
            create_volume(empty_store, "v", bench.passphrase, kdf=bench.kdf, **chance)
        return
    half = [info.key for info in empty_store.list()]
    assert half == ([] if (steps, applied) == (0, False) else ["volume"])
    with pytest.raises(Corrupt if half else NotFound):
        open_volume(empty_store, bench.passphrase)
    if half:
        with pytest.raises(Exists, match="volume 'v', whose init was cut off"):
            create_volume(empty_store, "another", bench.passphrase, kdf=bench.kdf, **chance)
    created = create_volume(empty_store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    assert same(open_volume(empty_store, bench.passphrase).keys, created.keys)


def test_two_inits_race_and_one_wins(empty_store, bench, chance) -> None:
    store = bench.InterruptedStore(
        empty_store, lambda: create_volume(empty_store, "v", bench.other, kdf=bench.kdf, **chance)
    )
    with pytest.raises(Exists, match="another init"):
        create_volume(store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    open_volume(empty_store, bench.other)


def test_two_inits_finish_the_same_half_and_one_wins(empty_store, bench, chance) -> None:
    with pytest.raises(bench.PowerCut):
        create_volume(
            bench.StoppingStore(empty_store, 1, applied=False), "v", bench.passphrase, kdf=bench.kdf, **chance
        )
    store = bench.InterruptedStore(
        empty_store, lambda: create_volume(empty_store, "v", bench.other, kdf=bench.kdf, **chance)
    )
    with pytest.raises(Exists, match="another init created volume 'v'"):
        create_volume(store, "v", bench.passphrase, kdf=bench.kdf, **chance)
    open_volume(empty_store, bench.other)


# Versions, features, slots of later releases


@pytest.mark.parametrize("key", ["volume", "keys/00000001"])
@pytest.mark.parametrize(
    ("version", "said"),
    [(2, "reads 3 only: use the fusegw that wrote it"), (4, "knows up to 3: upgrade fusegw")],
)
def test_another_format_version_says_so(bench, key: str, version: int, said: str) -> None:
    objects = bench.objects()
    objects[key] = objects[key][:8] + version.to_bytes(2) + objects[key][10:]
    store = bench.with_objects(objects)
    for act in (
        lambda: open_volume(store, bench.passphrase),
        lambda: list_slots(store),
        lambda: remove_slot(store, bench.passphrase, 1),
    ):
        with pytest.raises(UnknownFormat, match=f"{key} has format version {version}, .*{said}"):
            act()
    assert {info.key: store.get(info.key, size_max=1 << 20) for info in store.list()} == objects


@pytest.mark.parametrize("key", ["volume", "keys/00000001"])
def test_something_elses_object_says_so(bench, key: str) -> None:
    objects = bench.objects()
    objects[key] = b"PK\x03\x04" + bytes(100)
    with pytest.raises(UnknownFormat, match=f"{key} was not written by fusegw"):
        open_volume(bench.with_objects(objects), bench.passphrase)


def test_an_unknown_incompatible_feature_is_named(bench) -> None:
    store = rewritten(bench, features=Features(incompatible=(Feature("quantum-packs", "3.1"),)))
    for act in (lambda: open_volume(store, bench.passphrase), lambda: list_slots(store)):
        with pytest.raises(UnknownFormat, match=r"'quantum-packs' \(since fusegw 3\.1\)"):
            act()


def test_an_unknown_read_only_compatible_feature_allows_reading_only(bench, chance) -> None:
    feature = Feature("quotas", "0.9")
    store = rewritten(bench, features=Features(read_only_compatible=(feature,)))
    opened = open_volume(store, bench.passphrase)
    assert opened.read_only_required
    assert opened.unknown_features == (feature,)
    for change in (
        lambda: add_slot(store, bench.passphrase, bench.other, label="", kdf=bench.kdf, **chance),
        lambda: remove_slot(store, bench.passphrase, 1),
        lambda: change_passphrase(store, bench.passphrase, bench.other, kdf=bench.kdf, **chance),
    ):
        with pytest.raises(UnknownFormat, match=r"may only read it.*upgrade"):
            change()
    assert [info.key for info in store.list()] == ["keys/00000001", "volume"]


def test_an_unknown_compatible_feature_is_carried_over(bench, chance) -> None:
    features = Features(compatible=(Feature("hints", "0.9"),))
    store = rewritten(bench, features=features, extensions={"hints": b"\x00\xff"})
    opened = open_volume(store, bench.passphrase)
    assert not opened.read_only_required
    add_slot(store, bench.passphrase, bench.other, label="", kdf=bench.kdf, **chance)
    data = store.get("keys/00000002", size_max=1 << 20)
    after = gen.decode_generation(data, 2, opened.keys.volume_id, "x")
    assert (after.features, after.extensions) == (features, {"hints": b"\x00\xff"})


def test_a_slot_of_an_unknown_kind_is_skipped_listed_and_carried_over(bench, chance) -> None:
    strange = Slot(9, "aws-kms", "cloud", 5, b"arn", b"", b"\x01" * 200)
    _, recovery = gen.decode_generation(
        bench.objects()["keys/00000001"], 1, bench.created.header.volume_id, "x"
    ).slots
    store = rewritten(bench, slots=(strange, recovery), next_slot=10)
    open_volume(store, bench.recovery)
    infos = list_slots(store).slots
    assert [(info.kind, info.opens) for info in infos] == [("aws-kms", False), ("recovery", True)]
    with pytest.raises(Invalid, match="slot 2 is the last that opens"):
        remove_slot(store, bench.recovery, 2)
    add_slot(store, bench.recovery, bench.other, label="", kdf=bench.kdf, **chance)
    data = store.get("keys/00000002", size_max=1 << 20)
    assert strange in gen.decode_generation(data, 2, bench.created.header.volume_id, "x").slots
    remove_slot(store, bench.other, 9)


# Listing


def test_listing_with_and_without_a_secret(bench) -> None:
    listing = list_slots(bench.store)
    assert not listing.authenticated
    assert [(info.slot, info.kind, info.label) for info in listing.slots] == [
        (1, "passphrase", "first"),
        (2, "recovery", "recovery"),
    ]
    assert all(info.created_ns > 1_700_000_000_000_000_000 for info in listing.slots)
    authentic = list_slots(bench.store, bench.recovery)
    assert authentic.authenticated
    assert authentic.slots == listing.slots
    with pytest.raises(WrongKey):
        list_slots(bench.store, bench.other)


def test_results_show_no_secret(bench) -> None:
    opened = open_volume(bench.store, bench.passphrase)
    shown = f"{bench.created!r} {bench.created} {opened!r} {opened} {list_slots(bench.store)!r}"
    keys = bench.created.keys
    for secret in (keys.chunk_id_key, keys.master_keys()[1], bench.recovery.reveal()):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert bench.created.recovery_key not in shown
    assert str(keys.cutter_seed) not in shown
    assert "vol" in shown
    with pytest.raises(TypeError):
        msgspec.json.encode(opened)


# Bounds and a restless store


def test_objects_of_any_size_are_not_read(bench) -> None:
    for key, size in (("volume", 4097), ("keys/00000001", (1 << 20) + 1)):
        objects = {**bench.objects(), key: bytes(size)}
        with pytest.raises(Corrupt, match=key):
            open_volume(bench.with_objects(objects), bench.passphrase)


def test_a_flooded_prefix_is_refused(bench) -> None:
    objects = {**bench.objects(), **{f"keys/x{n}": b"" for n in range(1000)}}
    with pytest.raises(Corrupt, match="more than 1000 objects"):
        open_volume(bench.with_objects(objects), bench.passphrase)


def test_strange_names_beside_generations_do_not_matter(bench) -> None:
    objects = {**bench.objects(), "keys/readme": b"", "keys/000000009": b"", "keys/00000001.bak": b""}
    open_volume(bench.with_objects(objects), bench.passphrase)


def test_the_highest_generation_is_never_passed_over(bench) -> None:
    """Falling back to an older one would let whoever can damage the newest bring old slots back."""
    objects = {**bench.objects(), "keys/00000002": b"damaged"}
    with pytest.raises(Corrupt, match="keys/00000002"):
        open_volume(bench.with_objects(objects), bench.passphrase)


def test_a_generation_copied_under_a_higher_number_is_refused(bench) -> None:
    objects = bench.objects()
    objects["keys/00000002"] = objects["keys/00000001"]
    with pytest.raises(Corrupt, match="another volume or place"):
        open_volume(bench.with_objects(objects), bench.passphrase)


def test_keys_of_another_volume_are_refused(bench) -> None:
    other = type(bench)(seed=2)
    for key in ("volume", "keys/00000001"):
        objects = {**bench.objects(), key: other.objects()[key]}
        with pytest.raises(Corrupt):
            open_volume(bench.with_objects(objects), bench.passphrase)


def test_reading_while_generations_are_replaced(bench, chance) -> None:
    """The listed generation is gone when it is read: the reader lists again."""

    class Replacing(bench.StoppingStore):
        def get(self, key: str, *, size_max: int) -> bytes:
            if key == "keys/00000001" and not list(self.inner.list("keys/00000002")):
                add_slot(self.inner, bench.recovery, bench.other, label="", kdf=bench.kdf, **chance)
            return super().get(key, size_max=size_max)

    opened = open_volume(Replacing(bench.store, -1, applied=True), bench.passphrase)
    assert opened.generation == 2


def test_a_listing_that_misses_a_change_once_is_repeated(bench) -> None:
    class Blinking(bench.StoppingStore):
        lists = 0

        def list(self, prefix: str = "", *, start_after: str = ""):  # type: ignore[no-untyped-def]
            self.lists += 1
            return iter(()) if self.lists == 1 else super().list(prefix, start_after=start_after)

    open_volume(Blinking(bench.store, -1, applied=True), bench.passphrase)


def test_a_reader_does_not_chase_for_ever(bench) -> None:
    class Chased(bench.StoppingStore):
        def get(self, key: str, *, size_max: int) -> bytes:
            if key.startswith("keys/"):
                raise NotFound(key)
            return super().get(key, size_max=size_max)

    with pytest.raises(Busy, match="keep changing"):
        open_volume(Chased(bench.store, -1, applied=True), bench.passphrase)


def test_header_names_are_checked_when_read() -> None:
    good = VolumeHeader(bytes(16), "ok", 0)
    assert decode_header(encode_header(good), "volume") == good
    bad = framing.frame(b"FUSEGWV\0", msgspec.msgpack.encode(VolumeHeader(bytes(16), "../up", 0)))
    with pytest.raises(Corrupt, match="impossible volume name"):
        decode_header(bad, "volume")


def test_nothing_is_written_that_could_not_be_read(bench, empty_store) -> None:
    """A clock before 1970 makes a stamp no reader takes."""
    before = bench.objects()
    bench.clock.now_ns = -(10**18)
    with pytest.raises(Invalid, match="clock"):
        create_volume(empty_store, "v", bench.other, kdf=bench.kdf, **bench.chance)
    with pytest.raises(Invalid, match="clock"):
        add_slot(bench.store, bench.recovery, bench.other, label="", kdf=bench.kdf, **bench.chance)
    assert list(empty_store.list()) == []
    assert bench.objects() == before
