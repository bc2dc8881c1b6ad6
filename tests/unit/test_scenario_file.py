"""The scenario that runs through every binding: the file says what it must, and its table shows what was run."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tests.vm.scenario.results import Results
from tests.vm.scenario.story import BINDINGS, FAMILIES, Case, Step, check, is_like, scenario

VERBS = {
    *("vmid", "ismaster", "generation", "my_ip", "request_ticket", "clone", "list_tickets"),
    *("list_ticket_domains", "list", "stat", "sync", "join", "join_noreport", "join_wait"),
    *("kill", "kill_generation", "killall"),
}
CASES = pytest.mark.parametrize("case", scenario().cases, ids=lambda case: case.name)


def lines(step: Step) -> list[str]:
    found = [step.ask, step.tell, step.ends, *step.without_agent]
    return [re.sub(r"^(beside|cancel) ", "", line) for line in found if line]


def test_every_call_is_in_it() -> None:
    said = [
        line.split()[0] for case in scenario().cases for step in case.steps for line in lines(step)
    ]
    assert set(said) - {"on_signal"} == VERBS


def test_every_binding_is_in_it_and_each_case_has_a_name_of_its_own() -> None:
    for binding in BINDINGS:
        assert sum(binding in case.bindings for case in scenario().cases) >= 14, binding
    names = [case.name for case in scenario().cases]
    assert len(set(names)) == len(names)


@CASES
def test_what_a_case_speaks_of_is_there(case: Case) -> None:
    for binding in case.bindings:
        assert binding in BINDINGS
        known, machines = set[str](), {"caller"}
        for step in (step for step in case.steps if step.is_for(binding)):
            machines |= {step.where} if step.starts else set()
            assert step.where in machines
            known |= {*step.forks, step.keep}
            machines |= {*step.forks}
            shown = " ".join([*lines(step), step.says, str(step.value)])
            assert set(re.findall(r"\$(\w+)", shown)) <= known


@CASES
def test_every_answer_is_held_against_something(case: Case) -> None:
    for step in case.steps:
        if step.ask or step.hear:
            assert step.done or step.errno or step.keep or step.value is not None, step
        assert bool(step.says) == bool(step.errno) or step.errno == 4, step


def test_every_failure_has_a_kind_in_each_language_with_kinds() -> None:
    for errno, kinds in scenario().kinds.items():
        missing = {"python", "java", "node"} - kinds.keys()
        assert not missing or errno == 4  # that one is for who can be interrupted
    used = {step.errno for case in scenario().cases for step in case.steps} - {0}
    assert used == scenario().kinds.keys()
    assert set(FAMILIES.values()) < set(BINDINGS)


STEP = Step(ask="clone 0", errno=22, says="from 1 to")
WRONG = {"errno": 22, "kind": "BadArgument", "message": "clone: expected from 1 to 9"}


@pytest.mark.parametrize(
    "answer",
    [
        {"value": 0},
        {**WRONG, "errno": 16},
        {**WRONG, "kind": "NoRoom"},
        {**WRONG, "message": "no"},
    ],
)
def test_another_answer_is_none(answer: dict[str, object]) -> None:
    check(STEP, "python", WRONG, {})
    with pytest.raises(AssertionError):
        check(STEP, "python", answer, {})
    with pytest.raises(AssertionError):
        check(dataclasses.replace(STEP, errno=0, value=3), "python", answer, {})


def test_values_are_compared() -> None:
    assert is_like([{"a": 1}], [{"a": 1, "b": 2}])
    assert not is_like([{"a": 1}], [{"a": 1}, {"a": 2}])
    assert not is_like([{"a": 1}], [{"b": 1}])
    assert not is_like(0, False)
    assert not is_like(0, None)


def test_the_table_has_a_line_for_each_case() -> None:
    results = Results()
    first, second = scenario().cases[:2]
    results.put(first.name, "gc", passed=True)
    results.put(second.name, "java", passed=False)
    table = results.table().splitlines()
    assert table[0].split() == ["case", *BINDINGS]
    assert table[1].split() == [*first.name.split(), "ok"]
    assert table[2].split() == [*second.name.split(), "FAILED"]
