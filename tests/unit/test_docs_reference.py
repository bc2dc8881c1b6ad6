"""Pages that are made from the code are what the code says now, and messages that are quoted exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from copper import openapi
from copper.cli import reference_errors
from copper.model import errors
from tests.unit.rules import files, text_of

# pages with tables of messages, whose first column is what Copper says
QUOTING = ["docs/how-to/trouble.md", "docs/how-to/images.md", "docs/how-to/ssh.md"]
# said by programs that Copper runs
NOT_OURS = {"No space left on device", "Failed to fetch …"}


def test_the_page_of_errors_is_not_stale() -> None:
    page = text_of(Path("docs/reference/errors.md"))
    command = "python -m copper.cli.reference_errors > docs/reference/errors.md"
    assert page == reference_errors.text(), command


def test_a_tree_that_draws_other_errors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = errors.__doc__ or ""
    monkeypatch.setattr(errors, "__doc__", drawn.replace("NoRoom ", "NoSpace"))
    with pytest.raises(ValueError, match="NoSpace"):
        reference_errors.text()
    monkeypatch.setattr(errors, "__doc__", re.sub(r"(NoRoom +)4", r"\g<1>5", drawn))
    with pytest.raises(ValueError, match="NoRoom"):
        reference_errors.text()


def quoted_messages(page: str) -> list[str]:
    """What the first columns of the tables headed `it says` quote."""
    tables = re.findall(r"^\| it says \|.*\n\|[ |-]+\n((?:\|.*\n?)+)", page, re.MULTILINE)
    return [
        quote for table in tables for quote in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    ]


def source_text() -> str:
    """All sources, with the pieces of a text that goes over several lines put together."""
    paths = files("src", "guest", suffixes=(".py", ".c", ".h"))
    return re.sub(r'"\s*\n?\s*f?"', "", "\n".join(text_of(path) for path in paths))


def unknown_messages(page: str, sources: str) -> list[str]:
    """Quoted messages of which a part, between the `…`, is nowhere in the sources."""
    return [
        quote
        for quote in quoted_messages(page)
        if quote not in NOT_OURS
        and not all(
            part.strip(" '\",;:)") in sources for part in re.split(r"…|bookworm| \(", quote)
        )
    ]


@pytest.mark.parametrize("path", QUOTING)
def test_every_message_that_a_page_explains_exists(path: str) -> None:
    page = text_of(Path(path))
    assert quoted_messages(page)
    assert not unknown_messages(page, source_text())


def test_a_message_that_does_not_exist_is_found() -> None:
    page = "| it says | do |\n| --- | --- |\n| `no … of bread` | bake |\n| `no loaf` | wait |\n"
    assert quoted_messages(page) == ["no … of bread", "no loaf"]
    assert unknown_messages(page, "f'no {kind} of bread'") == ["no loaf"]


def test_the_page_of_routes_is_what_the_api_describes() -> None:
    assert openapi.PAGE.read_text() == openapi.page_of(openapi.FILE.read_text()), (
        "run python -m copper.openapi"
    )
