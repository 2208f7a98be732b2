"""The configuration that travels in the volume: what goes in, and what comes out."""

from pathlib import Path

from fusegw.config import CACHE_SIZE_BYTES, Config, Tuning, VolumePaths, VolumeSettings
from fusegw.keys.secret import Secret
from fusegw.policy import chosen, policy_of, store_policy_of, with_store_policy
from fusegw.store.options import StoreOptions

STORE = StoreOptions(
    url="s3://bucket/x",
    endpoint_url="https://s3.example.org",
    profile="backup",
    ca_bundle="/etc/ca.pem",
    sse="aws:kms",
    kms_key_id="arn:key",
)


def settings(tuning: Tuning = Tuning(), *, cache_size_bytes: int = CACHE_SIZE_BYTES) -> VolumeSettings:
    return VolumeSettings(
        volume="tank",
        volume_number=3,
        volume_id=bytes(16),
        store=STORE,
        secret=Secret.passphrase("not to be told"),
        paths=VolumePaths(Path("/state"), "tank"),
        cache_dir=Path("/cache"),
        cache_size_bytes=cache_size_bytes,
        mountpoint=Path("/srv/tank"),
        allow_other=True,
        tuning=tuning,
    )


def test_every_number_that_tunes_is_in_it_under_its_name_in_the_file() -> None:
    policy = policy_of(settings())
    assert set(policy) == {*Tuning.__struct_encode_fields__, "cache_size", "allow_other"}


def test_nothing_that_leads_to_a_secret_or_a_store_is_in_it() -> None:
    said = repr(policy_of(settings())) + repr(store_policy_of(STORE))
    assert [
        word
        for word in ("not to be told", "bucket", "example.org", "backup", "ca.pem", "passphrase", "key_file")
        if word in said
    ] == []
    assert store_policy_of(STORE) == {"sse": "aws:kms", "kms_key_id": "arn:key"}


def test_it_configures_the_same_gateway_elsewhere() -> None:
    tuning = Tuning(pack_size_bytes=8 << 20, ship_interval_s=2.5, codec_threads=3)
    policy = policy_of(settings(tuning, cache_size_bytes=3 << 30))
    config = Config().volume("tank", chosen(policy, superuser=False))
    assert config.tuning() == tuning
    assert config.cache_size_bytes == 3 << 30 and config.allow_other is True


def test_what_every_gateway_does_was_not_chosen() -> None:
    assert chosen(policy_of(settings()), superuser=True) == {}
    assert chosen(policy_of(settings()), superuser=False) == {"allow_other": True}


def test_what_this_version_does_not_know_or_allow_is_left_out() -> None:
    policy = {"hue": 3, "pack_size": 1, "codec_threads": "many", "read_ahead": 0, "passphrase_file": "/x"}
    assert chosen(policy, superuser=True) == {"read_ahead": 0}


def test_a_store_keeps_what_was_said_and_gets_what_was_not() -> None:
    policy = {"sse": "AES256", "storage_class": "STANDARD_IA", "url": "s3://elsewhere"}
    given = StoreOptions(url="s3://bucket/x", storage_class="GLACIER_IR")
    merged = with_store_policy(given, policy)
    assert merged == StoreOptions(url="s3://bucket/x", storage_class="GLACIER_IR", sse="AES256")
