"""Runs in this process without a page."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes longer than all the rest, and is not what these tests are about."""
    monkeypatch.setattr("tapir.report.page.write_report", lambda *_: None)
