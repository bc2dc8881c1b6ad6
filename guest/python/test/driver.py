"""Does what each line of its input says through the Python binding, and answers with a line of JSON.

`driver.py aio` does it through the asyncio twin. tests/unit/test_binding_calls.py has the lines.
"""

import asyncio
import inspect
import json
import signal
import sys
import threading
import time
from typing import Any, Awaitable, Callable, Dict, List

from gridcentric import Error, aio, guest

BEAT = 0.005  # seconds
Answer = Dict[str, Any]
waiting = threading.Event()  # a blocking call is under way


def argument(word: str) -> Any:
    return int(word) if word.lstrip("-").isdigit() else word


def plain(value: Any) -> Any:
    """Named tuples as objects, bytes as text."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "_asdict"):
        return {name: plain(member) for name, member in value._asdict().items()}
    return value.decode() if isinstance(value, bytes) else value


def arguments(verb: str, words: List[str]) -> List[Any]:
    found = [argument(word) for word in words]
    if verb == "join" and len(found) > 1:
        found[1] = words[1].encode()
    return found


def run(words: List[str]) -> Answer:
    """One call, blocking."""
    try:
        waiting.set()
        return {"value": plain(getattr(guest, words[0])(*arguments(words[0], words[1:])))}
    except Error as error:
        return {"errno": error.errno, "message": error.strerror, "kind": type(error).__name__}
    except KeyboardInterrupt:
        return {"value": "given up"}
    finally:
        waiting.clear()


async def run_async(words: List[str]) -> Answer:
    """One call, as a coroutine."""
    try:
        return {"value": plain(await getattr(aio, words[0])(*arguments(words[0], words[1:])))}
    except Error as error:
        return {"errno": error.errno, "message": error.strerror, "kind": type(error).__name__}


def beside(words: List[str]) -> Answer:
    """A call in a thread, and how often the main thread woke meanwhile."""
    answer: Answer = {}
    thread = threading.Thread(target=lambda: answer.update(run(words)))
    thread.start()
    beats = 0
    while thread.is_alive():
        thread.join(BEAT)
        beats += 1
    return {**answer, "beats": beats}


async def beside_async(words: List[str]) -> Answer:
    """A call in a task, and how often the event loop turned meanwhile."""
    task = asyncio.ensure_future(run_async(words))
    beats = 0
    while not task.done():
        await asyncio.sleep(BEAT)
        beats += 1
    return {**task.result(), "beats": beats}


async def cancel(words: List[str]) -> Answer:
    task = asyncio.ensure_future(run_async(words))
    await asyncio.sleep(0.2)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return {"value": "cancelled"}


def on_signal(what: str) -> Answer:
    def handler(number: int, frame: Any) -> None:
        if what == "raises" and waiting.is_set():
            waiting.clear()  # once: the next one may come when the answer is written
            raise KeyboardInterrupt

    signal.signal(signal.SIGUSR1, handler)
    return {"value": None}


def timed(calls: int, words: List[str]) -> Answer:
    began = time.perf_counter()
    for _ in range(calls):
        run(words)
    return {"value": (time.perf_counter() - began) * 1000 / calls}


async def timed_async(calls: int, words: List[str]) -> Answer:
    began = time.perf_counter()
    for _ in range(calls):
        await run_async(words)
    return {"value": (time.perf_counter() - began) * 1000 / calls}


SYNC: Dict[str, Callable[..., Any]] = {"run": run, "beside": beside, "timed": timed}
ASYNC: Dict[str, Callable[..., Awaitable[Answer]]] = {
    "run": run_async,
    "beside": beside_async,
    "timed": timed_async,
    "cancel": cancel,
}


async def resolved(answer: Any) -> Answer:
    found: Answer = await answer if inspect.isawaitable(answer) else answer
    return found


def main() -> None:
    loop = asyncio.new_event_loop()
    ways: Dict[str, Callable[..., Any]] = ASYNC if sys.argv[1:] == ["aio"] else SYNC
    for line in sys.stdin:
        words = line.split()
        if words[0] == "on_signal":
            answer: Any = on_signal(words[1])
        elif words[0] == "timed":
            answer = ways["timed"](int(words[1]), words[2:])
        elif words[0] in ("beside", "cancel"):
            answer = ways[words[0]](words[1:])
        else:
            answer = ways["run"](words)
        print(json.dumps(loop.run_until_complete(resolved(answer))), flush=True)
    loop.close()


if __name__ == "__main__":
    main()
