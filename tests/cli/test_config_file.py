"""The configuration file: what is accepted, what a typo leads to, what its values mean."""

from pathlib import Path

import msgspec
import pytest

from fusegw.config import (
    Config,
    Tuning,
    VolumeConfig,
    VolumePaths,
    check_volume_name,
    load_config,
    parse_config,
)
from fusegw.cost import Prices
from fusegw.errors import Invalid
from fusegw.sizes import parse_size
from fusegw.store.options import StoreOptions

FILE = Path("/etc/fusegw/config.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512K", 512 << 10),
        ("10G", 10 << 30),
        ("10 GiB", 10 << 30),
        ("1.5t", 3 << 39),
        ("7b", 7),
        (" 2 MB ", 2 << 20),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "G", "-1", "1,5G", "10X", "1e3", "10 Gigs", "99999999999P", "٣", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid, match="size"):
        parse_size(text)


@pytest.mark.parametrize("name", ["a", "tank", "T-1_x.y", "0" * 64])
def test_volume_names(name: str) -> None:
    assert check_volume_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "ä", "a" * 65, "a\n", "_a", "a#b"])
def test_what_cannot_name_a_volume(name: str) -> None:
    with pytest.raises(Invalid, match="cannot name a volume"):
        check_volume_name(name)


def test_a_snapshot_schedule_is_text_or_a_table() -> None:
    for said in ('"keep daily 7, hourly 24"', '{ keep = "daily 7, hourly 24", stored = true }'):
        volume = parse_config(f"[volumes.tank]\nsnapshots = {said}", FILE).volume("tank")
        assert volume.snapshots is not None
        assert volume.snapshots.counts == {"hourly": 24, "daily": 7}
        assert volume.snapshots.stored == ("stored" in said)
    assert VolumeConfig().snapshots is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('"daily"', "volumes.tank.snapshots: 'daily' does not say"),
        ('{ keep = "daily 7", store = true }', "unknown key volumes.tank.snapshots.store .*'stored'"),
        ("{ stored = true }", "volumes.tank.snapshots: .*keep"),
        ("7", "volumes.tank.snapshots: expected a table"),
    ],
)
def test_what_is_no_snapshot_schedule(said: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        parse_config(f"[volumes.tank]\nsnapshots = {said}", FILE)


def test_prices_are_those_of_the_store_or_of_all() -> None:
    config = parse_config(
        """
        [prices]
        currency = "EUR"
        put_1000 = 0.01
        [volumes.tank.prices]
        name = "the shop next door"
        egress_gib = 0
        """,
        FILE,
    )
    assert config.prices == Prices(currency="EUR", put_1000=0.01)
    assert config.volume("tank").prices == Prices(name="the shop next door", egress_gib=0)
    assert config.volume("pond").prices is None
    assert [Prices().title, config.prices.title] == ["S3 Standard, us-east-1, list", "as configured"]


def test_everything_at_once() -> None:
    config = parse_config(
        """
        [gateway]
        state_dir = "/s"
        cache_dir = "/c"
        cache_size = "1G"
        [volumes.tank]
        store = "file:///data"
        passphrase_file = "tank.pass"
        cache_size = 5000000000
        allow_other = false
        pack_size = "16M"
        compression_level = 3
        high_watermark = 0.5
        [volumes.far.store]
        url = "s3://bucket/prefix"
        endpoint_url = "https://s3.example.org"
        ca_bundle = "ca.pem"
        """,
        FILE,
    )
    assert config.gateway.cache_size_bytes == 1 << 30
    tank = config.volume("tank")
    assert tank.store == StoreOptions(url="file:///data")
    assert tank.passphrase_file == "/etc/fusegw/tank.pass"
    assert tank.cache_size_bytes == 5 * 10**9
    assert tank.allow_other is False
    assert tank.tuning() == Tuning(pack_size_bytes=16 << 20, compression_level=3, high_watermark=0.5)
    far = config.volume("far").store
    assert far is not None and far.ca_bundle == "/etc/fusegw/ca.pem"
    assert config.volume("unheard of") == VolumeConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gatewy]", "unknown key gatewy (did you mean 'gateway'?)"),
        ("[gateway]\nstatedir = '/x'", "unknown key gateway.statedir (did you mean 'state_dir'?)"),
        ("[volumes.tank]\npack_sise = 1", "unknown key volumes.tank.pack_sise (did you mean 'pack_size'?)"),
        ("[volumes.tank]\nzzz = 1", "unknown key volumes.tank.zzz (known here: allow_other"),
        (
            "[volumes.tank.store]\nurl = 's3://b'\nendpoint = 'x'",
            "unknown key volumes.tank.store.endpoint (did you mean 'endpoint_url'?)",
        ),
        (
            "[volumes.tank]\npack_sise = 1\ncash_size = 2",
            "volumes.tank.cash_size (did you mean 'cache_size'?)",
        ),
        ("[gateway]\ncache_size = '10 apples'", "gateway.cache_size: '10 apples' is not a size"),
        ("[gateway]\ncache_size = 1.5", "gateway.cache_size"),
        ("[volumes.tank]\ncompression_level = 40", "volumes.tank.compression_level"),
        ("[volumes.tank]\npack_size = 1", "volumes.tank.pack_size"),
        ("[volumes.tank]\nread_only = 'yes'", "volumes.tank.read_only"),
        ("[volumes.tank]\nhigh_watermark = 0", "volumes.tank.high_watermark"),
        ("[volumes.tank.store]\nregion = 'x'", "missing required field `url`"),
        ("[volumes.tank.store]\nurl = 7", "volumes.tank.store.url"),
        ("[volumes.tank]\nstore = 7", "volumes.tank.store: expected a table"),
        ("volumes = 3", "volumes: expected a table"),
        ("[volumes]\ntank = 3", "volumes.tank: expected a table"),
        ("[volumes.'a/b']", "'a/b' cannot name a volume"),
        ("[volumes.tank]\non_stored = 'notify'", "volumes.tank.on_stored"),
        ("[volumes.tank]\non_stored = ['notify']", "volumes.tank.on_stored: expected the absolute path"),
        ("[volumes.tank]\non_stored_url = 'ftp://h/'", "volumes.tank.on_stored_url: expected http://HOST"),
        (
            "[volumes.tank]\non_stored_url = 'https://u:p@h/'",
            "volumes.tank.on_stored_url: expected http://HOST",
        ),
        ("[prices]\nput_100 = 1", "unknown key prices.put_100 (did you mean 'put_1000'?)"),
        ("[prices]\nput_1000 = '0.005'", "prices.put_1000"),
        ("[prices]\nget_1000 = -1", "prices.get_1000"),
        ("[prices]\negress_gib = inf", "prices.egress_gib"),
        ("[prices]\negress_gib = nan", "Expected `float` >= 0.0 - at `prices.egress_gib`"),
        ("[prices]\ncurrency = 'dollars'", "prices.currency"),
        ("[prices]\nstorage_days_min = 0.5", "prices.storage_days_min"),
        ("prices = 3", "prices: expected a table"),
        ("[volumes.tank.prices]\nput1000 = 1", "volumes.tank.prices.put1000 (did you mean 'put_1000'?)"),
        ("[volumes.tank.prices]\nput_1000 = -1", "volumes.tank.prices.put_1000"),
        ("[volumes.tank]\nprices = 'low'", "volumes.tank.prices: expected a table"),
        ("[gateway", "not valid TOML"),
    ],
)
def test_mistakes_are_named(text: str, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_config(text, FILE)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("/etc/fusegw/config.toml: ")


def test_an_unknown_key_would_otherwise_mean_the_default() -> None:
    """The control: without its check msgspec reads the same table and says nothing of the typo."""

    class Lenient(msgspec.Struct):
        pack_size: int = 1

    assert msgspec.convert({"pack_sise": 7}, Lenient) == Lenient()


def test_a_missing_file_is_an_error_only_when_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Invalid, match=r"no such configuration file.*--config"):
        load_config(tmp_path / "config.toml")
    monkeypatch.setattr("fusegw.config.CONFIG_FILE", tmp_path / "config.toml")
    assert load_config(None) == Config()

    (tmp_path / "config.toml").write_text("[gateway]\nstate_dir = 'here'\n")
    assert load_config(None).gateway.state_dir == str(tmp_path / "here")


def test_a_directory_or_binary_file_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Invalid, match="cannot be read"):
        load_config(tmp_path / "binary")


def test_where_state_lies() -> None:
    paths = VolumePaths(Path("/s"), "tank")
    assert paths.meta_dir == Path("/s/volumes/tank/meta")
    assert paths.lock_file == Path("/s/volumes/tank/lock")
    assert paths.socket_file == Path("/s/run/tank.sock")
    assert paths.log_file == Path("/s/log/tank.log")


def test_what_was_recorded_counts_where_the_file_says_nothing(tmp_path: Path) -> None:
    text = '[volumes.tank]\nread_ahead = "16M"\npassphrase_file = "/p"\n'
    config = parse_config(text, tmp_path / "config.toml")
    recorded = {"read_ahead": 0, "pack_size": 8 << 20, "cache_size": 1 << 30, "unheard of": 1}
    tank = config.volume("tank", recorded)
    assert tank.read_ahead_bytes == 16 << 20, "the file says so, though it is the default"
    assert (tank.pack_size_bytes, tank.cache_size_bytes) == (8 << 20, 1 << 30)
    assert tank.passphrase_file == "/p"
    assert config.volume("pond", recorded).read_ahead_bytes == 0
