"""The machine that a run was made on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from importlib.metadata import version
from pathlib import Path

import copper
from copper.model.settings import Settings
from copper.vmm.capabilities import Qemu, accelerator_verdict, host_processor


def facts(settings: Settings, qemu: Qemu) -> dict[str, object]:
    """What a reader needs to know of this machine and its programs."""
    verdict = accelerator_verdict(settings, qemu)
    return {
        "copper": copper.__version__,
        "qemu": qemu.version,
        "machine": qemu.machine,
        "accelerator": verdict.accelerator,
        "accelerator_reason": verdict.reason,
        **_itself(),
    }


def controller_facts(state: Path) -> dict[str, object]:
    """What a reader needs to know of this machine, and of what a controller's requests go through."""
    state_on = "?"
    for line in (
        Path("/proc/mounts").read_text().splitlines()
    ):  # the last that holds it is the nearest
        _, point, kind, *_ = line.split()
        if state.resolve().is_relative_to(point):
            state_on = kind
    packages = {name: version(name) for name in ("fastapi", "uvicorn", "pydantic")}
    return {
        "copper": copper.__version__,
        "sqlite": sqlite3.sqlite_version,
        **packages,
        "state_on": state_on,
        **_itself(),
    }


def names_facts() -> dict[str, object]:
    """What a reader needs to know of this machine, and of what a question goes through."""
    return {"copper": copper.__version__, "dnspython": version("dnspython"), **_itself()}


def _itself() -> dict[str, object]:
    total = re.findall(r"\d+", Path("/proc/meminfo").read_text())[0]
    return {
        "processor": host_processor(),
        "processors": os.cpu_count() or 1,
        "memory_mib": int(total) >> 10,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
