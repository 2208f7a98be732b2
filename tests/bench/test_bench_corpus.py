"""The benchmark's data: the same every time, edited where it says, made again only when it has to be."""

import os
from pathlib import Path

import pytest

from fusegw.errors import Invalid
from scripts.benchlib import corpus
from scripts.benchlib.corpus import EDIT_BYTES_MAX, Edit, Recipe, edits, plant, provide, rewrite, small_files


def rewritten(tmp_path: Path, text: bytes, *changes: Edit) -> bytes:
    (tmp_path / "old").write_bytes(text)
    rewrite(tmp_path / "old", tmp_path / "new", changes)
    return (tmp_path / "new").read_bytes()


def make_files(root: Path, count: int) -> None:
    for number in range(count):
        folder = root / f"d{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"x" * number)


def test_edits_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert edits(1 << 20, seed=1) == edits(1 << 20, seed=1)
    assert edits(1 << 20, seed=1) != edits(1 << 20, seed=2)


def test_half_of_the_edits_remove_and_half_insert() -> None:
    found = edits(1 << 30, seed=7, count=40)
    assert [change.offset for change in found] == sorted(change.offset for change in found)
    assert sum(1 for change in found if change.removed) == 20
    assert sum(1 for change in found if change.inserted) == 20
    assert all(0 < change.removed + len(change.inserted) < EDIT_BYTES_MAX for change in found)


def test_bytes_are_removed_and_inserted_where_the_edits_say(tmp_path: Path) -> None:
    changes = (Edit(0, 1, b""), Edit(3, 0, b"XY"), Edit(8, 9, b""))
    assert rewritten(tmp_path, b"0123456789", *changes) == b"12XY34567"


def test_an_edit_inside_a_removed_piece_begins_at_its_end(tmp_path: Path) -> None:
    assert rewritten(tmp_path, b"0123456789", Edit(2, 4, b""), Edit(3, 0, b"X"), Edit(4, 2, b"")) == b"01X89"


def test_small_files_are_found_once_in_the_order_of_their_names(tmp_path: Path) -> None:
    make_files(tmp_path / "a", 7)
    (tmp_path / "a" / "d0" / "link").symlink_to("f0")
    (tmp_path / "a" / "d1" / "large").write_bytes(bytes(corpus.SMALL_BYTES_MAX + 1))
    found = [file.name for file in small_files([tmp_path / "a" / "d1", tmp_path / "a"])]
    assert found == ["f1", "f4", "f0", "f3", "f6", "f2", "f5"]


def test_a_tree_is_counted_as_find_counts_it(tmp_path: Path) -> None:
    make_files(tmp_path / "a", 7)
    planted = plant(tmp_path / "tree", small_files([tmp_path / "a"]), 6)
    everything = [
        os.path.join(top, name) for top, dirs, files in os.walk(tmp_path / "tree") for name in dirs + files
    ]
    assert planted.files == 6
    assert planted.entries == 1 + len(everything)
    assert planted.bytes == 0 + 3 + 6 + 1 + 4 + 2


def test_too_few_small_files_are_refused(tmp_path: Path) -> None:
    make_files(tmp_path / "a", 3)
    with pytest.raises(Invalid, match="3 small files"):
        plant(tmp_path / "tree", small_files([tmp_path / "a"]), 4)


def test_data_of_the_same_recipe_is_used_again_and_of_another_made_anew(tmp_path: Path) -> None:
    made = provide(tmp_path / "data", Recipe(1 << 16, 5))
    assert made.day1.stat().st_size == 1 << 16
    assert made.day1.read_bytes() != made.day2.read_bytes()
    mark = made.directory / "mark"
    mark.touch()
    assert provide(tmp_path / "data", Recipe(1 << 16, 5)) == made
    assert mark.exists()
    assert provide(tmp_path / "data", Recipe(1 << 16, 6)).planted.files == 6
    assert not mark.exists()


def test_data_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    made = provide(tmp_path / "data", Recipe(1 << 16, 5))
    (made.directory / "corpus.json").write_text("{")
    made.day2.unlink()
    assert provide(tmp_path / "data", Recipe(1 << 16, 5)).day2.exists()
