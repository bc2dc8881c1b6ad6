"""What the fake Copper's API answers with."""

from __future__ import annotations

from typing import Any

from copper.model.errors import NoRoom
from copper.wire.problems import to_problem

SHAPE = {"memory_mib": 256, "cpus": 1, "disk_bytes": 268435456}
SHARED = {
    "owner": "root",
    "memory_class": "shared",
    "placement": "near",
    "requires": {"tags": [], "networks": [], "storage": []},
    "limits": {"vms": None, "cpus": None, "memory_mib": None},
    "vm_limits": {"cpus": None, "own_bytes": None},
}
CLUSTERS: dict[str, dict[str, Any]] = {
    "demo": {
        **SHARED,
        "name": "demo",
        "image": "micro",
        "shape": SHAPE,
        "state": "running",
        "owner": "ann",
        "requires": {"tags": ["ssd"], "networks": [], "storage": ["fast"]},
        "limits": {"vms": 20, "cpus": None, "memory_mib": 4096},
        "vm_limits": {"cpus": None, "own_bytes": 512 << 20},
        "vms": 2,
        "next_vmid": 2,
        "created": 1700000000.0,
    },
    "empty": {
        **SHARED,
        "name": "empty",
        "image": "debian-12",
        "shape": {**SHAPE, "memory_mib": 1024},
        "state": "defined",
        "vms": 0,
        "next_vmid": 1,
        "created": 1700000000.0,
    },
}
TICKET: dict[str, Any] = {
    "id": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    "cluster": "demo",
    "owner": "ann",
    "holder": 0,
    "cpus": 2,
    "vms": 2,
    "mincpuspervm": 1,
    "status": "granted",
    "places": {"here": 2},
    "vm_bytes": 32 << 20,
    "created": 1700000000.0,
    "expires_at": 400.0,
}
VMS: dict[str, dict[str, Any]] = {
    f"demo-{vmid}": {
        "name": f"demo-{vmid}",
        "cluster": "demo",
        "vmid": vmid,
        "ip": f"10.0.0.{vmid + 1}",
        "generation": vmid,
        "parent": None if vmid == 0 else 0,
        "state": state,
        "host": "here",
        "created": 1700000000.0,
        "reason": reason,
        "lineage": [] if vmid == 0 else [0],
        "ticket": TICKET["id"] if vmid else "",
        "owner": "ann",
        "cpus": 1,
        "memory_mib": 256,
        "reserved_bytes": 32 << 20,
    }
    for vmid, state, reason in ((0, "running", ""), (1, "running", ""), (2, "dead", "it crashed"))
}
STATUSES: dict[str, dict[str, Any]] = {
    f"demo-{vmid}": {
        "name": f"demo-{vmid}",
        "identity": {
            "cluster": "demo",
            "vmid": vmid,
            "name": f"demo-{vmid}",
            "ip": f"10.0.0.{vmid + 1}",
            "parent": None,
            "generation": vmid,
            "ticket": "",
            "vmids": [],
        },
        "shape": SHAPE,
        "needs": {
            "qemu": "7.2.22",
            "machine": "pc-q35-7.2",
            "accelerator": "tcg",
            "processor": "max",
        },
        "state": "running",
        "pid": 4000 + vmid,
        "template": "micro",
        "own_bytes": 18 << 20,
        "shared_bytes": 92 << 20,
        "layers": 1,
        "disks": 2,
        "ready_ms": 41.25,
        "last_pause_ms": None,
    }
    for vmid in (0, 1)
}
HOST = {
    "name": "here",
    "cpus": 4,
    "memory_bytes": 5631 << 20,
    "free_bytes": 2048 << 20,
    "disk_bytes": 183352 * 10**6,
    "disk_free_bytes": 183000 * 10**6,
    "accelerator": "tcg",
    "accelerator_reason": "COPPER_ACCEL says so",
    "qemu": "7.2.22",
    "machine": "pc-q35-7.2",
    "vms": 2,
    "standbys": 1,
    "cpu_ratio": 4.0,
    "tags": ["ssd", "rack-1"],
    "networks": ["public"],
    "storage": ["fast", "big"],
    "fetches": False,
}
IMAGE = {
    "name": "micro",
    "recipe": "micro",
    "created": 1700000000.0,
    "memory_mib": 256,
    "cpus": 1,
    "disk_bytes": 268435456,
    "stored_bytes": 97 << 20,
    "accelerator": "tcg",
    "users": ["demo"],
}
HEALTH = {
    "version": "0.1.0",
    "pid": 1,
    "host": "here",
    "accelerator": "tcg",
    "accelerator_reason": "COPPER_ACCEL says so",
    "state_dir": "/nowhere",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "public": {
        "name": "public",
        "mode": "nat",
        "bridge": "br0",
        "pool": ["198.51.100.8-198.51.100.11", "2001:db8::1"],
        "size": 4,
        "left": 2,
        "hosts": ["here"],
        "created": 1700000000.0,
    },
    # as a user is told of one
    "six": {
        "name": "six",
        **dict.fromkeys(("mode", "bridge", "pool", "size", "left", "hosts", "created")),
    },
}
LEASES = [
    {"address": f"198.51.100.{last}", "network": "public", "vm": vm, "cluster": "demo"}
    for last, vm in ((10, "demo-1"), (9, "demo-0"))
]
FORWARD = {"cluster": "demo", "vmid": 0, "host_port": 8080, "port": 80, "protocol": "tcp"}
USERS: dict[str, dict[str, Any]] = {
    "ann": {
        "name": "ann",
        "role": "user",
        "quota": {"vms": 100, "cpus": None, "memory_mib": None},
        "created": 1700000000.0,
    },
    "root": {
        "name": "root",
        "role": "admin",
        "quota": {"vms": None, "cpus": None, "memory_mib": None},
        "created": 1700000000.0,
    },
}
TOKEN = {
    "id": "k3x9",
    "user": "ann",
    "note": "ci",
    "created": 1700000000.0,
    "expires": None,
}
OPERATIONS: dict[str, dict[str, Any]] = {
    name: {
        "id": name,
        "kind": "boot",
        "cluster": "demo",
        "owner": "ann",
        "state": state,
        "done": 1,
        "parts": 2,
        "created": 1700000000.0,
        "ended": None if state == "running" else 1700000001.0,
        "result": None,
        "problem": to_problem(NoRoom("no room for it")) if state == "failed" else None,
    }
    for name, state in (
        ("op-1", "running"),
        ("op-2", "done"),
        ("op-3", "failed"),
        ("op-4", "cancelled"),
    )
}
USAGE = {
    "cluster": "demo",
    "owner": "ann",
    "begin": 1700000000.0,
    "end": 1700007200.0,
    "vm_s": 7200.0,
    "cpu_s": 12.34,
    "nominal_byte_s": float(7200 << 28),
    "shared_byte_s": 0.0,
    "own_byte_s": float(3600 << 30),
    "reserved_byte_s": 0.0,
    "disk_read_bytes": 1 << 20,
    "disk_written_bytes": 3 << 20,
    "net_received_bytes": 0,
    "net_sent_bytes": 0,
}
DIFFERENCES: list[dict[str, Any]] = [
    {
        "thing": thing,
        "name": name,
        "host": "here",
        "says": says,
        "mend": mend,
        "mended": False,
    }
    for thing, name, says, mend in (
        ("process", "4711", "a QEMU of nobody", "end it"),
        ("overlay", "/x.qcow2", "a disk of nobody", ""),
    )
]
CHANGES: list[dict[str, Any]] = [
    {
        "id": f"{7 + n}.0",
        "kind": "vm",
        "name": f"demo-{n}",
        "change": "put",
        "body": VMS[f"demo-{n}"],
    }
    for n in range(3)
]
