"""What goes into an image, as one digest: the same inputs, the same name in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from copper.image.build import initrd, rootfs
from copper.image.build.recipes import Recipe

# Part of every digest: raise it when the same inputs should come out as another image.
VERSION = 1


def digest_of(recipe: Recipe, versions: Mapping[str, str], agent: Path) -> str:
    """64 hexadecimal digits over a recipe with its files, the packages' versions and the agent.

    Where the recipe and the agent lie does not count, nor the time.
    """
    inputs = {
        "version": VERSION,
        "recipe": {k: v for k, v in asdict(recipe).items() if k not in ("directory", "memory_mib")},
        "files": {target: _file(path) for path, target in rootfs.overlay(recipe.files)},
        "hooks": {hook.name: _file(hook) for hook in recipe.hooks},
        "initrd": _file(initrd.init_script()),
        "packages": dict(versions),
        "agent": _file(agent),
    }
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _file(path: Path) -> list[object]:
    if path.is_symlink():
        return ["link", os.fspath(path.readlink())]
    return ["file", os.access(path, os.X_OK), sha256(path.read_bytes()).hexdigest()]
