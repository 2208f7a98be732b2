"""Changing slots: what each change does, races with one winner, and a crash at every step."""

import pytest

from fusegw.errors import Busy, Exists, Invalid, NotFound, WrongKey
from fusegw.keys import (
    Secret,
    add_master_version,
    add_slot,
    change_passphrase,
    create_volume,
    list_slots,
    open_volume,
    remove_slot,
)
from fusegw.keys import generation as gen
from fusegw.keys.edit import _publish
from fusegw.keys.volume import read_volume

SALT, PACK_ID = bytes(32), bytes(16)


def add(bench, store=None, secret=None, new=None):  # type: ignore[no-untyped-def]
    return add_slot(
        store or bench.store, secret or bench.passphrase, new or bench.other, label="second", kdf=bench.kdf,
        **bench.chance,
    )  # fmt: skip


def change(bench, store=None, secret=None, new=None, slot=None):  # type: ignore[no-untyped-def]
    return change_passphrase(
        store or bench.store, secret or bench.passphrase, new or bench.other, slot=slot, kdf=bench.kdf,
        **bench.chance,
    )  # fmt: skip


def opens(store, secret: Secret) -> bool:  # type: ignore[no-untyped-def]
    try:
        open_volume(store, secret)
    except WrongKey:
        return False
    return True


def test_add(bench) -> None:
    info = add(bench)
    assert (info.slot, info.kind, info.label, info.opens) == (3, "passphrase", "second", True)
    for secret in (bench.passphrase, bench.other, bench.recovery):
        opened = open_volume(bench.store, secret)
        assert opened.keys.pack_key(1, SALT, PACK_ID) == bench.created.keys.pack_key(1, SALT, PACK_ID)
    assert sorted(bench.objects()) == ["keys/00000002", "volume"]


@pytest.mark.parametrize("new", ["passphrase", "recovery"])
def test_a_secret_has_one_slot(bench, new: str) -> None:
    with pytest.raises(Invalid, match="already: nothing to add"):
        add(bench, new=getattr(bench, new))
    assert sorted(bench.objects()) == ["keys/00000001", "volume"]


def test_slots_are_bounded(quick_bench) -> None:
    for _ in range(gen.SLOTS_MAX - 2):
        add(quick_bench, secret=quick_bench.recovery, new=Secret.new_recovery(quick_bench.entropy))
    with pytest.raises(Invalid, match="32 slots"):
        add(quick_bench, secret=quick_bench.recovery, new=Secret.new_recovery(quick_bench.entropy))


@pytest.mark.parametrize("label", ["x" * 65, "bell\x07", "line\nbreak", "\u202eevil"])
def test_labels_play_no_tricks_on_terminals(quick_bench, label: str) -> None:
    with pytest.raises(Invalid, match="label"):
        add_slot(
            quick_bench.store,
            quick_bench.passphrase,
            quick_bench.other,
            label=label,
            kdf=quick_bench.kdf,
            **quick_bench.chance,
        )
    assert sorted(quick_bench.objects()) == ["keys/00000001", "volume"]


def test_remove_another(quick_bench) -> None:
    assert remove_slot(quick_bench.store, quick_bench.passphrase, 2).kind == "recovery"
    assert not opens(quick_bench.store, quick_bench.recovery)
    assert opens(quick_bench.store, quick_bench.passphrase)


def test_remove_ones_own(quick_bench) -> None:
    remove_slot(quick_bench.store, quick_bench.passphrase, 1)
    assert not opens(quick_bench.store, quick_bench.passphrase)
    assert opens(quick_bench.store, quick_bench.recovery)


def test_the_last_slot_stays(quick_bench) -> None:
    remove_slot(quick_bench.store, quick_bench.passphrase, 1)
    with pytest.raises(Invalid, match="slot 2 is the last that opens volume 'vol'"):
        remove_slot(quick_bench.store, quick_bench.recovery, 2)
    assert opens(quick_bench.store, quick_bench.recovery)


