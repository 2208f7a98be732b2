"""Secrets do not leak, and typing them forgives what it can."""

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusegw.clock import SystemEntropy
from fusegw.errors import Invalid
from fusegw.keys import Secret, recovery

MARK = "hunter2-marker-hunter2-marker-hunter2"


def secrets() -> list[Secret]:
    return [Secret.passphrase(MARK), Secret.keyfile(MARK.encode()), Secret.new_recovery(SystemEntropy())]


@pytest.mark.parametrize("secret", secrets(), ids=lambda secret: secret.kind)
def test_never_shown(secret: Secret) -> None:
    shown = f"{secret} {secret!r} {[secret]} {secret.words}"
    for form in (secret.reveal(), secret.reveal().hex().encode(), repr(secret.reveal()).encode()):
        assert form not in shown.encode()
    assert secret.words in shown  # the control: it does say what it is


@pytest.mark.parametrize("secret", secrets(), ids=lambda secret: secret.kind)
def test_never_encoded_or_copied(secret: Secret) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, msgspec.json.encode, hash):
        with pytest.raises(TypeError) as caught:
            attempt(secret)
        assert MARK not in str(caught.value)


def test_never_in_a_traceback_or_log(caplog: pytest.LogCaptureFixture) -> None:
    for data in (MARK.encode() + b"\xff", MARK + "\udcff"):
        try:
            Secret.typed(data)
        except Invalid as error:
            logging.getLogger().error("failed", exc_info=error)
            lines = traceback.TracebackException.from_exception(error, capture_locals=False)
            assert MARK not in "".join(lines.format())
            assert error.__context__ is None, "the codec's exception holds the secret"
        else:
            pytest.fail("bytes that are not UTF-8 were taken for a passphrase")
    assert "failed" in caplog.text
    assert MARK not in caplog.text


def test_does_not_change() -> None:
    secret = Secret.passphrase("x")
    with pytest.raises(AttributeError):
        secret.kind = "keyfile"


def test_equality_by_kind_and_bytes() -> None:
    assert Secret.passphrase("a" * 32) == Secret.passphrase("a" * 32)
    assert Secret.passphrase("a" * 32) != Secret.keyfile(b"a" * 32)
    assert Secret.passphrase("a") != Secret.passphrase("b")


def test_composed_and_decomposed_letters_are_one_passphrase() -> None:
    assert Secret.passphrase("caf\u00e9") == Secret.passphrase("cafe\u0301")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_end_is_not_part_of_a_typed_passphrase(end: str) -> None:
    assert Secret.typed(f" two words {end}".encode()) == Secret.passphrase(" two words ")
    assert Secret.typed("x\n\n") != Secret.passphrase("x")


@pytest.mark.parametrize(
    ("make", "bad", "good"),
    [
        (Secret.passphrase, "", "x"),
        (Secret.passphrase, "x" * 4097, "x" * 4096),
        (Secret.keyfile, b"x" * 31, b"x" * 32),
        (Secret.keyfile, b"x" * ((1 << 20) + 1), b"x" * (1 << 20)),
    ],
)
def test_bounds(make, bad, good) -> None:  # type: ignore[no-untyped-def]
    make(good)
    with pytest.raises(Invalid):
        make(bad)


def test_only_recovery_keys_have_a_printed_form() -> None:
    with pytest.raises(Invalid, match="no printed form"):
        Secret.passphrase("x").recovery_text()


# The recovery key on paper


def test_known_recovery_key() -> None:
    """Pins the printed form: paper outlives releases."""
    text = recovery.encode(bytes(range(32)))
    assert text == "FUSEGW-000G408-R40M301-E20918T-5GR38E0-1W81242-GK2GAHZ-C5RR34F-D1P70X0-3RFKES9"
    assert recovery.decode(text) == bytes(range(32))


@given(st.binary(min_size=32, max_size=32))
def test_round_trip(key: bytes) -> None:
    assert recovery.decode(recovery.encode(key)) == key


@given(st.binary(min_size=32, max_size=32), st.randoms(use_true_random=False))
def test_reading_is_tolerant(key: bytes, chance) -> None:  # type: ignore[no-untyped-def]
    prefix, body = recovery.encode(key).split("-", 1)
    letters = []
    for symbol in body:
        symbol = chance.choice({"0": "0Oo", "1": "1ilIL", "-": "-_ \n"}.get(symbol, symbol + symbol.lower()))
        letters.append(symbol + chance.choice(["", "", "", " ", "-", "\t"]))
    typed = "".join(letters)
    assert recovery.decode(typed) == key
    assert Secret.typed(f" {prefix.lower()} {typed}\n") == Secret.recovery(recovery.encode(key))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 62), st.integers(1, 31))
def test_a_typo_is_found_and_its_group_named(key: bytes, place: int, shift: int) -> None:
    """A changed symbol passes the group's own check once in 32; then the check of the whole finds it."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    groups = [list(group) for group in recovery.encode(key).split("-")[1:]]
    group, symbol = groups[place // 7], place % 7
    group[symbol] = alphabet[(alphabet.index(group[symbol]) + shift) % 32]
    typed = "-".join("".join(group) for group in groups)
    with pytest.raises(Invalid) as caught:
        Secret.recovery(typed)
    message = str(caught.value)
    assert f"group {place // 7 + 1} " in message or "more than one place" in message
    assert not any("".join(group) in message for group in groups)


def test_typos_are_mostly_named_by_group() -> None:
    """The control to the above: the general message is the exception."""
    named = 0
    text = recovery.encode(bytes(32)).removeprefix("FUSEGW-")
    for place in (place for place, symbol in enumerate(text) if symbol != "-"):
        typed = text[:place] + ("Z" if text[place] != "Z" else "Y") + text[place + 1 :]
        with pytest.raises(Invalid) as caught:
            recovery.decode(typed)
        named += f"group {place // 8 + 1} " in str(caught.value)
    assert named >= 55


def test_groups_that_changed_places_are_found() -> None:
    groups = recovery.encode(bytes(range(32))).split("-")
    groups[2], groups[3] = groups[3], groups[2]
    with pytest.raises(Invalid, match="group 2 "):
        recovery.decode("-".join(groups))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "62 letters"),
        (lambda text: text + "0", "64 letters"),
        (lambda text: text[:-1] + "U", "group 9 .* character"),
        (lambda text: text[:-1] + "é", "group 9 .* character"),
        (lambda text: "", "0 letters"),
    ],
)
def test_length_and_strange_characters(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Invalid, match=message):
        recovery.decode(change(recovery.encode(bytes(range(32)))))


def test_a_mistyped_recovery_key_is_not_taken_for_a_passphrase() -> None:
    text = recovery.encode(bytes(range(32)))
    with pytest.raises(Invalid, match="recovery key"):
        Secret.typed(text[:-1] + ("0" if text[-1] != "0" else "1"))
    assert Secret.typed("FUSEGW is a fine gateway").kind == "passphrase"
