"""Fixtures of the metadata layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.meta.metadata import Metadata
from tests.meta.indexes import open_index


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    """An empty index."""
    metadata = open_index(tmp_path / "meta")
    yield metadata
    metadata.close()
