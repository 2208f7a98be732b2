"""What a gateway runs with, from command line, environment, configuration and registry: for one volume alone,
or for all volumes of a unified mount.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fusegw.cli import output
from fusegw.cli.mount_options import ParsedOptions
from fusegw.cli.secret_source import SecretFiles, member_secrets, present_secret
from fusegw.cli.session import Session, Site
from fusegw.clock import SystemClock
from fusegw.config import (
    CACHE_SIZE_BYTES,
    UNIFIED_SOURCE,
    GatewaySettings,
    MissingVolume,
    MountOptions,
    VolumeConfig,
    VolumeSettings,
)
from fusegw.daemon import lock, mountpoint
from fusegw.daemon.service import lasting_holder
from fusegw.errors import FusegwError, Invalid, NotFound
from fusegw.keys.secret import Secret


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What command line and environment say about a mount; None where they say nothing."""

    options: ParsedOptions
    read_only: bool
    follow: bool
    cache_size_bytes: int | None
    files: SecretFiles


def alone(site: Site, name: str, place: Path, said: Said, session: Session) -> GatewaySettings:
    """Volume `name` at the root of the mount. Busy, Invalid, NotFound, Denied."""
    paths = site.paths(name)
    holder = _lasting_holder(site, name)
    if holder is not None:
        raise lock.busy(paths, holder)
    _check_mountpoint(site, [name], place, said, source=name)
    config = site.volume_config(name)
    fixed = site.registry.get(name).fixed_at is not None
    if fixed and (said.follow or config.follow):
        raise Invalid(f"volume {name!r} is an older state, which stays as it is: mount it without follow")
    options = _mount_options([config], said, source=name)
    size = _cache_size(said, site, config)
    secret = session.secrets.get(name) or present_secret(said.files, config, session.environ, volume=name)
    volume = _volume(site, name, config, said, place, size, secret, options)
    return GatewaySettings(
        mountpoint=place,
        volumes=(volume,),
        log_file=paths.log_file,
        options=_refusing(options, (volume,)),
        servers=site.config.servers,
        shares=site.config.shares,
    )


def together(site: Site, place: Path, said: Said, session: Session) -> GatewaySettings:
    """All volumes but those that opted out, as directories of the mount. Busy, Invalid, NotFound, Denied."""
    configs = _members(site)
    holders = {name: _lasting_holder(site, name) for name in configs}
    if all(holders.values()):
        first = next(iter(configs))
        raise lock.busy(site.paths(first), holders[first])
    _check_mountpoint(site, list(configs), place, said, source=UNIFIED_SOURCE)
    options = _mount_options(list(configs.values()), said, source=UNIFIED_SOURCE)
    sizes = _shares(said, site, configs)
    secrets = member_secrets(said.files, configs, session.environ)
    missing = {name: found for name, found in secrets.items() if isinstance(found, FusegwError)}
    if len(missing) == len(configs):
        raise next(iter(missing.values()))
    volumes = tuple(
        _volume(site, name, configs[name], said, place / name, sizes[name], found, options)
        for name, found in secrets.items()
        if isinstance(found, Secret)
    )
    return GatewaySettings(
        mountpoint=place,
        volumes=volumes,
        log_file=volumes[0].paths.unified_log_file,
        options=_refusing(options, volumes),
        unified=True,
        missing=tuple(MissingVolume(site.paths(name), error) for name, error in missing.items()),
        servers=site.config.servers,
        shares=site.config.shares,
    )


def _lasting_holder(site: Site, name: str) -> lock.Holder | None:
    clock = SystemClock()
    waiting = output.patience(clock)
    return lasting_holder(
        site.paths(name),
        clock=clock,
        on_wait=lambda holder: waiting(f"waiting for {holder} to make its data safe and end …"),
    )


def cache_shares(
    budget_bytes: int, configs: Mapping[str, VolumeConfig], *, binding: bool = False
) -> dict[str, int]:
    """Bytes of cache for each volume: what its own table says; the others share the rest of the budget
    equally. Each can hold two packs, or Invalid says what to raise. `binding`: own tables keep to the budget,
    too.
    """
    own = {name: size for name, config in configs.items() if (size := config.cache_size_bytes) is not None}
    sharing = [name for name in configs if name not in own]
    for name, size in own.items():
        least = 2 * configs[name].pack_size_bytes
        if size < least:
            raise Invalid(
                f"[volumes.{name}]: a cache_size of {output.size(size)} is too small: two packs must fit, "
                f"each of {output.size(configs[name].pack_size_bytes)}; give {least} or a smaller pack_size"
            )
    if sharing:
        least = 2 * max(configs[name].pack_size_bytes for name in sharing)
        needed = sum(own.values()) + least * len(sharing)
        if budget_bytes < needed:
            raise Invalid(
                f"a cache of {output.size(budget_bytes)} is too small for {len(configs)} volumes "
                f"({output.size(sum(own.values()))} of it are given away by their tables): two packs of each "
                f"must fit; raise cache_size of [gateway], or --cache-size, to {needed}"
            )
    elif binding and budget_bytes < sum(own.values()):
        raise Invalid(
            f"a cache of {output.size(budget_bytes)} is less than the configuration gives to its volumes; "
            f"give --cache-size {sum(own.values())}, or lower cache_size in their tables"
        )
    share = (budget_bytes - sum(own.values())) // max(1, len(sharing))
    return {name: own.get(name, share) for name in configs}


