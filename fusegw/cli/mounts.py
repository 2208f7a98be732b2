"""`fusegw mount` and `fusegw umount`."""

import os
from pathlib import Path

import click

from fusegw.cli import output
from fusegw.cli.mount_options import ParsedOptions, parse_options
from fusegw.cli.session import Locations, Session, Site, common_options, complete_volume
from fusegw.clock import SystemClock
from fusegw.config import (
    CACHE_SIZE_BYTES,
    GatewaySettings,
    MountOptions,
    VolumeConfig,
    VolumeSettings,
    parse_size,
)
from fusegw.daemon import lock, mountpoint
from fusegw.daemon.lock import Holder
from fusegw.daemon.process import Body, harden, run_in_background, run_in_foreground
from fusegw.daemon.service import serve_gateway, stop_volume, volume_on
from fusegw.errors import Invalid

WAIT_SILENT_S = 2.0
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
    """Mount a volume.

    It is ready to use when the command returns. NAME may be left out when there is only one volume.
    """
    from fusegw.cli.secret_source import SecretFiles, present_secret

    harden()
    parsed = parse_options(options)
    site = session.site(
        Locations(config_file=parsed.config, state_dir=parsed.state_dir, cache_dir=parsed.cache_dir)
    )
    name, place = _name_and_place(site, places)
    paths = site.paths(name)
    holder = lock.present_holder(paths)
    if holder is not None:
        raise lock.busy(paths, holder)
    mountpoint.check_mountpoint(place, nonempty=parsed.nonempty, volume=name)
    config = site.volume_config(name)
    entry = site.registry.get(name)
    said = cache_size or session.environ.get("FUSEGW_CACHE_SIZE")
    files = SecretFiles(passphrase_file or parsed.passphrase_file, key_file or parsed.key_file)
    follow = follow or parsed.follow or config.follow
    if follow and entry.fixed_at is not None:
        raise Invalid(f"volume {name!r} is an older state, which stays as it is: mount it without follow")
    read_only = follow or read_only or parsed.read_only or config.read_only
    # A standby refuses changes by itself: the kernel could not be told of its promotion.
    mount_options = _mount_options(name, parsed, config, read_only=read_only and not follow)
    volume = VolumeSettings(
        volume=name,
        volume_number=entry.number,
        volume_id=bytes.fromhex(entry.volume_id),
        store=site.store_options(name),
        paths=paths,
        cache_dir=site.cache_dir,
        cache_size_bytes=_cache_size(parsed, said, site, config),
        mountpoint=Path(place),
        allow_other=mount_options.allow_other,
        read_only=read_only,
        follow=follow,
        tuning=config.tuning(),
        hooks=config.hooks(),
        unsafe_no_fencing=entry.unsafe_no_fencing,
        fixed_at=entry.fixed_at,
        secret=session.secrets.get(name) or present_secret(files, config, session.environ, volume=name),
    )
    settings = GatewaySettings(
        mountpoint=Path(place),
        volumes=(volume,),
        log_file=paths.log_file,
        options=mount_options,
    )
    body = _body(session, settings, nonempty=parsed.nonempty)
    debug = session.debug or parsed.debug
    if foreground:
        run_in_foreground(body, debug=debug)
    else:
        pid = run_in_background(body, log_file=settings.log_file, debug=debug)
        output.remark(f"volume {name} is mounted on {place} (pid {pid})")
        if unsent := paths.unsent_dirs():
            kept = ", ".join(map(str, unsent))
            output.warning(
                f"changes of this host that never reached the store are kept in {kept}; to write "
                f"their files out: fusegw salvage {name} DIRECTORY"
            )


@click.command("umount")
@click.argument("target", metavar="NAME|MOUNTPOINT", shell_complete=complete_volume)
@click.option("--lazy", is_flag=True, help="Detach now, even if files are in use, and do not wait.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for the gateway to end.")
@common_options
def umount(session: Session, target: str, lazy: bool, timeout: float) -> None:
    """Unmount a volume.

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
    begun = clock.monotonic()
    told = False

    def waiting(holder: Holder) -> None:
        nonlocal told
        if not told and clock.monotonic() - begun > WAIT_SILENT_S:
            told = True
            output.remark(f"waiting for the gateway (pid {holder.pid}) to make its data safe and end …")

    stop_volume(site.paths(name), lazy=lazy, timeout_s=timeout, clock=clock, on_wait=waiting)


def _name_and_place(site: Site, places: tuple[str, ...]) -> tuple[str, str]:
    if len(places) > 2:
        raise click.UsageError(f"expected [NAME] MOUNTPOINT, got {len(places)} arguments")
    name = site.volume(places[0] if len(places) == 2 else None)
    return name, mountpoint.canonical(Path(places[-1]))


def _cache_size(parsed: ParsedOptions, said: str | None, site: Site, config: VolumeConfig) -> int:
    """The budget in bytes: command line, environment, the volume's table, the gateway's, the default."""
    choices = (
        parsed.cache_size_bytes,
        parse_size(said) if said else None,
        config.cache_size_bytes,
        site.config.gateway.cache_size_bytes,
    )
    size = next((choice for choice in choices if choice is not None), CACHE_SIZE_BYTES)
    least = 2 * config.pack_size_bytes
    if size < least:
        raise Invalid(
            f"a cache of {output.size(size)} is too small: two packs must fit, each of "
            f"{output.size(config.pack_size_bytes)}; give --cache-size {least} or a smaller pack_size"
        )
    return size


def _mount_options(
    name: str, parsed: ParsedOptions, config: VolumeConfig, *, read_only: bool
) -> MountOptions:
    allow_other = parsed.allow_other if parsed.allow_other is not None else config.allow_other
    return MountOptions(
        # The superuser mounts for everybody; a user would first have to be allowed to by /etc/fuse.conf.
        allow_other=os.geteuid() == 0 if allow_other is None else allow_other,
        read_only=read_only,
        fsname=name,
        kernel_options=parsed.kernel_options,
    )


def _body(session: Session, settings: GatewaySettings, *, nonempty: bool) -> Body:
    return lambda on_ready: serve_gateway(settings, session.gateway, on_ready=on_ready, nonempty=nonempty)
