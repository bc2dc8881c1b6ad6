"""The page about the commands says what the commands say."""

from __future__ import annotations

from pathlib import Path

from copper.cli.reference import text
from tests.unit.rules import text_of


def test_the_page_is_not_stale() -> None:
    page = text_of(Path("docs/reference/cli.md"))
    assert page == text(), "python -m copper.cli.reference > docs/reference/cli.md"
