"""Entry point of `fusegw`: finds the command, runs it, and ends with one line and one code when it fails.

Exit codes: 0 success; 1 unexpected; 2 wrong usage; 3 to 13 as in `fusegw.errors`; 130 interrupted. An error
is one line `fusegw: error: …` on standard error, with `--json` as well: standard output then holds nothing,
or the whole answer. A traceback is shown with `--debug` only.

mount(8) without a helper of ours in /sbin runs `fusegw NAME DIR -o …`: arguments of that form are handed
on as from a helper, so a volume must not bear a command's name to be mounted in that way.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from fusegw import __version__
from fusegw.cli.session import Session, common_options
from fusegw.config import GatewaySettings
from fusegw.daemon.process import Ready
from fusegw.daemon.service import Gateway
from fusegw.errors import FusegwError

COMMANDS = {
    "init": "init:init",
    "recover": "recover:recover",
    "forget": "forget:forget",
    "mount": "mounts:mount",
    "umount": "mounts:umount",
    "status": "reports:status",
    "sync": "reports:sync",
    "promote": "standby:promote",
    "ls-volumes": "reports:ls_volumes",
    "check": "check:check",
    "drill": "drill:drill",
    "salvage": "salvage:salvage_command",
    "export": "export:export",
    "quota": "quota:quota",
    "snapshot": "snapshot:snapshot",
    "clone": "snapshot:clone",
    "gc": "gc:gc_command",
    "cache": "cache:cache",
    "key": "key:key",
    "anchor": "anchor:anchor",
    "completion": "completion:completion",
}
"""Where each command is: module of this package and name in it."""

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """A group that imports a command when it is called, so that `fusegw status` does not wait for boto3."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(f"fusegw.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusegw")
@common_options
def cli(session: Session) -> None:
    """Storage gateway for backups: a mounted file system kept as sealed packs in an object store."""


def main(
    arguments: Sequence[str] | None = None, *, gateway: Gateway | None = None, from_mount: bool = False
) -> int:
    """Run one command line (default: this process's) and return its exit code.

    `gateway` serves a mounted volume; the real one unless a test brings another. With `from_mount` the
    arguments are those mount(8) gives to its helpers.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    session = Session(os.environ, gateway or _real_gateway)
    return _guarded(lambda: _run(given, session, from_mount or _is_from_mount(given)), session)


def _run(arguments: list[str], session: Session, from_mount: bool) -> int:
    if from_mount:
        from fusegw.cli.mount_options import mount_arguments

        arguments = mount_arguments(arguments)
        if not arguments:
            return 0
    outcome = cli.main(arguments, prog_name="fusegw", standalone_mode=False, obj=session)
    return outcome if isinstance(outcome, int) else 0


def _guarded(run: Callable[[], int], session: Session) -> int:
    try:
        code = run()
        sys.stdout.flush()
        return code
    except FusegwError as error:
        return _fail(str(error), error.exit_code, session)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED, session)
    except BrokenPipeError:
        # The reader of our output has left; keep the interpreter from complaining about it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNEXPECTED
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {error}; run it again with --debug for details"
        return _fail(text, EXIT_UNEXPECTED, session)


def _fail(message: str, code: int, session: Session) -> int:
    if session.debug:
        traceback.print_exc()
    one_line = " ".join(message.split())
    print(f"fusegw: error: {one_line}", file=sys.stderr)
    return code


def _is_from_mount(arguments: list[str]) -> bool:
    """Whether these are the arguments mount(8) gives to a file system's own program."""
    return (
        len(arguments) >= 2
        and not arguments[0].startswith("-")
        and arguments[0] not in COMMANDS
        and os.path.isabs(arguments[1])
    )


def _real_gateway(settings: GatewaySettings, *, on_ready: Ready) -> None:
    run: Any = importlib.import_module("fusegw.gateway").run
    run(settings, on_ready=on_ready)


if __name__ == "__main__":
    sys.exit(main())
