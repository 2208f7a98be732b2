"""constraints.txt pins the whole closure of what pyproject.toml asks for, and names no address."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Version by normalised name; fails on any line that is not `name==version`, a comment or empty."""
    found = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"not a plain pin: {line!r}"
        found[normal(match[1])] = match[2]
    return found


def closure() -> set[str]:
    """Every distribution that the project with its optional groups pulls in, by normalised name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(text for group in groups for text in group)]
    queue = [Requirement(text) for text in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        requirement = queue.pop()
        key = (normal(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for text in metadata.requires(requirement.name) or []:
            child = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *requirement.extras)]
            if child.marker is None or any(child.marker.evaluate(e) for e in environments):
                queue.append(child)
    return {name for name, _ in seen}


def test_every_dependency_is_pinned_to_one_version() -> None:
    assert closure() - set(pins((ROOT / "constraints.txt").read_text())) == set()


def test_this_environment_has_the_pinned_versions() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text())
    assert {name: metadata.version(name) for name in closure()} == {name: pinned[name] for name in closure()}


def test_an_address_in_the_constraints_is_seen() -> None:
    for line in ("--index" + "-url https://a.example", "trio @ file:///wheels/trio.whl", "trio>=0.29"):
        try:
            pins(line)
        except AssertionError:
            continue
        raise AssertionError(f"{line!r} passed")
