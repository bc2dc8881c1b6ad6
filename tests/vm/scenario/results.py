"""What became of each case with each binding, as a table."""

from __future__ import annotations

from tests.vm.scenario.story import BINDINGS, scenario

LEGEND = "ok: as the contract says; -: not for this binding; FAILED; blank: not run"


class Results:
    """Filled by the tests, shown at their end."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}

    def put(self, case: str, binding: str, *, passed: bool) -> None:
        self._cells[case, binding] = "ok" if passed else "FAILED"

    def table(self) -> str:
        """Cases down, bindings across."""
        rows = [["case", *BINDINGS]]
        for case in scenario().cases:
            cells = (
                self._cells.get((case.name, binding), "") if binding in case.bindings else "-"
                for binding in BINDINGS
            )
            rows.append([case.name, *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join([*lines, "", LEGEND]) + "\n"
