"""What goes into an image, as one digest: the same inputs, the same name in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from copper.image.build import initrd
from copper.image.build.recipes import Recipe

# Part of every digest: raise it when the same inputs should come out as another image.
VERSION = 1


# What a recipe says of itself, and not of what comes out.
_NOT_ITS_CONTENT = ("directory", "memory_mib", "base", "packages_from")


def digest_of(
    recipe: Recipe, versions: Mapping[str, str], agent: Path, made: Sequence[Path] = ()
) -> str:
    """64 hexadecimal digits over a recipe with its files, the packages' versions and the agent.

    `made`: packages that were made here, which count by what is in them. Where things lie does not
    count, nor the time.
    """
    inputs = {
        "version": VERSION,
        "recipe": {k: v for k, v in asdict(recipe).items() if k not in _NOT_ITS_CONTENT},
        "files": {target: _file(path) for target, path in recipe.files.items()},
        "hooks": {hook.name: _file(hook) for hook in recipe.hooks},
        "initrd": _file(initrd.init_script()),
        "packages": dict(versions),
        "agent": _file(agent),
        "made": {deb.name: _file(deb) for deb in made},
    }
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _file(path: Path) -> list[object]:
    if path.is_symlink():
        return ["link", os.fspath(path.readlink())]
    return ["file", os.access(path, os.X_OK), sha256(path.read_bytes()).hexdigest()]
