"""`fusegw key`: who can open a volume. Works on the store, whether the volume is mounted or not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fusegw import keys
from fusegw.cli import output
from fusegw.cli.creation import POLICY
from fusegw.cli.recovery_file import check_recovery_file, recovery_file
from fusegw.cli.secret_source import SecretFiles, present_secret, replacing_secret, secret_options
from fusegw.cli.session import Session, Site, common_options, json_option, volume_argument
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.daemon.process import harden
from fusegw.errors import Invalid
from fusegw.keys import Secret, SlotInfo
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store

_FILE = click.Path(path_type=Path, dir_okay=False)
_new_passphrase_file = click.option(
    "--new-passphrase-file", type=_FILE, help="Read the new passphrase from here."
)
_new_key_file = click.option("--new-key-file", type=_FILE, help="Use this file as the new key.")


@click.group("key")
@common_options
def key(session: Session) -> None:
    """Passphrases, key files and recovery keys of a volume."""


@key.command("list")
@volume_argument
@click.option("--authenticate", is_flag=True, help="Ask for a secret, and check the list with it.")
@secret_options
@json_option
@common_options
def key_list(
    session: Session,
    name: str | None,
    authenticate: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """List the key slots; without a secret as the store shows them, which nobody has vouched for."""
    site = session.site()
    volume = site.volume(name)
    given = authenticate or passphrase_file or key_file
    secret = _present(session, site, volume, passphrase_file, key_file) if given else None
    with _store(site, volume) as store:
        listing = keys.list_slots(store, secret)
    if as_json:
        slots = [_document(slot) for slot in listing.slots]
        output.print_json({"volume": volume, "authenticated": listing.authenticated, "slots": slots})
        return
    output.print_table(
        ("slot", "kind", "label", "created"),
        [(str(slot.slot), slot.kind, slot.label, _date(slot)) for slot in listing.slots],
    )


@key.command("add")
@volume_argument
@click.option("--label", default="", help="A remark to tell the slot by.")
@click.option("--recovery", is_flag=True, help="Add another recovery key instead of a secret of yours.")
@click.option("--recovery-key-file", type=_FILE, help="Write that recovery key to this new file.")
@_new_passphrase_file
@_new_key_file
@secret_options
@json_option
@common_options
def key_add(
    session: Session,
    name: str | None,
    *,
    label: str,
    recovery: bool,
    recovery_key_file: Path | None,
    new_passphrase_file: Path | None,
    new_key_file: Path | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Let one more passphrase, key file or recovery key open the volume."""
    site = session.site()
    volume = site.volume(name)
    new_files = SecretFiles(new_passphrase_file, new_key_file)
    if recovery_key_file is not None and not recovery:
        raise Invalid("--recovery-key-file goes with --recovery")
    if recovery:
        _check_recovery(recovery_key_file, as_json=as_json, new_files=new_files)
    present = _present(session, site, volume, passphrase_file, key_file)
    entropy = SystemEntropy()
    new = Secret.new_recovery(entropy) if recovery else replacing_secret(new_files, session.environ)
    with _store(site, volume) as store, _recovery_kept(new, recovery_key_file):
        slot = keys.add_slot(
            store,
            present,
            new,
            label=label or ("recovery" if recovery else ""),
            clock=SystemClock(),
            entropy=entropy,
        )
    _report(volume, slot, "added", as_json)
    if recovery and recovery_key_file is None:
        print(f"\nRecovery key, shown only this once:\n\n    {new.recovery_text()}\n")


@key.command("remove")
@click.argument("slot", type=int)
@volume_argument
@secret_options
@json_option
@common_options
def key_remove(
    session: Session,
    slot: int,
    name: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Remove slot number SLOT. Who has opened the volume with it may have kept its master key."""
    site = session.site()
    volume = site.volume(name)
    present = _present(session, site, volume, passphrase_file, key_file)
    with _store(site, volume) as store:
        removed = keys.remove_slot(store, present, slot)
    _report(volume, removed, "removed", as_json)


@key.command("passwd")
@volume_argument
@click.option("--slot", type=int, help="The slot to change, where it is not clear.")
@_new_passphrase_file
@_new_key_file
@secret_options
@json_option
@common_options
def key_passwd(
    session: Session,
    name: str | None,
    *,
    slot: int | None,
    new_passphrase_file: Path | None,
    new_key_file: Path | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Change a passphrase or key file; the recovery key may be given in place of the old one."""
    site = session.site()
    volume = site.volume(name)
    present = _present(session, site, volume, passphrase_file, key_file)
    new = replacing_secret(SecretFiles(new_passphrase_file, new_key_file), session.environ)
    with _store(site, volume) as store:
        changed = keys.change_passphrase(
            store, present, new, slot=slot, clock=SystemClock(), entropy=SystemEntropy()
        )
    _report(volume, changed, "changed", as_json)


@key.command("verify")
@volume_argument
@secret_options
@json_option
@common_options
def key_verify(
    session: Session, name: str | None, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Check that a secret opens the volume and that its key objects are whole."""
    site = session.site()
    volume = site.volume(name)
    present = _present(session, site, volume, passphrase_file, key_file)
    with _store(site, volume) as store:
        slot = keys.verify(store, present)
    _report(volume, slot, "opens", as_json)


def _present(
    session: Session, site: Site, volume: str, passphrase_file: Path | None, key_file: Path | None
) -> Secret:
    harden()
    files = SecretFiles(passphrase_file, key_file)
    return present_secret(files, site.config.volume(volume), session.environ, volume=volume)


@contextmanager
def _store(site: Site, volume: str) -> Iterator[ObjectStore]:
    store = open_store(
        site.store_options(volume), clock=SystemClock(), entropy=SystemEntropy(), policy=POLICY
    )
    try:
        yield store
    finally:
        store.close()


def _check_recovery(path: Path | None, *, as_json: bool, new_files: SecretFiles) -> None:
    if new_files != SecretFiles():
        raise Invalid("--recovery makes a key of its own: leave out --new-passphrase-file and --new-key-file")
    if path is not None:
        check_recovery_file(path)
    elif as_json or not sys.stdout.isatty():
        raise Invalid(
            "nobody would see the recovery key: give --recovery-key-file FILE, or run this on a terminal "
            "without --json"
        )


@contextmanager
def _recovery_kept(new: Secret, path: Path | None) -> Iterator[None]:
    """Make room for the new recovery key; write it once its slot exists, or leave no file behind."""
    if path is None:
        yield
        return
    with recovery_file(path) as write:
        yield
        write(new.recovery_text())


def _report(volume: str, slot: SlotInfo, what: str, as_json: bool) -> None:
    if as_json:
        output.print_json({"volume": volume, "outcome": what} | _document(slot))
    else:
        label = f", {slot.label!r}" if slot.label else ""
        print(f"volume {volume}: slot {slot.slot} ({slot.kind}{label}) {what}")


def _document(slot: SlotInfo) -> dict[str, Any]:
    return {
        "slot": slot.slot,
        "kind": slot.kind,
        "label": slot.label,
        "created": _date(slot),
        "opens": slot.opens,
    }


def _date(slot: SlotInfo) -> str:
    return datetime.fromtimestamp(slot.created_ns // 10**9, UTC).isoformat()
