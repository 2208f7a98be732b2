"""Beside the code: the example configuration is valid, the container's entry point calls fusegw right."""

import os
import subprocess
from pathlib import Path

import click
import pytest

from fusegw.cli.main import cli
from fusegw.config import parse_config
from fusegw.errors import Invalid

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "packaging" / "config.example.toml"


def test_the_example_configuration_is_valid() -> None:
    config = parse_config(EXAMPLE.read_text(), EXAMPLE)
    assert config.volume("tank").store is not None


def test_a_typo_in_it_would_be_seen() -> None:
    with pytest.raises(Invalid, match="pasphrase_file"):
        parse_config(EXAMPLE.read_text().replace("passphrase_file", "pasphrase_file"), EXAMPLE)


def commands_of_units() -> list[tuple[str, list[str]]]:
    """(unit, arguments) of everything that the units run as fusegw."""
    return [
        (unit.name, line.partition("/usr/bin/fusegw ")[2].split())
        for unit in sorted((ROOT / "packaging").glob("*.service"))
        for line in unit.read_text().splitlines()
        if line.startswith("Exec") and "/usr/bin/fusegw " in line
    ]


def test_units_call_commands_and_options_that_exist() -> None:
    found = commands_of_units()
    assert {unit for unit, _ in found} >= {"fusegw@.service", "fusegw-drill@.service"}
    for unit, (name, *arguments) in found:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, f"{unit}: {name}"
        known = {option for parameter in command.params for option in parameter.opts}
        assert {one for one in arguments if one.startswith("-")} <= known, unit


def test_each_timer_has_its_unit() -> None:
    timers = list((ROOT / "packaging").glob("*.timer"))
    assert timers and all(timer.with_suffix(".service").exists() for timer in timers)


class Container:
    """The entry point with a stand-in for fusegw that prints how it was called."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "bin").mkdir()
        fake = base / "bin" / "fusegw"
        fake.write_text("#!/bin/sh\nIFS='|'; echo \"$*\"\n")
        fake.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.base / 'bin'}:{os.environ['PATH']}",
            "FUSEGW_CONFIG": str(self.base / "config.toml"),
        }
        command = [str(ROOT / "docker" / "entrypoint"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_other_commands_pass_through(container: Container) -> None:
    assert container.run("init", "tank", "--store", "s3://b/p q").stdout == "init|tank|--store|s3://b/p q\n"
    assert container.run("mount", "--help").stdout == "mount|--help\n"


@pytest.mark.mount
def test_it_mounts_where_it_is_told(container: Container, tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    assert container.run("mount", "tank", there).stdout == f"mount|--foreground|tank|{there}\n"
    assert Path(there).is_dir()


@pytest.mark.mount
@pytest.mark.parametrize("arguments", [(), ("mount",), ("mount", "tank")])
def test_where_it_mounts(container: Container, arguments: tuple[str, ...]) -> None:
    shim = container.base / "bin" / "mkdir"
    shim.write_text("#!/bin/sh\n")  # nothing is made in this host's /mnt
    shim.chmod(0o755)
    expected = "tank|/mnt/tank" if "tank" in arguments else "/mnt/volumes"
    assert container.run(*arguments).stdout == f"mount|--foreground|{expected}\n"
