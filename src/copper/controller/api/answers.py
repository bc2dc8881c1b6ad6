"""How routes say what they may answer: problems by their errors, and what every route has in common."""

from __future__ import annotations

from typing import Any

from copper.model.api import Problem
from copper.model.errors import CopperError
from copper.model.operations import Operation

Answers = dict[int | str, dict[str, Any]]

LATER: Answers = {
    202: {"model": Operation, "description": "With Prefer: respond-async, the operation that began"}
}


def problems(*errors: type[CopperError]) -> Answers:
    """The problems that a route answers with, beside those that all do."""
    return {
        error.http_status: {"model": Problem, "description": error.code.replace("-", " ")}
        for error in errors
    }
