"""Fixtures of the file-system layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vfs.trees import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """An empty namespace on an index of its own."""
    tree = Tree(tmp_path / "meta")
    yield tree
    tree.metadata.close()
