"""Drivers of the bindings in a guest: each reads lines from a pipe and writes answers to a file there.

So a fork copies them with all that they have read and said, and each copy is spoken to in its own machine.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from signal import Signals

from copper.model.errors import CopperError
from tests.vm.machinery import ROOT, Copper
from tests.vm.scenario.story import Answer

HERE = Path(__file__).parent
THERE = "/opt/scenario"
DEADLINE_S = 600
# what a user of the package gridcentric-guest types, with nothing said about where it is
COMMANDS = {
    "gc": f"{THERE}/gc_driver.bash",
    "c": f"{THERE}/driver",
    "python": f"python3 {THERE}/driver.py",
    "aio": f"python3 {THERE}/driver.py aio",
    "java": f"java -XX:TieredStopAtLevel=1 -cp /usr/share/gridcentric/gridcentric.jar:{THERE} Driver",
    "node": f"node {THERE}/driver.js",
    "node-callbacks": f"node {THERE}/driver.js callbacks",
}
COMPILE = (
    f"cd {THERE} && cc driver.c -o driver $(pkg-config --cflags --libs gridcentric) -pthread"
    " && cc -std=c11 -Wall -Wextra -Werror -O1 -static say.c -o say"
)


@dataclasses.dataclass
class Seat:
    """A driver in one machine, and how many of its answers were heard."""

    copper: Copper
    vm: str
    folder: str
    heard: int = 0

    def tell(self, line: str) -> None:
        self.copper.sh(self.vm, f"echo {shlex.quote(line)} 1<>{self.folder}/in")

    def tell_last(self, line: str) -> None:
        """Something that ends the machine: a moment later, so that this command ends before."""
        later = f"sleep 0.3; echo {shlex.quote(line)} 1<>{self.folder}/in"
        self._later(later)

    def power_off(self) -> None:
        self._later("sleep 0.3; echo o >/proc/sysrq-trigger")

    def _later(self, script: str) -> None:
        self.copper.sh(self.vm, f"({script}) </dev/null >/dev/null 2>&1 &")

    def hear(self, signal: str = "") -> Answer:
        """The next answer, once it is there; the driver gets the signal until then."""
        return self._say(signal=signal)

    def ask(self, line: str) -> Answer:
        return self._say(line)

    def _say(self, *line: str, signal: str = "") -> Answer:
        self.heard += 1
        number = int(Signals[f"SIG{signal}"]) if signal else 0
        say = [f"{THERE}/say", self.folder, str(self.heard), str(number), *line]
        answer: Answer = json.loads(self.copper.exec(self.vm, *say))
        return answer

    def signal(self, name: str, times: int) -> None:
        kill = f"kill -{name} $(cat {self.folder}/pid)"
        self.copper.sh(self.vm, f"for i in $(seq {times}); do {kill}; sleep 0.1; done")

    def stop(self) -> None:
        self.copper.sh(self.vm, f"kill -KILL $(cat {self.folder}/pid) || true")

    def copied(self, vm: str) -> Seat:
        """The copy that a fork made of it: it has yet to give the answer that was heard last here."""
        return dataclasses.replace(self, vm=vm, heard=self.heard - 1)


@cache
def _compiled() -> bytes:
    """An archive of all that a guest needs."""
    guest = ROOT / "guest"
    with tempfile.TemporaryDirectory(prefix="copper-scenario-") as name:
        folder = Path(name)
        subprocess.run([guest / "java/build", folder / "jar"], check=True)
        jar = folder / "jar/gridcentric.jar"
        out = folder / "out"
        java = guest / "java/test/Driver.java"
        javac: list[str | Path] = ["javac", "--release", "17", "-cp", jar, "-d", out, java]
        subprocess.run(javac, check=True)
        for driver in ("lib/test/driver.c", "python/test/driver.py", "node/test/driver.js"):
            shutil.copy(guest / driver, out)
        for source in (*HERE.glob("*.bash"), HERE / "say.c"):
            shutil.copy(source, out)
        tar: list[str | Path] = ["tar", "--owner=0", "--group=0", "-cC", out, "."]
        return subprocess.run(tar, check=True, capture_output=True).stdout


def furnish(copper: Copper, vm: str) -> None:
    """Brings the drivers into a machine; the one in C is compiled there, as a user would."""
    unpack = f"mkdir -p {THERE} && tar -xC {THERE} && {COMPILE}"
    done = copper.client.run(vm, ["sh", "-c", unpack], stdin=_compiled())
    assert done.status == 0, done.stderr.decode()


def started(copper: Copper, vm: str, binding: str, user: str = "root") -> Seat:
    """A driver that runs and has answered once."""
    seat = Seat(copper, vm, f"{THERE}/{binding}-{user}")
    command = shlex.split(COMMANDS[binding])
    copper.exec(vm, f"{THERE}/start.bash", seat.folder, user, *command)
    seat.ask("vmid")
    return seat


def without_agent(copper: Copper, vm: str, lines: tuple[str, ...], seats: list[Seat]) -> None:
    """Gives drivers of one machine these lines while its agent is stopped; returns when it is back."""
    numbered = (word for seat in seats for word in (seat.folder, str(seat.heard + 1)))
    script = shlex.join([f"{THERE}/without_agent.bash", ";".join(lines), *numbered])
    copper.sh(vm, f"setsid {script} </dev/null >{THERE}/without-agent.log 2>&1 &")
    deadline = time.monotonic() + DEADLINE_S
    while not _is_back(copper, vm):
        assert time.monotonic() < deadline, "the agent did not come back"
        threading.Event().wait(0.2)


def _is_back(copper: Copper, vm: str) -> bool:
    try:
        return copper.client.run(vm, ["rm", f"{THERE}/agent-is-back"]).status == 0
    except CopperError:
        return False
