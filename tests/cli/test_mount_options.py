"""`-o` options and the arguments of mount(8)'s helper."""

from pathlib import Path

import pytest

from fusegw.cli.mount_options import ParsedOptions, mount_arguments, parse_options
from fusegw.errors import Invalid


def test_ours() -> None:
    parsed = parse_options(
        ["config=/c.toml,state_dir=/s,cache_dir=/d,passphrase_file=/p,cache_size=1G", "allow_other,nonempty"]
    )
    assert parsed == ParsedOptions(
        config=Path("/c.toml"),
        state_dir=Path("/s"),
        cache_dir=Path("/d"),
        passphrase_file=Path("/p"),
        cache_size_bytes=1 << 30,
        allow_other=True,
        nonempty=True,
    )


def test_what_fstab_may_hold_means_nothing_here() -> None:
    generic = (
        "rw,defaults,auto,noauto,user,user=joe,_netdev,nofail,relatime,x-systemd.automount,comment=x,users"
    )
    assert parse_options([generic, "", ","]) == ParsedOptions()


def test_for_the_kernel() -> None:
    assert parse_options(["nodev,noatime,nosuid,exec"]).kernel_options == (
        "nodev",
        "noatime",
        "nosuid",
        "exec",
    )


def test_the_last_of_two_counts() -> None:
    assert parse_options(["ro"]).read_only
    assert not parse_options(["ro,rw"]).read_only
    assert parse_options(["follow,noatime"]).follow and not parse_options(["ro"]).follow
    assert parse_options(["allow_other", "noallow_other"]).allow_other is False


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("cash_size=1G", "'cash_size' (did you mean 'cache_size='?)"),
        ("allow_others", "did you mean 'allow_other'?"),
        ("passphrase=hunter2", "unknown mount option 'passphrase'"),
        ("zzz", "fusegw's own: config=, "),
        ("remount", "unmount and mount again"),
        ("cache_size", "unknown mount option 'cache_size'"),
        ("cache_size=lots", "not a size"),
        ("config=", "needs a path"),
        ("a1=1,b2", "'a1'"),
        ("a1=1,b2", "'b2'"),
    ],
)
def test_unknown_options_are_named(option: str, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_options(["rw", option])
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tank", "/mnt", "-o", "rw,nodev"],
        ["tank", "/mnt", "-sn", "-orw,nodev"],
        ["-v", "-t", "fuse.fusegw", "fusegw#tank", "/mnt", "-o", "rw,nodev"],
    ],
)
def test_helper_arguments(arguments: list[str]) -> None:
    assert mount_arguments(arguments) == ["mount", "-orw,nodev", "--", "tank", "/mnt"]


def test_a_pretended_mount_does_nothing() -> None:
    assert mount_arguments(["tank", "/mnt", "-f", "-o", "rw"]) == []


@pytest.mark.parametrize(
    "arguments", [[], ["tank"], ["a", "/b", "/c"], ["a", "/b", "-x"], ["a", "/b", "-N", "1"]]
)
def test_helper_arguments_that_cannot_be(arguments: list[str]) -> None:
    with pytest.raises(Invalid):
        mount_arguments(arguments)