def _check_mountpoint(site: Site, names: list[str], place: Path, said: Said, *, source: str) -> None:
    """What these volumes left dead there, alone or with others, is going to be cleared."""
    own = {source}
    for name in names:
        last = lock.last_holder(site.paths(name))
        if last is not None and last.mountpoint == str(place):
            own.add(last.source(name))
    mountpoint.check_mountpoint(str(place), nonempty=said.options.nonempty, own=own)


def _members(site: Site) -> dict[str, VolumeConfig]:
    known = site.registry.volumes()
    if not known:
        raise NotFound(f"no volume in state directory {site.state_dir}; create one with fusegw init")
    configs = {name: site.volume_config(name) for name in known}
    members = {name: config for name, config in configs.items() if config.in_unified_mount}
    if not members:
        raise Invalid(
            f"no volume wants to be in the unified mount ({', '.join(known)} have in_unified_mount = false): "
            "name the one to mount"
        )
    return members


def _volume(
    site: Site,
    name: str,
    config: VolumeConfig,
    said: Said,
    place: Path,
    cache_size_bytes: int,
    secret: Secret,
    options: MountOptions,
) -> VolumeSettings:
    entry = site.registry.get(name)
    # Older states do not change, so of all volumes those that can follow do.
    follow = (said.follow or config.follow) and entry.fixed_at is None
    return VolumeSettings(
        volume=name,
        volume_number=entry.number,
        volume_id=bytes.fromhex(entry.volume_id),
        store=site.store_options(name),
        paths=site.paths(name),
        cache_dir=site.cache_dir,
        cache_size_bytes=cache_size_bytes,
        mountpoint=place,
        allow_other=options.allow_other,
        read_only=follow or said.read_only or config.read_only,
        follow=follow,
        snapshots_visible=config.snapshots_visible,
        tuning=config.tuning(),
        hooks=config.hooks(),
        snapshots=config.snapshots,
        unsafe_no_fencing=entry.unsafe_no_fencing,
        fixed_at=entry.fixed_at,
        secret=secret,
    )


def _mount_options(configs: list[VolumeConfig], said: Said, *, source: str) -> MountOptions:
    """One volume that keeps others out keeps them out of the whole mount."""
    allow_other = said.options.allow_other
    wishes = {config.allow_other for config in configs} - {None}
    if allow_other is None and wishes:
        allow_other = wishes == {True}
    return MountOptions(
        # The superuser mounts for everybody; a user would first have to be allowed to by /etc/fuse.conf.
        allow_other=os.geteuid() == 0 if allow_other is None else allow_other,
        fsname=source,
        kernel_options=said.options.kernel_options,
    )


def _refusing(options: MountOptions, volumes: tuple[VolumeSettings, ...]) -> MountOptions:
    """The kernel refuses changes where no volume will ever take them. A standby refuses them by itself: the
    kernel could not be told of its promotion.
    """
    read_only = all(volume.read_only and not volume.follow for volume in volumes)
    return msgspec.structs.replace(options, read_only=read_only)


def _cache_size(said: Said, site: Site, config: VolumeConfig) -> int:
    """The budget in bytes: command line, environment, the volume's table, the gateway's, the default."""
    choices = (said.cache_size_bytes, config.cache_size_bytes, site.config.gateway.cache_size_bytes)
    size = next((choice for choice in choices if choice is not None), CACHE_SIZE_BYTES)
    least = 2 * config.pack_size_bytes
    if size < least:
        raise Invalid(
            f"a cache of {output.size(size)} is too small: two packs must fit, each of "
            f"{output.size(config.pack_size_bytes)}; give --cache-size {least} or a smaller pack_size"
        )
    return size


def _shares(said: Said, site: Site, configs: Mapping[str, VolumeConfig]) -> dict[str, int]:
    """What command line or environment say is the budget of the whole mount, else `[gateway]`'s."""
    if said.cache_size_bytes is not None:
        return cache_shares(said.cache_size_bytes, configs, binding=True)
    return cache_shares(site.config.gateway.cache_size_bytes or CACHE_SIZE_BYTES, configs)
