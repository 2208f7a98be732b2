"""The host that tests of the commands work on; whatever they started ends with them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.hosts import ROOT, Host

_HARDENING = [file.stem for file in (ROOT / "fusegw" / "cli").glob("*.py") if "harden()" in file.read_text()]
"""Commands that take from their process what debuggers need."""


@pytest.fixture
def host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Host]:
    def capture() -> tuple[str, str]:
        out, err = capsys.readouterr()
        return out, err

    one = Host(tmp_path, capture)
    for name in [name for name in os.environ if name.startswith("FUSEGW_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name, value in one.environment().items():
        if name.startswith("FUSEGW_"):
            monkeypatch.setenv(name, value)
    # The process that runs the tests must stay debuggable and keep its limits.
    for module in _HARDENING:
        monkeypatch.setattr(f"fusegw.cli.{module}.harden", lambda: None)
    yield one
    one.end_all()
