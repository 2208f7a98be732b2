"""Beside the code: the example configuration is valid, the container's entry point calls fusegw right."""

import os
import subprocess
from pathlib import Path

import pytest

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


class Container:
    """The entry point with a stand-in for fusegw that prints how it was called."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "bin").mkdir()
        fake = base / "bin" / "fusegw"
        fake.write_text("#!/bin/sh\nIFS='|'; echo \"$*\"\n")
        fake.chmod(0o755)

    def configure(self, text: str) -> None:
        (self.base / "config.toml").write_text(text)

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
def test_it_mounts_the_one_volume_of_the_configuration(container: Container, tmp_path: Path) -> None:
    container.configure("[volumes.tank]\n")
    there = str(tmp_path / "there")
    assert container.run("mount", "tank", there).stdout == f"mount|--foreground|tank|{there}\n"
    assert Path(there).is_dir()


def test_it_asks_which_volume_when_the_configuration_does_not_say(container: Container) -> None:
    container.configure("[volumes.a]\n[volumes.b]\n")
    done = container.run()
    assert done.returncode != 0
    assert "2 volumes" in done.stderr
    container.configure("[volumes\n")
    assert "config.toml" in container.run("mount").stderr
