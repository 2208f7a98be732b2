"""`fusegw mount` and `fusegw umount`."""

from pathlib import Path

import click

from fusegw.cli import output
from fusegw.cli.mount_options import ParsedOptions, parse_options
from fusegw.cli.session import Locations, Session, Site, common_options, complete_volume
from fusegw.clock import SystemClock
from fusegw.config import GatewaySettings, VolumePaths
from fusegw.daemon import lock, mountpoint
from fusegw.daemon.process import Body, harden, run_in_background, run_in_foreground
from fusegw.daemon.service import serve_gateway, stop_volume, volume_on
from fusegw.sizes import parse_size

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("mount")
@click.argument(
    "places", nargs=-1, required=True, metavar="[NAME] MOUNTPOINT", shell_complete=complete_volume
)
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Options as mount(8) takes them.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("--cache-size", metavar="SIZE", help="Budget of the cache, such as 10G.  [FUSEGW_CACHE_SIZE]")
@click.option("--read-only", is_flag=True, help="Write nothing, neither to the metadata nor to the store.")
@click.option(
    "--follow",
    is_flag=True,
    help="Standby: read only, show what another gateway ships as it comes; see fusegw promote.",
)
@click.option(
    "--passphrase-file", type=_FILE, help="Read the passphrase from here.  [FUSEGW_PASSPHRASE_FILE]"
)
@click.option("--key-file", type=_FILE, help="Open with this key file instead of a passphrase.")
@common_options
def mount(
    session: Session,
    places: tuple[str, ...],
    options: tuple[str, ...],
    foreground: bool,
    cache_size: str | None,
    read_only: bool,
    follow: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
) -> None:
    """Mount a volume, or all of them.

    It is ready to use when the command returns. Without NAME every volume of this host is a directory of
    MOUNTPOINT, except those with in_unified_mount = false in the configuration.
    """
    from fusegw.cli.mount_settings import Said, alone, together
    from fusegw.cli.secret_source import SecretFiles

    harden()
    parsed = parse_options(options)
    site = session.site(
        Locations(config_file=parsed.config, state_dir=parsed.state_dir, cache_dir=parsed.cache_dir)
    )
    name, place = _name_and_place(site, places)
    said = Said(
        options=parsed,
        read_only=read_only or parsed.read_only,
        follow=follow or parsed.follow,
        cache_size_bytes=_cache_size(parsed, cache_size or session.environ.get("FUSEGW_CACHE_SIZE")),
        files=SecretFiles(passphrase_file or parsed.passphrase_file, key_file or parsed.key_file),
    )
    settings = (
        together(site, place, said, session) if name is None else alone(site, name, place, said, session)
    )
    body = _body(session, settings, nonempty=parsed.nonempty)
    debug = session.debug or parsed.debug
    if foreground:
        run_in_foreground(body, debug=debug)
    else:
        pid = run_in_background(body, log_file=settings.log_file, debug=debug, warn=output.warning)
        what = "all volumes together are" if name is None else f"volume {name} is"
        output.remark(f"{what} mounted on {place} (pid {pid})")
        for volume in settings.volumes:
            _tell_unsent(volume.paths)


@click.command("umount")
@click.argument("target", metavar="NAME|MOUNTPOINT", shell_complete=complete_volume)
@click.option("--lazy", is_flag=True, help="Detach now, even if files are in use, and do not wait.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for the gateway to end.")
@common_options
def umount(session: Session, target: str, lazy: bool, timeout: float) -> None:
    """Unmount a volume; one of a unified mount with all the others.

    When the command returns all its data is safe on this host and its gateway has ended.
    What is not in the store by then is shipped after the next mount; see sync --wait.
    """
    site = session.site()
    name = target
    if target not in site.registry.volumes():
        name = (
            volume_on(site.registry, site.state_dir, mountpoint.canonical(Path(target)))
            if "/" in target or target in (".", "..") or Path(target).is_dir()
            else site.volume(target)
        )
    clock = SystemClock()
    waiting = output.patience(clock)
    paths = site.paths(name)
    present = lock.present_holder(paths)
    if present is not None and present.unified and target != present.mountpoint:
        output.warning(f"volume {name} is part of the unified mount on {present.mountpoint}: all of it ends")
    stop_volume(
        paths,
        lazy=lazy,
        timeout_s=timeout,
        clock=clock,
        on_wait=lambda holder: waiting(f"waiting for {holder} to make its data safe and end …"),
    )


def _tell_unsent(paths: VolumePaths) -> None:
    if unsent := paths.unsent_dirs():
        kept = ", ".join(map(str, unsent))
        output.warning(
            f"changes of this host that never reached the store are kept in {kept}; to write "
            f"their files out: fusegw salvage {paths.name} DIRECTORY"
        )


def _name_and_place(site: Site, places: tuple[str, ...]) -> tuple[str | None, Path]:
    if len(places) > 2:
        raise click.UsageError(f"expected [NAME] MOUNTPOINT, got {len(places)} arguments")
    name = site.volume(places[0]) if len(places) == 2 else None
    return name, Path(mountpoint.canonical(Path(places[-1])))


def _cache_size(parsed: ParsedOptions, said: str | None) -> int | None:
    """The budget in bytes that command line or environment give."""
    if parsed.cache_size_bytes is not None:
        return parsed.cache_size_bytes
    return parse_size(said) if said else None


def _body(session: Session, settings: GatewaySettings, *, nonempty: bool) -> Body:
    return lambda on_ready: serve_gateway(settings, session.gateway, on_ready=on_ready, nonempty=nonempty)
