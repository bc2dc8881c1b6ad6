"""The scenario as data: cases and their steps, and whether an answer is what a step expects."""

from __future__ import annotations

import dataclasses
import errno as errnos
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

# gc is the command in a shell; the others are the libraries, each in the ways that its language has. Java comes last:
# an idle JVM ticks in every clone that is made beside it.
BINDINGS = ("gc", "c", "python", "aio", "node", "node-callbacks", "java")
FAMILIES = {"aio": "python", "node-callbacks": "node"}
FILE = Path(__file__).with_name("scenario.toml")

Answer = dict[str, Any]
Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that is done, and what must come of it. `$NAME` in a text is what was kept by that name."""

    where: str = (
        "caller"  # whose driver: the caller's, or one of those that a fork made (`in` in the file)
    )
    # what is done
    ask: str = ""  # a line for the driver; its answer is awaited
    tell: str = ""  # a line for the driver; the answer comes later
    hear: bool = False  # awaits an answer
    ends: str = ""  # a line that ends the machine
    powers_off: bool = False  # the machine ends without a word
    sh: str = ""  # a shell's command, as root; it must succeed
    signal: str = ""  # sent to the driver: so often, or with `hear` until it answers
    times: int = 1
    starts: str = ""  # starts another driver of this binding, as this user
    stops: bool = False  # ends such a driver
    without_agent: tuple[str, ...] = ()  # lines that drivers are given while no agent runs
    host: str = ""  # done on the host
    # what must come of it
    value: Any = None  # of an object the members that are given
    done: bool = False  # there is no value
    errno: int = 0
    says: str = ""  # a pattern that the failure's message has
    kinds: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # in place of the file's
    beats: int = 0  # so often something else went on meanwhile, at least
    # what is kept
    keep: str = ""  # the value
    forks: tuple[
        str, ...
    ] = ()  # machines that it made, their drivers with this answer to come; and their vmids
    only: tuple[str, ...] = ()  # these bindings alone do it

    def is_for(self, binding: str) -> bool:
        return not self.only or binding in self.only


@dataclasses.dataclass(frozen=True)
class Case:
    """Steps that show one thing."""

    name: str
    steps: tuple[Step, ...]
    bindings: tuple[str, ...] = BINDINGS
    together: bool = False  # each step is done by all bindings before the next one, in one machine


@dataclasses.dataclass(frozen=True)
class Scenario:
    """The file."""

    cases: tuple[Case, ...]
    kinds: dict[int, dict[str, list[str]]]


@cache
def scenario() -> Scenario:
    """What scenario.toml has. Raises TypeError for what it cannot have."""
    table = tomllib.loads(FILE.read_text())
    cases = []
    for case in table.pop("case"):
        steps = []
        for step in case.pop("steps"):
            where = step.pop("in", "caller")
            for lists in step.keys() & {"forks", "only", "without_agent"}:
                step[lists] = tuple(step[lists])
            steps.append(Step(where, **step))
        if "bindings" in case:
            case["bindings"] = tuple(case["bindings"])
        cases.append(Case(steps=tuple(steps), **case))
    kinds = {int(errno): kind for errno, kind in table.pop("kinds").items()}
    assert not table, table
    return Scenario(tuple(cases), kinds)


def filled(value: Any, variables: Variables) -> Any:
    """A line or an expected value with what was kept in place of `$NAME`."""
    if isinstance(value, dict):
        return {key: filled(member, variables) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith("$") and value[1:] in variables:
        return variables[value[1:]]
    return re.sub(r"\$(\w+)", lambda found: str(variables[found[1]]), value)


def check(step: Step, binding: str, answer: Answer, variables: Variables) -> None:
    """Raises AssertionError where an answer is not what the step expects."""
    said = f"{binding}: {step.ask or step.tell or 'the call'} in {step.where}: {answer}"
    if step.errno:
        assert answer.get("errno") == step.errno, said
        assert re.search(filled(step.says, variables), answer["message"]), said
        _check_kind(step, binding, answer, said)
    else:
        assert "value" in answer, said
        if step.done:
            assert answer["value"] is None, said
        elif step.value is not None:
            expected = filled(step.value, variables)
            assert is_like(expected, answer["value"]), f"{said}; expected {expected}"
    assert answer.get("beats", 0) >= step.beats, said


def _check_kind(step: Step, binding: str, answer: Answer, said: str) -> None:
    family = FAMILIES.get(binding, binding)
    kinds = scenario().kinds[step.errno] | step.kinds
    assert answer.get("kind") in kinds.get(family, [None]), said
    if family == "node":
        assert answer["code"] == errnos.errorcode[step.errno], said


def is_like(expected: Any, value: Any) -> bool:
    """Whether a value is the expected one; an object may have more members."""
    if isinstance(expected, dict) and isinstance(value, dict):
        return all(key in value and is_like(member, value[key]) for key, member in expected.items())
    if isinstance(expected, list) and isinstance(value, list):
        return len(expected) == len(value) and all(map(is_like, expected, value))
    return bool(expected == value and type(expected) is type(value))
