"""ACLs as bytes: what is valid, what mode they mean, what they become by chmod and by inheritance."""

import errno
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusegw.vfs import acl
from fusegw.vfs.acl import GROUP, GROUP_OBJ, MASK, NO_ID, OTHER, USER, USER_OBJ
from tests.model.reference_acl import AclValue, parse_acl
from tests.vfs.trees import failing

bits = st.integers(0, 7)
_named = st.lists(st.tuples(bits, st.integers(0, NO_ID - 1)), max_size=3)


@st.composite
def valid_acls(draw: st.DrawFn) -> acl.Acl:
    """Any ACL the kernel would take."""
    users, groups = draw(_named), draw(_named)
    entries = [(USER_OBJ, draw(bits), NO_ID)]
    entries += [(USER, permissions, who) for permissions, who in users]
    entries += [(GROUP_OBJ, draw(bits), NO_ID)]
    entries += [(GROUP, permissions, who) for permissions, who in groups]
    if users or groups or draw(st.booleans()):
        entries += [(MASK, draw(bits), NO_ID)]
    return (*entries, (OTHER, draw(bits), NO_ID))


@given(valid_acls())
def test_valid_ones_pass_and_come_back_as_they_were(entries: acl.Acl) -> None:
    acl.validate(entries)
    assert acl.parse(acl.encode(entries)) == entries


@given(valid_acls(), st.integers(0, 0o7777))
def test_mode_chmod_and_inheritance_agree_with_the_reference(entries: acl.Acl, mode: int) -> None:
    model = parse_acl(acl.encode(entries))
    assert model is not None
    assert acl.mode_bits(entries) == model.mode
    changed = acl.with_mode(entries, mode)
    assert acl.encode(changed) == model.replaced(AclValue.of_mode(mode, model.has_mask)).encode()
    assert acl.mode_bits(changed) == mode & 0o777
    inherited, new_mode = acl.inherit(entries, mode)
    assert acl.encode(inherited) == (model & AclValue.of_mode(mode, model.has_mask)).encode()
    assert new_mode == mode & ~0o777 | acl.mode_bits(inherited)
    assert new_mode & mode == new_mode


@given(valid_acls())
def test_minimal_is_what_nine_bits_say(entries: acl.Acl) -> None:
    assert acl.is_minimal(entries) == ([tag for tag, _, _ in entries] == [USER_OBJ, GROUP_OBJ, OTHER])


def test_every_order_of_tags_is_judged_as_the_kernel_does() -> None:
    letters = {USER_OBJ: "U", USER: "u", GROUP_OBJ: "G", GROUP: "g", MASK: "M", OTHER: "O"}
    judged = {True: 0, False: 0}
    for length in range(6):
        for tags in itertools.product(letters, repeat=length):
            entries = tuple((tag, 7, 5 if tag in (USER, GROUP) else NO_ID) for tag in tags)
            model = AclValue(tuple((letters[tag], who, 7) for tag, _, who in entries))
            try:
                model.check()
                expected = True
            except OSError:
                expected = False
            try:
                acl.validate(entries)
                valid = True
            except OSError as error:
                assert error.errno == errno.EINVAL
                valid = False
            assert valid == expected, tags
            judged[valid] += 1
    assert judged[True] == 4 and judged[False] > 1000


@pytest.mark.parametrize("value", [b"", struct.pack("<I", 2)])
def test_no_entries_mean_no_acl(value: bytes) -> None:
    assert acl.parse(value) is None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\x02", errno.EINVAL),
        (struct.pack("<I", 2) + b"1234567", errno.EINVAL),
        (struct.pack("<IHHI", 1, 1, 7, NO_ID), errno.EOPNOTSUPP),
        (struct.pack("<IHHI", 2, USER, 7, NO_ID), errno.EINVAL),
        (struct.pack("<IHHI", 2, GROUP, 7, NO_ID), errno.EINVAL),
    ],
)
def test_malformed_values(value: bytes, code: int) -> None:
    with failing(code):
        acl.parse(value)


def test_ids_of_entries_that_name_nobody_do_not_matter() -> None:
    value = struct.pack("<IHHIHHIHHI", 2, USER_OBJ, 7, 3, GROUP_OBJ, 5, 4, OTHER, 1, 0)
    assert acl.parse(value) == ((USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 1, NO_ID))
