"""The guest API in real machines: one scenario, through the command gc and every binding.

`pytest tests/vm/test_scenario.py --scenario-table FILE` writes the table that is shown at the end.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from copper.model.errors import CopperError
from tests.vm.machinery import Copper, a_copper
from tests.vm.scenario import seats
from tests.vm.scenario.results import Results
from tests.vm.scenario.seats import Seat
from tests.vm.scenario.story import BINDINGS, Case, Step, Variables, check, filled, scenario

pytestmark = pytest.mark.timeout(1800)  # the first one builds the image
CLUSTER = "s"
ALONE = [case for case in scenario().cases if not case.together]
TOGETHER = [case for case in scenario().cases if case.together]
AS_IT_WAS = """
gc killall
chmod og-rw /run/gridcentric/agent.sock
find /etc/gridcentric -type f -delete
"""


class Stage:
    """A machine with a driver of each binding, which are started when they are needed."""

    def __init__(self, copper: Copper, master: str) -> None:
        self.copper = copper
        self.master = master
        self._known = {master}
        self._seats: dict[str, Seat] = {}

    def seat(self, binding: str) -> Seat:
        if binding not in self._seats:
            self._seats[binding] = seats.started(self.copper, self.master, binding)
        return self._seats[binding]

    def made(self) -> list[str]:
        """The machines that were made since it was asked last, by vmid."""
        vms = sorted(self.copper.client.vms(CLUSTER), key=lambda vm: vm.vmid)
        new = [vm.name for vm in vms if vm.name not in self._known]
        self._known.update(new)
        return new

    def clean(self) -> None:
        """For the next case: no clone is left, and all is as it was in the master."""
        self.copper.sh(self.master, AS_IT_WAS)
        self.made()

    def dismiss(self, binding: str) -> None:
        """Ends a driver that did not do what it should, and shows what the daemon said."""
        print(self.copper.log.read_text()[-3000:])
        if binding in self._seats:
            self._seats.pop(binding).stop()

    def on_host(self, what: str) -> None:
        if what == "suspend and resume":
            self.copper.client.suspend(CLUSTER)
            self.copper.client.resume(CLUSTER)
        elif what == "kill the daemon and start it again":
            self.copper.stop(signal.SIGKILL)
            self.copper.start()
        else:
            raise AssertionError(what)


class Play:
    """One binding's part in a case."""

    def __init__(self, stage: Stage, binding: str) -> None:
        self.binding = binding
        self._stage = stage
        self._variables: Variables = {}
        self._seats = {"caller": stage.seat(binding)}

    def do(self, step: Step) -> None:
        """Does a step. Raises AssertionError where something else comes of it than it says."""
        if step.starts:
            copper, master = self._stage.copper, self._stage.master
            seat = seats.started(copper, master, self.binding, step.starts)
            self._seats[step.where] = seat
            return
        seat = self._seats[step.where]
        if step.stops:
            seat.stop()
        elif step.powers_off:
            seat.power_off()
        elif step.ends:
            seat.tell_last(self._line(step.ends))
        elif step.sh:
            self._stage.copper.sh(seat.vm, step.sh)
        elif step.tell:
            seat.tell(self._line(step.tell))
        elif step.signal and not step.hear:
            seat.signal(step.signal, step.times)
        else:
            self._hear(step, seat)

    def _line(self, line: str) -> str:
        return str(filled(line, self._variables))

    def _hear(self, step: Step, seat: Seat) -> None:
        answer = seat.ask(self._line(step.ask)) if step.ask else seat.hear(step.signal)
        if step.forks:
            made = self._stage.made()
            assert len(made) == len(step.forks), f"{self.binding}: {answer}: {made}"
            for name, vm in zip(step.forks, made, strict=True):
                self._seats[name] = seat.copied(vm)
                self._variables[name] = int(vm.rpartition("-")[2])
        check(step, self.binding, answer, self._variables)
        if step.keep:
            self._variables[step.keep] = answer["value"]


@pytest.fixture(scope="module")
def stage(accel: str, debian_dev: str) -> Iterator[Stage]:
    with a_copper(accel) as copper:
        master = copper.boot(CLUSTER, debian_dev)
        seats.furnish(copper, master)
        yield Stage(copper, master)


@pytest.mark.parametrize(
    ("binding", "case"),
    [(binding, case) for binding in BINDINGS for case in ALONE if binding in case.bindings],
    ids=lambda value: value.name if isinstance(value, Case) else value,
)
def test_a_binding_does_what_the_contract_says(
    stage: Stage, results: Results, binding: str, case: Case
) -> None:
    results.put(case.name, binding, passed=False)
    try:
        play = Play(stage, binding)
        for step in case.steps:
            if step.is_for(binding):
                play.do(step)
        results.put(case.name, binding, passed=True)
    except BaseException:
        stage.dismiss(binding)
        raise
    finally:
        stage.clean()


@pytest.mark.parametrize("case", TOGETHER, ids=lambda case: case.name)
def test_what_befalls_a_machine_befalls_all_its_programs(
    stage: Stage, results: Results, case: Case
) -> None:
    for binding in BINDINGS:
        results.put(case.name, binding, passed=False)
    plays = [Play(stage, binding) for binding in BINDINGS]
    failed: dict[str, Exception] = {}
    try:
        for step in case.steps:
            if step.host:
                stage.on_host(step.host)
            elif step.without_agent:
                drivers = [stage.seat(binding) for binding in BINDINGS]
                seats.without_agent(stage.copper, stage.master, step.without_agent, drivers)
            else:
                for play in plays:
                    if play.binding not in failed:
                        try:
                            play.do(step)
                        except (AssertionError, CopperError) as error:
                            failed[play.binding] = error
        for play in plays:
            results.put(case.name, play.binding, passed=play.binding not in failed)
        assert not failed
    finally:
        for binding in failed:
            stage.dismiss(binding)
        stage.clean()
