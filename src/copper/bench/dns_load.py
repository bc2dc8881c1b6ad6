"""Clients of a server of names in one process, over one socket; and a bare echo to compare it with.

Orders have: port, questions (hexadecimal messages, asked in turn), seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

NICE = -5  # as the server has it
LATE_S = 1.0  # an answer that is not there by then does not count as one
LOOPBACK = "127.0.0.1"
ANEW = "anew"


def questions_of(order: dict[str, Any]) -> Iterator[bytes]:
    """Messages without their number; with `anew` names that are not there, each another one."""
    if order["questions"] == ANEW:
        for number in itertools.count():
            label = f"n{number:010d}".encode()
            yield (
                b"\1\0\0\1\0\0\0\0\0\0" + bytes([len(label)]) + label + b"\x08clusters\0\0\1\0\1"
            )
    yield from itertools.cycle([bytes.fromhex(text)[2:] for text in order["questions"]])


def _socket(order: dict[str, Any]) -> socket.socket:
    _on(order.get("processor"))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((LOOPBACK, order["port"]))
    sock.setblocking(False)
    return sock


def _on(processor: int | None) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    if processor is not None:
        os.sched_setaffinity(0, {processor})


def steady(order: dict[str, Any]) -> dict[str, Any]:
    """order: also per_second, seed. → answered_ms, unanswered."""
    chance = random.Random(order["seed"])
    count = int(order["per_second"] * order["seconds"])
    moments = sorted(chance.uniform(0, order["seconds"]) for _ in range(count))
    questions = questions_of(order)
    due: dict[bytes, float] = {}
    answered: list[float] = []
    with _socket(order) as sock:
        begin = time.perf_counter() + 0.1
        sent = 0
        while sent < count or due:
            now = time.perf_counter() - begin
            while sent < count and moments[sent] <= now:
                number = struct.pack("!H", sent & 0xFFFF)
                sock.send(number + next(questions))
                due[number] = moments[sent]
                sent += 1
            if sent == count and now > moments[-1] + LATE_S:
                break
            wait = moments[sent] - now if sent < count else 0.05
            if select.select([sock], [], [], max(0.0, wait))[0]:
                while (answer := _received(sock)) is not None:
                    at = time.perf_counter() - begin
                    if (moment := due.pop(answer[:2], None)) is not None:
                        answered.append((at - moment) * 1000)
    return {"answered_ms": answered, "unanswered": len(due)}


def most(order: dict[str, Any]) -> dict[str, Any]:
    """order: also at_once. → per_second: answers, as soon as one has come the next is asked for."""
    questions = questions_of(order)
    answers, sent = 0, 0
    with _socket(order) as sock:
        begin = time.perf_counter()
        until = begin + order["seconds"]
        while (now := time.perf_counter()) < until:
            while sent - answers < order["at_once"]:
                sock.send(struct.pack("!H", sent & 0xFFFF) + next(questions))
                sent += 1
            if not select.select([sock], [], [], LATE_S)[0]:
                answers = sent  # they are lost
                continue
            while _received(sock) is not None:
                answers += 1
    return {"per_second": answers / (now - begin)}


def most_tcp(order: dict[str, Any]) -> dict[str, Any]:
    """→ per_second: answers over one connection, one question at a time."""
    _on(order.get("processor"))
    questions = questions_of(order)
    answers = 0
    with (
        socket.create_connection((LOOPBACK, order["port"]), 10) as sock,
        sock.makefile("rb") as read,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.perf_counter()
        until = begin + order["seconds"]
        while (now := time.perf_counter()) < until:
            question = next(questions)
            sock.sendall(struct.pack("!HH", len(question) + 2, answers & 0xFFFF) + question)
            (size,) = struct.unpack("!H", read.read(2))
            read.read(size)
            answers += 1
    return {"per_second": answers / (now - begin)}


def _received(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(4096)
    except BlockingIOError:
        return None


def echo(order: dict[str, Any]) -> dict[str, Any]:
    """Sends back what comes to the socket order["fd"], until a packet is empty."""
    _on(order.get("processor"))
    with socket.socket(fileno=order["fd"]) as sock:
        sock.setblocking(True)
        while True:
            data, who = sock.recvfrom(4096)
            sock.sendto(data, who)
            if not data:
                return {}
