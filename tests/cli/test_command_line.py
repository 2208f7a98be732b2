"""What holds for every command: its options, its errors, its speed, its completion."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import fusegw.errors
from fusegw.cli import main as entry
from fusegw.cli.main import COMMANDS, cli
from fusegw.errors import FusegwError
from tests.cli.hosts import CHEAP, ROOT, Host


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(cli))


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
def test_every_command_takes_the_common_options_and_helps(host: Host, path: tuple[str, ...]) -> None:
    flags = {flag for option in ALL[path].params for flag in option.opts}
    assert {"--config", "--state-dir", "--cache-dir", "--debug"} <= flags
    done = host.run(*path, "--help")
    assert done.code == 0 and "Usage: fusegw" in done.out
    assert ALL[path].help


REPORTING = [
    path
    for path in ALL
    if path[0] not in ("mount", "umount", "completion") and not isinstance(ALL[path], click.Group)
]


@pytest.mark.parametrize("path", REPORTING, ids=" ".join)
def test_what_reports_does_so_in_json_too(path: tuple[str, ...]) -> None:
    assert "--json" in {flag for option in ALL[path].params for flag in option.opts}


def test_no_option_takes_a_secret() -> None:
    """Arguments are seen by everybody in the process list."""
    for path, command in ALL.items():
        for option in command.params:
            if isinstance(option, click.Option) and re.search("pass|key|secret", option.name or ""):
                assert (
                    option.is_flag or isinstance(option.type, click.Path) or "--kms-key-id" in option.opts
                ), path


def test_options_before_and_after_the_command(host: Host) -> None:
    host.init()
    there = ("--state-dir", host.base / "there")
    assert host.run("ls-volumes", "--json").json()["volumes"] != []
    assert host.run(*there, "ls-volumes", "--json").json()["volumes"] == []
    assert host.run("ls-volumes", *there, "--json").json()["volumes"] == []
    done = host.run(*there, "ls-volumes", "--state-dir", host.state, "--json")
    assert done.json()["volumes"] != []
    assert host.run("cache", *there, "stats").code == 9


def test_the_configuration_may_say_where_state_lies(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.init()
    host.config(f"[gateway]\nstate_dir = '{host.base}/there'\n")
    assert host.run("ls-volumes", "--json").json()["volumes"] != []
    monkeypatch.delenv("FUSEGW_STATE_DIR")
    assert host.run("ls-volumes", "--json").json()["volumes"] == []
    done = host.run("ls-volumes", "--config", host.base / "missing.toml")
    assert done.code == 3 and "missing.toml" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("init",),
        ("status", "--bogus"),
        ("status", "a", "b"),
        ("key", "remove", "x"),
        ("mount",),
    ],
)
def test_wrong_usage_is_2(host: Host, arguments: tuple[str, ...]) -> None:
    done = host.run(*arguments)
    assert done.code == 2 and "Usage: fusegw" in done.err and "Traceback" not in done.err


def test_exit_codes_are_distinct() -> None:
    kinds = [
        one
        for one in vars(fusegw.errors).values()
        if isinstance(one, type) and issubclass(one, FusegwError) and one.__base__ in (Exception, FusegwError)
    ]
    codes = [kind.exit_code for kind in kinds]
    assert len(codes) == len(set(codes)) and not {0, 2, 130} & set(codes)


def test_the_unexpected_is_one_line_and_a_traceback_only_on_demand(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object) -> None:
        raise ZeroDivisionError("on purpose\nwith a second line")

    monkeypatch.setattr("fusegw.cli.session.load_config", explode)
    done = host.run("status")
    assert done.code == 1 and "Traceback" not in done.err and done.err.count("\n") == 1
    assert "unexpected ZeroDivisionError: on purpose" in done.err and "--debug" in done.err
    done = host.run("status", "--debug")
    assert done.code == 1 and "Traceback" in done.err


def test_an_interrupt_is_130(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fusegw.cli.session.load_config", interrupt)
    done = host.run("status")
    assert (done.code, done.err.strip()) == (130, "fusegw: error: interrupted")


def test_a_reader_that_leaves_is_no_error_message(host: Host) -> None:
    host.init()
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        host.command("ls-volumes"), env=host.environment(), stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 1


HEAVY = {"boto3", "botocore", "trio", "pyfuse3", "lmdb", "cryptography", "blake3", "pyzstd", "rich"}


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("status", "--json"), set()),
        (("ls-volumes", "--json"), set()),
        (("cache", "stats", "--json"), set()),
        (("key", "list", "--json"), {"cryptography"}),
    ],
)
def test_commands_import_no_more_than_they_need(
    host: Host, arguments: tuple[str, ...], needed: set[str]
) -> None:
    host.init()
    program = (
        "import sys\n"
        "from fusegw.cli.main import main\n"
        f"main({list(arguments)!r})\n"
        f"print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=host.environment(), capture_output=True, text=True, timeout=60
    )
    assert set(done.stderr.splitlines()[-1].split()) <= needed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(host: Host, shell: str) -> None:
    if shell == "bash" and not Path("/bin/bash").exists():
        pytest.skip("click asks bash for its version")
    done = host.run("completion", shell)
    assert done.code == 0 and "_FUSEGW_COMPLETE" in done.out


def completions(host: Host, *words: str) -> set[str]:
    environment = host.environment(
        _FUSEGW_COMPLETE="bash_complete", COMP_WORDS=" ".join(("fusegw", *words)), COMP_CWORD=str(len(words))
    )
    program = [sys.executable, "-m", "fusegw.cli.main"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return {line.partition(",")[2] for line in done.stdout.split()}


def test_commands_and_volume_names_are_completed(host: Host) -> None:
    host.init()
    host.init("pond")
    assert completions(host, "s") == {"salvage", "snapshot", "status", "sync"}
    assert completions(host, "status", "") == {"tank", "pond"}
    assert completions(host, "umount", "ta") == {"tank"}
    host.config("[gatewy]")
    assert completions(host, "status", "") == set()


def test_arguments_of_mount_8_are_told_from_commands(host: Host) -> None:
    assert entry._is_from_mount(["tank", "/mnt", "-o", "rw"])
    assert not entry._is_from_mount(["status", "/mnt"])
    assert not entry._is_from_mount(["--config", "/x"])
    assert not entry._is_from_mount(["tank"])
    assert not entry._is_from_mount(["frobnicate", "x"])
    assert all(not entry._is_from_mount([name, "/mnt"]) for name in COMMANDS)


def test_a_mount_from_mount_8_has_the_codes_of_mount(host: Host) -> None:
    done = host.run("tank", "/mnt", "-o", "rw")
    assert done.code == 9 and "no volume 'tank'" in done.err
    assert host.run("tank", "/mnt", "-f").code == 0
    assert host.init("tank", *CHEAP).code == 0
