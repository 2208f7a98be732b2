"""`fusegw salvage`: files that never reached the store, out of what a fenced gateway left behind."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.opening import opened_volume
from fusegw.cli.secret_source import SecretFiles, present_secret, secret_options
from fusegw.cli.session import Session, Site, common_options, complete_volume, json_option
from fusegw.clock import SystemClock, utc
from fusegw.config import VolumePaths
from fusegw.daemon.lock import busy, present_holder, volume_lock
from fusegw.daemon.process import harden
from fusegw.errors import Corrupt, Invalid, NotFound
from fusegw.salvage.run import (
    REPORT,
    SourceReport,
    discard,
    discard_rests,
    look,
    salvage,
    set_aside,
    sources_of,
)

_SHOWN_MAX = 50


@click.command("salvage")
@click.argument("places", nargs=-1, metavar="[NAME] DIRECTORY", shell_complete=complete_volume)
@click.option("--list", "only_list", is_flag=True, help="Only show what there is; takes no DIRECTORY.")
@click.option("--from", "source", metavar="SOURCE", help="Only this one of the sources that --list shows.")
@click.option("--discard", "discarding", is_flag=True, help="Then remove what mounts have set aside.")
@click.option("--yes", is_flag=True, help="Do not ask before that.")
@secret_options
@json_option
@common_options
def salvage_command(
    session: Session,
    places: tuple[str, ...],
    *,
    only_list: bool,
    source: str | None,
    discarding: bool,
    yes: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Write out files that never reached the store.

    For a gateway that another one replaced: what it had acknowledged and not shipped is written to DIRECTORY,
    which must be empty or missing, under DIRECTORY/SOURCE/. Files with bytes that could not be had go to
    DIRECTORY/SOURCE.incomplete/; DIRECTORY/fusegw-salvage.json says what is what, and which names were
    deleted. Needs the store for the keys, and for data that is there already.
    """
    site = session.site()
    name, directory = _name_and_directory(site, places, only_list=only_list)
    _check_options(only_list=only_list, discarding=discarding, yes=yes, as_json=as_json)
    paths, volume_id = site.paths(name), bytes.fromhex(site.registry.get(name).volume_id)
    with ExitStack() as stack:
        locked = present_holder(paths) is None
        if locked:
            stack.enter_context(volume_lock(paths))
        sources = _sources(paths, source, locked=locked)
        if directory is None or not sources:
            _show(name, look(sources, volume_id, SystemClock()), as_json, locked=locked)
            return
        harden()
        files = SecretFiles(passphrase_file, key_file)
        secret = present_secret(files, site.volume_config(name), session.environ, volume=name)
        store, keys = stack.enter_context(opened_volume(site, name, secret))
        with output.bar(f"salvaging {name}") as show:
            found = salvage(
                sources,
                directory.absolute(),
                store,
                keys,
                beside=[*paths.unsent_dirs(), site.cache_dir / volume_id.hex() / "packs"],
                clock=SystemClock(),
                on_progress=lambda done, total: show(done, total, f"{done:,} of {total:,} files"),
            )
        _show(name, found, as_json, locked=locked)
        _complain(found, directory)
        if discarding:
            _discard(paths, sources, yes=yes, locked=locked)


def _name_and_directory(site: Site, places: Sequence[str], *, only_list: bool) -> tuple[str, Path | None]:
    wanted = 0 if only_list else 1
    if not wanted <= len(places) <= wanted + 1:
        raise click.UsageError("expected [NAME] with --list" if only_list else "expected [NAME] DIRECTORY")
    name = site.volume(places[0] if len(places) > wanted else None)
    return name, None if only_list else Path(places[-1])


def _check_options(*, only_list: bool, discarding: bool, yes: bool, as_json: bool) -> None:
    if discarding and only_list:
        raise click.UsageError("--discard does not go with --list")
    if discarding and not yes and (as_json or not sys.stdin.isatty()):
        raise Invalid("--discard asks first: give --yes too, or run this on a terminal without --json")


def _sources(paths: VolumePaths, wanted: str | None, *, locked: bool) -> list[Path]:
    """What can be salvaged now; the index in its place only while nobody else has the volume."""
    sources = sources_of(paths, SystemClock()) if locked else set_aside(paths)
    if wanted is None:
        return sources
    name = wanted.rstrip("/").rpartition("/")[2]
    chosen = [source for source in sources if source.name == name]
    if not chosen and name == paths.meta_dir.name and not locked:
        raise busy(paths, present_holder(paths))
    if not chosen:
        names = ", ".join(source.name for source in sources) or "none"
        raise NotFound(f"volume {paths.name!r} has no source {wanted!r} to salvage from; there are: {names}")
    return chosen


def _show(name: str, found: list[SourceReport], as_json: bool, *, locked: bool) -> None:
    if as_json:
        sources = [msgspec.to_builtins(one) | {"whole": one.whole} for one in found]
        output.print_json({"volume": name, "sources": sources})
        return
    if not found and locked:
        print(f"volume {name}: everything acknowledged here reached the store, nothing to salvage")
    elif not found:
        print(f"volume {name}: nothing was set aside; what its gateway holds comes out once it is unmounted")
    for one in found:
        output.print_pairs(f"{one.source} of volume {name}", _lines(one))
        output.print_table(("path", "changed", "state"), _rows(one))


def _lines(one: SourceReport) -> Iterator[tuple[str, str]]:
    yield "from", one.place
    yield "oldest change", utc(round(one.oldest_unix_s * 1e9))
    yield "files", f"{len(one.files):,} ({output.size(sum(file.size for file in one.files))})"
    yield "names removed", f"{len(one.removed):,}"
    if one.tree:
        yield "written to", one.tree
    if one.incomplete_tree:
        yield "incomplete in", one.incomplete_tree
    for problem in one.problems[:_SHOWN_MAX]:
        yield "problem", problem


def _rows(one: SourceReport) -> list[tuple[str, str, str]]:
    rows = [
        (file.path, ", ".join(file.changed), "; ".join([file.state, *file.problems]))
        for file in sorted(one.files, key=lambda file: file.state != "incomplete")
    ] + [(path, "removed", "") for path in one.removed]
    left = len(rows) - _SHOWN_MAX
    return rows if left <= 0 else [*rows[:_SHOWN_MAX], (f"… and {left:,} more", "", "")]


def _complain(found: list[SourceReport], directory: Path) -> None:
    if all(one.whole for one in found):
        return
    files = [file for one in found for file in one.files if file.state != "written"]
    reasons = [problem for one in found for problem in one.problems]
    if files:
        reasons.insert(0, f"{files[0].path}: {(files[0].problems or [files[0].missing[0].reason])[0]}")
    raise Corrupt(
        f"not all could be salvaged whole: {len(files)} files; {reasons[0]}; see "
        f"{directory / REPORT} for what is missing; nothing was discarded"
    )


def _discard(paths: VolumePaths, sources: Sequence[Path], *, yes: bool, locked: bool) -> None:
    for source in sources:
        if source == paths.meta_dir:
            output.remark(f"{source} stays: the next mount sends what it holds, or sets it aside")
        elif yes or click.confirm(f"Remove {source}?", err=True):
            discard(source)
    if locked:
        discard_rests(paths, SystemClock())
