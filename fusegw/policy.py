"""The part of the configuration that travels in the volume: how it is served; not where, and no secret.

`policy_of` gives the values a gateway runs with, under the names they have in `[volumes.NAME]`, and
`store_policy_of` those in `[volumes.NAME.store]`; `chosen` and `with_store_policy` are the way back.
"""

from collections.abc import Mapping

import msgspec

from fusegw.config import CACHE_SIZE_BYTES, Tuning, VolumeConfig, VolumeSettings
from fusegw.store.options import StoreOptions

STORE_POLICY = ("sse", "kms_key_id", "storage_class")
"""Options of a store that say how objects are written."""

Value = bool | int | float | str


def policy_of(settings: VolumeSettings) -> dict[str, Value]:
    """How this gateway serves its volume."""
    tuning: dict[str, Value] = msgspec.to_builtins(settings.tuning)
    return tuning | {
        "cache_size": settings.cache_size_bytes,
        "allow_other": settings.allow_other,
    }


def store_policy_of(store: StoreOptions) -> dict[str, Value]:
    """How this gateway writes objects; only what was chosen."""
    return {name: value for name in STORE_POLICY if (value := getattr(store, name))}


def with_store_policy(store: StoreOptions, policy: Mapping[str, Value]) -> StoreOptions:
    """`store` with what `policy` says where `store` itself says nothing. msgspec.ValidationError."""
    missing = {name: policy[name] for name in STORE_POLICY if name in policy and not getattr(store, name)}
    return msgspec.convert(msgspec.structs.asdict(store) | missing, StoreOptions)


def chosen(policy: Mapping[str, Value], *, superuser: bool) -> dict[str, Value]:
    """What of `policy` differs from the defaults; without names and values that this version does not know or
    allow. On `superuser`, who is going to mount it, the default of allow_other depends.
    """
    default = msgspec.to_builtins(Tuning()) | {"cache_size": CACHE_SIZE_BYTES, "allow_other": superuser}
    return {
        key: policy[key]
        for key, usual in default.items()
        if policy.get(key, usual) != usual and _is_allowed(key, policy[key])
    }


def _is_allowed(key: str, value: Value) -> bool:
    try:
        msgspec.convert({key: value}, VolumeConfig)
    except msgspec.ValidationError:
        return False
    return True