def test_slot_numbers_are_not_reused(quick_bench) -> None:
    assert add(quick_bench).slot == 3
    remove_slot(quick_bench.store, quick_bench.passphrase, 3)
    assert add(quick_bench).slot == 4


def test_change_keeps_number_and_label(quick_bench) -> None:
    before = list_slots(quick_bench.store).slots[0]
    info = change(quick_bench)
    assert (info.slot, info.label, info.kind) == (before.slot, before.label, before.kind)
    assert info.created_ns > before.created_ns
    assert not opens(quick_bench.store, quick_bench.passphrase)
    assert opens(quick_bench.store, quick_bench.other)
    assert opens(quick_bench.store, quick_bench.recovery)


def test_a_recovery_key_sets_a_new_passphrase(bench) -> None:
    assert change(bench, secret=bench.recovery).slot == 1
    assert opens(bench.store, bench.other)
    assert opens(bench.store, bench.recovery)
    assert not opens(bench.store, bench.passphrase)


def test_a_recovery_key_must_say_which_of_two(bench) -> None:
    add(bench)
    third = Secret.passphrase("third")
    with pytest.raises(Invalid, match="of that kind: 1, 3"):
        change(bench, secret=bench.recovery, new=third)
    assert change(bench, secret=bench.recovery, new=third, slot=3).slot == 3
    assert [opens(bench.store, secret) for secret in (bench.passphrase, bench.other, third)] == [
        True,
        False,
        True,
    ]


def test_a_slot_can_change_its_kind_when_named(bench) -> None:
    with pytest.raises(Invalid, match="of that kind: none"):
        change(bench, new=bench.keyfile)
    assert change(bench, new=bench.keyfile, slot=1).kind == "keyfile"
    assert opens(bench.store, bench.keyfile)


def test_changing_to_the_same_passphrase_raises_the_cost_and_nothing_else(bench) -> None:
    assert change(bench, new=bench.passphrase).slot == 1
    assert opens(bench.store, bench.passphrase)


def test_two_slots_never_share_a_secret(quick_bench) -> None:
    add(quick_bench)
    with pytest.raises(Invalid, match="opens slot 3 already"):
        change(quick_bench)


@pytest.mark.parametrize("act", [remove_slot, None])
def test_unknown_slots_are_named(bench, act) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotFound, match="no slot 7; it has 1, 2"):
        if act:
            act(bench.store, bench.passphrase, 7)
        else:
            change(bench, slot=7)


def test_every_change_asks_for_a_secret_that_opens(bench) -> None:
    before = bench.objects()
    wrong = Secret.passphrase("wrong")
    for act in (
        lambda: add(bench, secret=wrong),
        lambda: remove_slot(bench.store, wrong, 2),
        lambda: change(bench, secret=wrong),
        lambda: add_master_version(bench.store, [wrong], entropy=bench.entropy),
    ):
        with pytest.raises(WrongKey):
            act()
    assert bench.objects() == before


# Master versions


def test_a_new_master_version_keeps_old_objects_and_dedup(bench) -> None:
    before = bench.created.keys
    keys = add_master_version(bench.store, [bench.passphrase, bench.recovery], entropy=bench.entropy)
    assert keys.current_version == 2
    for secret in (bench.passphrase, bench.recovery):
        opened = open_volume(bench.store, secret).keys
        assert opened.versions == (1, 2)
        assert opened.pack_key(1, SALT, PACK_ID) == before.pack_key(1, SALT, PACK_ID)
        assert opened.pack_key(2, SALT, PACK_ID) == keys.pack_key(2, SALT, PACK_ID)
        assert opened.pack_key(2, SALT, PACK_ID) != before.pack_key(1, SALT, PACK_ID)
        assert (opened.chunk_id_key, opened.cutter_seed) == (before.chunk_id_key, before.cutter_seed)
    assert [info.label for info in list_slots(bench.store).slots] == ["first", "recovery"]
    add(bench)
    assert open_volume(bench.store, bench.other).keys.versions == (1, 2)


