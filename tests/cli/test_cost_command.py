"""`fusegw status --cost`: over a running stand-in, from what was saved, for several volumes, and refused."""

import msgspec
import pytest

from fusegw.cli import output
from fusegw.metering import Period, Totals
from fusegw.store.counting import Traffic
from tests.cli.hosts import Done, Host

SAVED = Totals(
    saved_unix_s=86400.0,
    period=Period(
        since_unix_s=0.0,
        traffic=Traffic(put_requests=12_345, list_requests=5, failed_requests=67, sent_bytes=5 << 30),
        ingested_bytes=2 << 40,
    ),
)


@pytest.fixture
def tank(host: Host) -> Host:
    assert host.init().code == 0
    return host


def save(host: Host, totals: Totals = SAVED, name: str = "tank") -> None:
    host.paths(name).traffic_file.parent.mkdir(parents=True, exist_ok=True)
    host.paths(name).traffic_file.write_bytes(msgspec.json.encode(totals))


def rows(done: Done) -> dict[str, list[str]]:
    """Columns of each line, by the first of them."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in done.out.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells}


def test_of_a_mounted_volume(tank: Host) -> None:
    assert tank.spawn("mount", "tank", tank.mountpoint).code == 0
    done = tank.run("status", "--cost")
    assert done.code == 0, done
    shown = rows(done)
    assert shown["since"] == ["1970-01-02 00:00:00Z", "1970-01-01 00:00:00Z"]
    assert shown["backed up"] == ["512.0 MiB", "4.0 GiB", "1.0 TiB"]
    assert shown["PUT"] == ["2,000", "4,000", "1,024,000"]
    assert shown["GET"] == ["1,000", "2,000", "512,000"]
    assert shown["sent"] == ["1.0 GiB", "2.0 GiB", "512.0 GiB"]
    assert shown["received"] == ["2.0 GiB", "4.0 GiB", "1.0 TiB"]
    assert shown["requests cost"] == ["0.0104 USD", "0.0208 USD", "5.32 USD"]
    assert shown["egress costs"] == ["0.1800 USD", "0.3600 USD", "92.16 USD"]
    assert shown["what was sent, a month"] == ["11.78 USD"]
    assert shown["prices"][0].startswith("S3 Standard, us-east-1, list; yours go into [prices]")
    assert "as if it were S3" in done.out
    assert "mounted" not in shown and "of them failed" not in shown
    document = tank.run("status", "tank", "--cost", "--json").json()
    assert document["mounted"] is True and document["saved_unix_s"] is None
    now = document["since_mount"]
    assert isinstance(now, dict)
    assert (now["ingested_bytes"], now["traffic"]["put_requests"]) == (512 << 20, 2000)
    assert now["costs"] == {"requests": pytest.approx(0.0104), "egress": pytest.approx(0.18)}
    part = document["per_tib"]
    assert isinstance(part, dict) and part["put_requests"] == 1_024_000


def test_of_a_volume_that_is_not_mounted(tank: Host) -> None:
    save(tank)
    done = tank.run("status", "--cost")
    assert done.code == 0, done
    shown = rows(done)
    assert shown["mounted"] == ["no; the totals are of 1970-01-02 00:00:00Z"]
    assert shown["PUT"] == ["12,345", "6,172"]
    assert shown["of them failed"] == ["67"]
    assert "not known: there is no metadata index" in shown["packs"][0]
    assert "since the mount" not in done.out
    document = tank.run("status", "--cost", "--json").json()
    assert [document[name] for name in ("mounted", "since_mount", "stored_bytes")] == [False, None, None]


def test_before_anything_was_counted(tank: Host) -> None:
    done = tank.run("status", "--cost")
    assert done.code == 0 and "none were counted on this host yet" in done.out
    document = tank.run("status", "--cost", "--json").json()
    assert [document[name] for name in ("total", "per_tib", "stored_bytes", "storage_month")] == [None] * 4


def test_too_little_is_not_scaled_up(tank: Host) -> None:
    period = Period(since_unix_s=0.0, traffic=Traffic(put_requests=7), ingested_bytes=3 << 20)
    save(tank, Totals(saved_unix_s=0.0, period=period))
    shown = rows(tank.run("status", "--cost"))
    assert shown["PUT"] == ["7", "n/a"]
    assert shown["per TiB"] == ["n/a before 1.0 GiB was backed up, 3.0 MiB so far"]
    assert tank.run("status", "--cost", "--json").json()["per_tib"] is None


def test_prices_are_the_operators(tank: Host) -> None:
    save(tank)
    tank.config('[prices]\ncurrency = "EUR"\nput_1000 = 2\nstorage_days_min = 30\n')
    done = tank.run("status", "--cost")
    shown = rows(done)
    assert shown["requests cost"] == ["24.70 EUR", "12.35 EUR"]
    assert shown["prices"][0].startswith("as configured;")
    assert shown["not included"] == ["what is deleted within 30 days is charged for 30 days"]
    tank.config('[prices]\nput_1000 = 2\n[volumes.tank.prices]\nname = "own\\u001b[2J"\nput_1000 = 0\n')
    done = tank.run("status", "--cost")
    assert rows(done)["requests cost"] == ["0.00 USD", "0.00 USD"]
    assert "\x1b" not in done.out and r"own\x1b[2J" in done.out
    tank.config("[prices]\nputs = 2\n")
    done = tank.run("status", "--cost")
    assert done.code == 3 and "unknown key prices.puts" in done.err, done


def test_several_volumes(tank: Host) -> None:
    assert tank.init("pond").code == 0
    save(tank)
    save(tank, name="pond")
    done = tank.run("status", "--cost")
    assert done.code == 0 and "volume tank" in done.out and "volume pond" in done.out
    documents = tank.run("status", "--cost", "--json").json()["volumes"]
    assert isinstance(documents, list) and [one["volume"] for one in documents] == ["tank", "pond"]


def test_a_damaged_file_is_named(tank: Host) -> None:
    save(tank)
    tank.paths().traffic_file.write_text("{")
    done = tank.run("status", "--cost")
    assert done.code == 11 and done.out == "" and done.err.count("\n") == 1
    assert "traffic.json is damaged" in done.err and "remove it" in done.err


def test_the_other_status_stays_as_it_is(tank: Host) -> None:
    save(tank)
    assert "requests" not in tank.run("status").out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00 USD"),
        (0.00041, "0.0004 USD"),
        (0.99999, "1.0000 USD"),
        (1, "1.00 USD"),
        (1234.567, "1,234.57 USD"),
    ],
)
def test_money_for_people(value: float, text: str) -> None:
    assert output.money(value, "USD") == text
