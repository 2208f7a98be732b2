"""A built wheel holds every module of all three packages and nothing of the tests.

Builds with the setuptools of this environment: no network, no isolation.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fusegw", "cache", "exports")


def copy_sources(target: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def built_modules(source: Path) -> set[str]:
    """Names of the Python files in the wheel built from `source`."""
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(source / "out")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(source / "out" / done.stdout.splitlines()[-1]) as wheel:
        return {name for name in wheel.namelist() if name.endswith(".py")}


def tree_modules(source: Path) -> set[str]:
    return {str(path.relative_to(source)) for name in PACKAGES for path in (source / name).rglob("*.py")}


def test_wheel_holds_every_module_of_the_three_packages(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    assert built_modules(tmp_path) == tree_modules(tmp_path)


def test_wheel_holds_what_ganesha_is_preloaded_with(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    built_modules(tmp_path)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.startswith("exports/_nfs_preload.") for name in archive.namelist())


def test_a_package_left_out_of_pyproject_is_missed(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace(', "exports", "exports.*"', ""))
    missed = tree_modules(tmp_path) - built_modules(tmp_path)
    assert missed
    assert all(name.startswith("exports/") for name in missed)
