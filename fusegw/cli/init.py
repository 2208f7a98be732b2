"""`fusegw init`: what is asked for on the command line; the order of doing it is in `creation`."""

import sys
from pathlib import Path

import click

from fusegw.cli import output
from fusegw.cli.creation import Creation, create
from fusegw.cli.secret_source import SecretFiles, first_secret, secret_options
from fusegw.cli.session import Session, common_options, json_option
from fusegw.cli.store_source import store_options, store_said
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.daemon.process import harden
from fusegw.errors import Invalid
from fusegw.keys import DEFAULT_KDF, KdfParameters
from fusegw.sizes import parse_size

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init")
@click.argument("name")
@store_options
@click.option("--recovery-key-file", type=_FILE, help="Write the recovery key to this new file.")
@click.option("--kdf-memory", metavar="SIZE", help="Memory one guess of the passphrase costs.  [64M]")
@click.option(
    "--kdf-iterations", type=int, default=DEFAULT_KDF.iterations, show_default=True, help="Passes over it."
)
@click.option(
    "--kdf-lanes", type=int, default=DEFAULT_KDF.lanes, show_default=True, help="Processors it may use."
)
@secret_options
@json_option
@common_options
def init(
    session: Session,
    name: str,
    *,
    unsafe_no_fencing: bool,
    recovery_key_file: Path | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
    kdf_memory: str | None,
    kdf_iterations: int,
    kdf_lanes: int,
    **said: str | Path | None,
) -> None:
    """Create volume NAME in an empty place of a store.

    The recovery key opens the volume when the passphrase is lost: it is shown once on a terminal, or
    written to --recovery-key-file. Nothing is written before everything has been checked.
    """
    harden()
    site = session.site()
    config = site.config.volume(name)
    if recovery_key_file is None and (as_json or not sys.stdout.isatty()):
        raise Invalid(
            "nobody would see the recovery key: give --recovery-key-file FILE, or run this on a terminal "
            "without --json"
        )
    created = create(
        Creation(
            name=name,
            store=store_said(name, config.store, said),
            kdf=_kdf(kdf_memory, kdf_iterations, kdf_lanes),
            unsafe_no_fencing=unsafe_no_fencing,
        ),
        site.registry,
        secret=lambda: first_secret(
            SecretFiles(passphrase_file, key_file), config, session.environ, volume=name
        ),
        recovery_to=recovery_key_file,
        clock=SystemClock(),
        entropy=SystemEntropy(),
    )
    if as_json:
        output.print_json(
            {
                "name": name,
                "number": created.entry.number,
                "volume_id": created.entry.volume_id,
                "store_url": created.entry.store.url,
                "recovery_key_file": str(recovery_key_file),
            }
        )
        return
    print(f"volume {name} created at {created.entry.store.url}")
    if recovery_key_file is not None:
        print(f"its recovery key is in {recovery_key_file}: keep it in another place than this host")
    else:
        print(
            "\nRecovery key, shown only this once. Write it down and keep it in a safe place: it opens the "
            f"volume when the passphrase is lost.\n\n    {created.recovery_key}\n"
        )


def _kdf(memory: str | None, iterations: int, lanes: int) -> KdfParameters:
    memory_kib = parse_size(memory) >> 10 if memory else DEFAULT_KDF.memory_kib
    return KdfParameters(memory_kib=memory_kib, iterations=iterations, lanes=lanes)
