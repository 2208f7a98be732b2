"""The documents agree with the code where a machine can tell: codes, keys, fields, links, file names."""

import re
from pathlib import Path

import fusegw.errors
from fusegw.cli.main import EXIT_INTERRUPTED, EXIT_UNEXPECTED
from fusegw.config import GatewayConfig, VolumeConfig
from fusegw.control.protocol import StatusReply, TrafficReply
from fusegw.cost import Prices
from fusegw.errors import FusegwError
from fusegw.metering import Period
from fusegw.store.counting import Traffic
from fusegw.store.options import StoreOptions

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def documented_codes(text: str) -> list[int]:
    """The first column of the table of exit codes."""
    table = text.split("## Exit codes", 1)[1]
    return [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]


def anchors(text: str) -> set[str]:
    """The link targets that the headings of a document make."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path, text: str) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (anchor and anchor not in anchors(text if not name else file.read_text())):
            broken.append(target)
    return broken


def test_every_exit_code_is_in_the_table() -> None:
    classes = [kind for kind in vars(fusegw.errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in classes if issubclass(kind, FusegwError)}
    assert documented_codes(OPERATIONS) == sorted(codes | {0, 2, EXIT_UNEXPECTED, EXIT_INTERRUPTED})


def test_every_configuration_key_is_described() -> None:
    for kind in (GatewayConfig, VolumeConfig, StoreOptions, Prices):
        keys = kind.__struct_encode_fields__
        assert [key for key in keys if f"`{key}`" not in OPERATIONS] == []


def test_every_status_field_is_described() -> None:
    kinds = (StatusReply, TrafficReply, Period, Traffic)
    fields = [field for kind in kinds for field in kind.__struct_encode_fields__]
    assert [field for field in fields if f"`{field}`" not in OPERATIONS] == []


def test_links_between_documents_lead_somewhere() -> None:
    assert [(d.name, link) for d in DOCUMENTS for link in broken_links(d, d.read_text())] == []


def test_a_broken_link_is_seen() -> None:
    text = "# One\n[a](#one) [b](#two) [c](nowhere.md)"
    assert broken_links(ROOT / "README.md", text) == ["#two", "nowhere.md"]


def test_source_files_named_in_the_documents_exist() -> None:
    pattern = re.compile(r"`((?:fusegw|cache|exports|scripts|packaging|docker)/[\w./@-]*)`")
    missing = []
    for document in DOCUMENTS:
        for name in pattern.findall(document.read_text()):
            if not (ROOT / name).exists():
                missing.append(f"{document.name}: {name}")
    assert missing == []