def test_a_new_master_version_drops_slots_on_purpose_only(bench) -> None:
    with pytest.raises(Invalid, match=r"no secret given for slot 2 \(recovery, 'recovery'\)"):
        add_master_version(bench.store, [bench.passphrase], entropy=bench.entropy)
    assert opens(bench.store, bench.recovery)
    add_master_version(bench.store, [bench.passphrase], drop_other_slots=True, entropy=bench.entropy)
    assert not opens(bench.store, bench.recovery)
    assert open_volume(bench.store, bench.passphrase).keys.current_version == 2


def test_rotation_revokes_what_removal_does_not(quick_bench) -> None:
    """Who kept the old generation and a removed secret has the old master, and cannot get at the new one."""
    kept = quick_bench.objects()
    stale = open_volume(quick_bench.with_objects(kept), quick_bench.recovery).keys
    remove_slot(quick_bench.store, quick_bench.passphrase, 2)
    current = open_volume(quick_bench.store, quick_bench.passphrase).keys
    assert stale.pack_key(current.current_version, SALT, PACK_ID) == current.pack_key(1, SALT, PACK_ID)
    add_master_version(quick_bench.store, [quick_bench.passphrase], entropy=quick_bench.entropy)
    assert open_volume(quick_bench.store, quick_bench.passphrase).keys.current_version not in stale.versions


def test_master_versions_are_bounded(quick_bench) -> None:
    remove_slot(quick_bench.store, quick_bench.passphrase, 1)
    for _ in range(gen.VERSIONS_MAX - 1):
        add_master_version(quick_bench.store, [quick_bench.recovery], entropy=quick_bench.entropy)
    with pytest.raises(Invalid, match="64 master versions"):
        add_master_version(quick_bench.store, [quick_bench.recovery], entropy=quick_bench.entropy)
    assert open_volume(quick_bench.store, quick_bench.recovery).keys.current_version == 64


# Races


def test_of_two_changes_one_wins(quick_bench) -> None:
    store = quick_bench.InterruptedStore(
        quick_bench.store, lambda: remove_slot(quick_bench.store, quick_bench.passphrase, 2)
    )
    third = Secret.passphrase("third")
    with pytest.raises(Busy, match="nothing of this change was kept"):
        add(quick_bench, store=store, new=third)
    assert not opens(quick_bench.store, third)
    assert not opens(quick_bench.store, quick_bench.recovery)
    add(quick_bench, new=third)  # trying again works
    assert opens(quick_bench.store, third)


def test_two_removals_never_leave_nothing(quick_bench) -> None:
    store = quick_bench.InterruptedStore(
        quick_bench.store, lambda: remove_slot(quick_bench.store, quick_bench.passphrase, 2)
    )
    with pytest.raises(Busy):
        remove_slot(store, quick_bench.passphrase, 1)
    assert opens(quick_bench.store, quick_bench.passphrase)


def test_a_change_overtaken_twice_does_not_pass_for_a_success(quick_bench) -> None:
    """By then the generation of its number has come and gone, so its create-only put succeeds."""

    def others() -> None:
        remove_slot(quick_bench.store, quick_bench.passphrase, 2)
        add(quick_bench)

    third = Secret.passphrase("third")
    with pytest.raises(Busy, match="look at the slots"):
        add(quick_bench, store=quick_bench.InterruptedStore(quick_bench.store, others), new=third)
    assert sorted(quick_bench.objects()) == ["keys/00000003", "volume"]
    assert not opens(quick_bench.store, third)
    assert opens(quick_bench.store, quick_bench.other)


def test_generations_end(quick_bench) -> None:
    objects = quick_bench.objects()
    stored = read_volume(quick_bench.store)
    keys = quick_bench.created.keys
    last = gen.KeyGeneration(
        **{
            **{name: getattr(stored.generation, name) for name in stored.generation.__struct_fields__},
            "generation": gen.GENERATION_MAX,
        }
    )
    objects["keys/99999999"] = gen.encode_generation(last, keys, objects["volume"])
    store = quick_bench.with_objects(objects)
    with pytest.raises(Invalid, match="last key generation"):
        add(quick_bench, store=store)
    assert opens(store, quick_bench.passphrase)


