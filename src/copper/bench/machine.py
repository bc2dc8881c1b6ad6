"""The machine that a run was made on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import copper
from copper.model.settings import Settings
from copper.vmm.capabilities import Qemu, accelerator_verdict, host_processor


def facts(settings: Settings, qemu: Qemu) -> dict[str, object]:
    """What a reader needs to know of this machine and its programs."""
    verdict = accelerator_verdict(settings, qemu)
    total = re.findall(r"\d+", Path("/proc/meminfo").read_text())[0]
    return {
        "copper": copper.__version__,
        "qemu": qemu.version,
        "machine": qemu.machine,
        "accelerator": verdict.accelerator,
        "accelerator_reason": verdict.reason,
        "processor": host_processor(),
        "processors": os.cpu_count() or 1,
        "memory_mib": int(total) >> 10,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
