"""Node ids and inodes: every inode has one id, no other number means anything."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusegw.fuse.nodes import ROOT_NODE, NodeIds
from fusegw.meta.schema import INODE_MAX, ROOT_INODE

volumes = st.integers(1, 255)
inodes = st.integers(ROOT_INODE + 1, INODE_MAX)


@given(volumes, inodes)
def test_there_and_back(volume: int, ino: int) -> None:
    nodes = NodeIds(volume)
    node = nodes.node_of(ino)
    assert node == volume << 56 | ino
    assert nodes.inode_of(node) == ino


@given(volumes)
def test_the_root_is_node_1(volume: int) -> None:
    nodes = NodeIds(volume)
    assert nodes.node_of(ROOT_INODE) == ROOT_NODE
    assert nodes.inode_of(ROOT_NODE) == ROOT_INODE


@given(volumes)
def test_the_root_of_one_volume_among_others_has_its_own_number(volume: int) -> None:
    nodes = NodeIds(volume, alone=False)
    assert nodes.node_of(ROOT_INODE) == volume << 56 | ROOT_INODE
    assert nodes.inode_of(volume << 56 | ROOT_INODE) == ROOT_INODE
    with pytest.raises(OSError):
        nodes.inode_of(ROOT_NODE)


@given(volumes, st.integers(0, (1 << 64) - 1))
def test_every_other_number_is_stale(volume: int, node: int) -> None:
    nodes = NodeIds(volume)
    try:
        ino = nodes.inode_of(node)
    except OSError as error:
        assert error.errno == errno.ESTALE
    else:
        assert nodes.node_of(ino) == node


@pytest.mark.parametrize(
    "node",
    [0, 2, 7 << 56, 7 << 56 | 1, 8 << 56 | 5, 7 << 56 | 1 << 40 | 5, 5],
    ids=["zero", "bare", "no inode", "second name of the root", "other volume", "snapshot", "no volume"],
)
def test_numbers_never_handed_out(node: int) -> None:
    with pytest.raises(OSError) as caught:
        NodeIds(7).inode_of(node)
    assert caught.value.errno == errno.ESTALE
