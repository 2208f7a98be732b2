"""The shape of the source: short modules that say what they are for, and no ignore rule that hides one."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES_MAX = 500
MODULES = sorted(path for name in ("fusegw", "cache", "exports") for path in (ROOT / name).rglob("*.py"))


def complaints(name: str, text: str) -> list[str]:
    found = []
    lines = text.count("\n")
    if lines > LINES_MAX:
        found.append(f"{name}: {lines} lines, at most {LINES_MAX}")
    if not ast.get_docstring(ast.parse(text)):
        found.append(f"{name}: does not say in a docstring what it is for")
    return found


def ignored(paths: list[str]) -> list[str]:
    """Those of `paths` that git would ignore."""
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, input="\n".join(paths), capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.split()


def test_modules_are_short_and_say_what_they_are_for() -> None:
    assert MODULES
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in MODULES}
    assert [text for name, source in sources.items() for text in complaints(name, source)] == []


def test_a_long_module_and_a_silent_one_are_seen() -> None:
    assert len(complaints("long.py", '"""Long."""\n' + "x = 1\n" * LINES_MAX)) == 1
    assert len(complaints("silent.py", "x = 1\n")) == 1


def decodes_types_it_may_meet_first(text: str) -> bool:
    """Whether it decodes a struct by naming it, rather than by a decoder made at the import."""
    return re.search(r"msgspec\.(msgpack|json)\.decode\([^\n]*type=(?!dict\b)", text) is not None


def test_what_runs_in_threads_makes_its_decoders_at_the_import() -> None:
    """Two threads that meet a struct for the first time at the same moment can crash msgspec."""
    below = [ROOT / "fusegw" / name for name in ("ingest", "keys", "meta", "packs", "ship", "store", "vfs")]
    sources = {str(path): path.read_text() for layer in below for path in layer.rglob("*.py")}
    assert [name for name, text in sources.items() if decodes_types_it_may_meet_first(text)] == []


def test_a_decoding_by_type_is_seen() -> None:
    assert decodes_types_it_may_meet_first("x = msgspec.msgpack.decode(body, type=Manifest)\n")
    assert not decodes_types_it_may_meet_first("x = msgspec.json.decode(data, type=dict[str, Any])\n")


def test_git_ignores_no_module() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    new = [f"{name}/new_module.py" for name in ("fusegw", "cache", "exports", "fusegw/store", "tests/cache")]
    assert ignored([*new, *(str(path.relative_to(ROOT)) for path in MODULES)]) == []
    assert ignored(["cache/__pycache__/x.pyc"]) == ["cache/__pycache__/x.pyc"]


def test_tests_have_no_init_files() -> None:
    """One in tests/cache would make it a package named like the real one."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
