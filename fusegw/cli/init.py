"""`fusegw init`: what is asked for on the command line; the order of doing it is in `creation`."""

import sys
from pathlib import Path

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.creation import Creation, create
from fusegw.cli.secret_source import SecretFiles, first_secret, secret_options
from fusegw.cli.session import Session, common_options, json_option
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import parse_size
from fusegw.daemon.process import harden
from fusegw.errors import Invalid
from fusegw.keys import DEFAULT_KDF, KdfParameters
from fusegw.store.options import StoreOptions

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init")
@click.argument("name")
@click.option("--store", "url", metavar="URL", help="file:///directory or s3://bucket/prefix.")
@click.option("--endpoint-url", help="Address of an S3 server that is not AWS.")
@click.option("--region", help="Region of the bucket.")
@click.option("--ca-bundle", type=_FILE, help="Certificate authorities to trust instead of the system's.")
@click.option("--profile", help="Section of the AWS credentials file.")
@click.option("--sse", type=click.Choice(["AES256", "aws:kms"]), help="Server-side encryption to ask for.")
@click.option("--kms-key-id", help="Key for --sse aws:kms.")
@click.option("--storage-class", help="Storage class of new objects.")
@click.option("--unsafe-no-fencing", is_flag=True, help="Accept a store that cannot refuse a second create.")
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
    **store_options: str | Path | None,
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
            store=_store_options(name, config.store, store_options),
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


def _store_options(
    name: str, configured: StoreOptions | None, given: dict[str, str | Path | None]
) -> StoreOptions:
    """What the configuration says about the store of `name`, with the options given put over it."""
    if configured is None and not given["url"]:
        raise Invalid(f"no store for volume {name!r}: give --store URL")
    if configured is not None and given["url"] not in (None, configured.url):
        raise Invalid(
            f"--store {given['url']} contradicts [volumes.{name}] of the configuration, which says "
            f"{configured.url}: later commands would use that one"
        )
    said = {key: str(value) for key, value in given.items() if value is not None}
    if given["ca_bundle"] is not None:
        said["ca_bundle"] = str(Path(said["ca_bundle"]).absolute())
    return msgspec.structs.replace(configured or StoreOptions(url=said["url"]), **said)
