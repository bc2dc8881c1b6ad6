"""Programs in a guest that call vmid() so often as each line of their input says, and answer with the median in ms.

One of each binding, and one that sends the same bytes over a bare socket. It uses what the recipe `debian-12-dev` has.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from copper.bench.calls import Shell
from copper.bench.place import Place
from copper.client.commands import beginning
from copper.model.errors import CopperError, NotFound

FOLDER = "/opt/bench"
JAR = "/usr/share/gridcentric/gridcentric.jar"
WARM_UP = 200  # calls that are not counted: a JVM is slow at first
C = r"""
#include <gridcentric/gc-guest.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int bare(void)
{
    static const char request[] = "{\"verb\":\"vmid\",\"args\":{}}\n";
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/gridcentric/agent.sock"};
    char answer[4096];
    ssize_t got, length = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        return -1;
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
        return -1;
    do {
        got = recv(fd, answer + length, sizeof answer - (size_t)length, 0);
        length += got;
    } while (got > 0 && answer[length - 1] != '\n');
    close(fd);
    return got > 0 ? 0 : -1;
}

static int compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    int calls, (*call)(void) = argc > 1 ? bare : gc_vmid;
    (void)argv;
    while (scanf("%d", &calls) == 1) {
        double *took = calloc((size_t)calls, sizeof *took);
        for (int i = 0; i < calls; i++) {
            struct timespec from, to;
            clock_gettime(CLOCK_MONOTONIC, &from);
            if (call() < 0)
                return 1;
            clock_gettime(CLOCK_MONOTONIC, &to);
            took[i] = (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) / 1e6;
        }
        qsort(took, (size_t)calls, sizeof *took, compare);
        printf("%.4f\n", took[calls / 2]);
        fflush(stdout);
        free(took);
    }
    return 0;
}
"""
PYTHON = """
import sys, time
from gridcentric import guest
while line := sys.stdin.readline():
    took = []
    for _ in range(int(line)):
        began = time.perf_counter()
        guest.vmid()
        took.append((time.perf_counter() - began) * 1000)
    print(sorted(took)[len(took) // 2], flush=True)
"""
ASYNCIO = """
import asyncio, sys, time
from gridcentric import aio
async def calls(count):
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await aio.vmid()
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)[len(took) // 2]
loop = asyncio.new_event_loop()
while line := sys.stdin.readline():
    print(loop.run_until_complete(calls(int(line))), flush=True)
"""
JAVA = """
import ca.gridcentric.guest.API;
import java.util.Arrays;
import java.util.Scanner;

public class Calls {
    public static void main(String[] args) {
        API api = new API();
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            double[] took = new double[Integer.parseInt(lines.nextLine())];
            for (int i = 0; i < took.length; i++) {
                long began = System.nanoTime();
                api.vmid();
                took[i] = (System.nanoTime() - began) / 1e6;
            }
            Arrays.sort(took);
            System.out.println(took[took.length / 2]);
        }
    }
}
"""
NODE = """
const gc = require("gridcentric");
async function calls(count) {
  const took = [];
  for (let i = 0; i < count; i += 1) {
    const began = process.hrtime.bigint();
    CALL;
    took.push(Number(process.hrtime.bigint() - began) / 1e6);
  }
  return took.sort((a, b) => a - b)[Math.floor(count / 2)];
}
(async () => {
  for await (const line of require("readline").createInterface({ input: process.stdin }))
    console.log(await calls(Number(line)));
})();
"""
FILES = {
    "calls.c": C,
    "calls.py": PYTHON,
    "calls_aio.py": ASYNCIO,
    "calls.js": NODE.replace("CALL", "gc.vmid()"),
    # vmid() reads what the agent has written down: this one asks it
    "calls_promise.js": NODE.replace("CALL", "await gc.ismaster()"),
}
BARE = "bare socket"


@dataclasses.dataclass(frozen=True)
class Program:
    """How one is started in a guest."""

    name: str
    argv: tuple[str, ...]


PROGRAMS = (
    Program(BARE, (f"{FOLDER}/calls", "bare")),
    Program("C", (f"{FOLDER}/calls",)),
    Program("Python", ("python3", f"{FOLDER}/calls.py")),
    Program("asyncio", ("python3", f"{FOLDER}/calls_aio.py")),
    Program("Java", ("java", "-XX:TieredStopAtLevel=1", "-cp", f"{JAR}:{FOLDER}", "Calls")),
    Program("Node.js", ("node", f"{FOLDER}/calls.js")),
    Program("Node.js, a promise", ("node", f"{FOLDER}/calls_promise.js")),
)


def furnish(place: Place, vm: str) -> None:
    """Brings the programs into a guest, and makes there what is compiled; Java's is compiled here.

    Raises NotFound where there is no javac, CopperError.
    """
    _done(place, vm, ["mkdir", "-p", FOLDER])
    for name, text in FILES.items():
        _done(place, vm, ["sh", "-c", f"cat >{FOLDER}/{name}"], text.encode())
    compiled = _java(_done(place, vm, ["cat", JAR]))
    _done(place, vm, ["sh", "-c", f"cat >{FOLDER}/Calls.class"], compiled)
    cc = f"cd {FOLDER} && cc -O2 calls.c -o calls $(pkg-config --cflags --libs gridcentric)"
    _done(place, vm, ["sh", "-c", cc])


def _java(jar: bytes) -> bytes:
    javac = shutil.which("javac")
    if javac is None:
        raise NotFound("there is no javac here", advice="install a JDK, such as default-jdk")
    with tempfile.TemporaryDirectory(prefix="copper-bench-") as name:
        folder = Path(name)
        (folder / "gridcentric.jar").write_bytes(jar)
        (folder / "Calls.java").write_text(JAVA)
        argv = [javac, "--release", "17", "-cp", "gridcentric.jar", "Calls.java"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CopperError(f"javac: {done.stderr.strip()[-200:]}")
        return (folder / "Calls.class").read_bytes()


def _done(place: Place, vm: str, argv: list[str], stdin: bytes = b"") -> bytes:
    done = place.client.run(vm, argv, stdin=stdin)
    if done.status:
        raise CopperError(f"in {vm}: {argv[-1]:.60}: {done.stderr.decode().strip()[-200:]}")
    return done.stdout


@contextmanager
def a_program(place: Place, vm: str, program: Program) -> Iterator[Shell]:
    """Starts one in a guest; it has made calls already."""
    with place.client.stream(vm, "exec") as stream:
        stream.tell(beginning(list(program.argv)))
        shell = Shell(vm, stream)
        shell.ask(str(WARM_UP))
        yield shell