# Crashes

CHANGES = {
    "add": lambda quick_bench, store: add(quick_bench, store=store),
    "remove": lambda quick_bench, store: remove_slot(store, quick_bench.passphrase, 2),
    "remove own": lambda quick_bench, store: remove_slot(store, quick_bench.passphrase, 1),
    "change": lambda quick_bench, store: change(quick_bench, store=store),
    "rotate": lambda quick_bench, store: add_master_version(
        store, [quick_bench.passphrase, quick_bench.recovery], entropy=quick_bench.entropy
    ),
    "rotate, drop": lambda quick_bench, store: add_master_version(
        store, [quick_bench.passphrase], drop_other_slots=True, entropy=quick_bench.entropy
    ),
}
OPENS_AFTER = {
    "add": {"passphrase", "other", "recovery"},
    "remove": {"passphrase"},
    "remove own": {"recovery"},
    "change": {"other", "recovery"},
    "rotate": {"passphrase", "recovery"},
    "rotate, drop": {"passphrase"},
}


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("leftover", [False, True], ids=["", "leftover"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_crash_at_any_step_leaves_the_old_or_the_new_slots(
    quick_bench, name: str, leftover: bool, applied: bool
) -> None:
    start = quick_bench.objects()
    if leftover:  # of an earlier change that died before it cleaned up
        add(quick_bench, new=quick_bench.keyfile)
        remove_slot(quick_bench.store, quick_bench.passphrase, 3)
        start |= quick_bench.objects()
    secrets = {key: getattr(quick_bench, key) for key in ("passphrase", "other", "recovery")}
    seen = set()
    for steps in range(10):
        inner = quick_bench.with_objects(start)
        store = quick_bench.StoppingStore(inner, steps, applied=applied)
        try:
            CHANGES[name](quick_bench, store)
        except quick_bench.PowerCut:
            died = True
        else:
            died = False
        able = {key for key, secret in secrets.items() if opens(inner, secret)}
        old = {"passphrase", "recovery"}
        assert able == (old if steps == 0 and died and not applied else OPENS_AFTER[name])
        seen.add(steps)
        survivor = secrets[sorted(able)[0]]
        add(quick_bench, store=inner, secret=survivor, new=Secret.new_recovery(quick_bench.entropy))
        assert len(list(inner.list("keys/"))) == 1, "the next change cleans up"
        if not died:
            break
    assert len(seen) == 3 + leftover, (
        "one put, one deletion for each older generation, one run without a crash"
    )


def test_control_a_put_that_replaces_would_break_the_race(quick_bench) -> None:
    """The same race on a store that does not honour create-only: the loser believes it won."""

    class Replacing(quick_bench.InterruptedStore):
        def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
            super().put(key, data, create_only=False)

    store = Replacing(quick_bench.store, lambda: add(quick_bench))
    remove_slot(store, quick_bench.passphrase, 2)
    assert not opens(quick_bench.store, quick_bench.other), "the winner's slot is gone without a word"


def test_control_deleting_first_would_lose_the_volume(quick_bench) -> None:
    """The same crash with the steps in the wrong order leaves no slots at all."""
    store = quick_bench.StoppingStore(quick_bench.store, 1, applied=False)
    stored = read_volume(store)
    store.delete(["keys/00000001"])
    with pytest.raises(quick_bench.PowerCut):
        _publish(store, stored, quick_bench.created.keys, stored.generation)
    with pytest.raises(Exception, match="no key slots"):
        open_volume(quick_bench.store, quick_bench.passphrase)


def test_init_does_not_take_over_a_volume_that_lost_its_generations(quick_bench) -> None:
    objects = quick_bench.objects()
    del objects["keys/00000001"]
    objects["packs/00/" + "0" * 32] = b"data"
    with pytest.raises(Exists):
        create_volume(
            quick_bench.with_objects(objects),
            "vol",
            quick_bench.other,
            kdf=quick_bench.kdf,
            **quick_bench.chance,
        )
