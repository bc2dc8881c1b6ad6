"""Recipes: those that we ship are right, and one that is not says where."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from copper.image.build import recipes
from copper.image.build.digest import digest_of
from copper.model.errors import BadInput, NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the recipes, to change."""
    shutil.copytree(recipes.recipes_dir(), tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "gridcentric"
    path.write_bytes(b"an agent")
    return path


def test_the_recipes_that_ship_are_right() -> None:
    assert recipes.names() == ["debian-12", "micro"]
    for name in recipes.names():
        assert recipes.load(name).name == name


@pytest.mark.parametrize("name", ["debian-99", "", ".", "..", "../images/micro", "a b", "x" * 300])
def test_an_unknown_recipe_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(NotFound, match="debian-12, micro"):
        recipes.load(name)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('suite = "bookworm"', 'suite = "../x"', "suite is not right"),
        ('suite = "bookworm"', "", "missing suite"),
        ('suite = "bookworm"', 'suite = "bookworm"\ncolour = 1', "unknown field colour"),
        ("memory_mib = 256", "memory_mib = 0", "memory_mib is not right: 0"),
        ("disk_mib = 256", "disk_mib = true", "disk_mib is not right: True"),
        ('root = "unpacked"', 'root = "rolled"', "root is not right"),
        ('["busybox-static"]', '["Busy Box"]', "packages is not right"),
        ("packages = [", "packages = ", "recipe.toml"),
    ],
)
def test_a_wrong_recipe_says_which_field(folder: Path, before: str, after: str, says: str) -> None:
    recipe = folder / "micro/recipe.toml"
    text = recipe.read_text()
    assert before in text
    recipe.write_text(text.replace(before, after))
    with pytest.raises(BadInput, match=says):
        recipes.load("micro", folder)


@pytest.mark.parametrize(
    "name", ["", "a", "Nginx", "nginx;id", "nginx=1", "nginx/sid", "-y", "nginx-", "~i", "x" * 300]
)
def test_what_cannot_be_a_package_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a Debian package's name"):
        recipes.load("micro").with_packages([name])


def test_more_packages_join_the_recipe_once() -> None:
    recipe = recipes.load("debian-12").with_packages(["g++", "curl", "libc6"])
    assert {"g++", "libc6", "memcached"} < set(recipe.packages)
    assert recipe.packages.count("curl") == 1


@pytest.mark.parametrize("mib", [-1, 0, 31, 1 << 40])
def test_a_disk_size_out_of_range_is_refused(mib: int) -> None:
    with pytest.raises(BadInput, match="out of range"):
        recipes.load("micro").with_disk(mib)


def test_the_digest_follows_what_goes_in(folder: Path, agent: Path) -> None:
    versions = {"busybox-static": "1:1.35.0"}
    micro = recipes.load("micro", folder)

    def digest() -> str:
        return digest_of(recipes.load("micro", folder), versions, agent)

    first = digest()
    assert digest() == first
    seen = {
        first,
        digest_of(micro, {"busybox-static": "1:1.36.0"}, agent),
        digest_of(micro.with_packages(["curl"]), versions, agent),
        digest_of(micro.with_disk(512), versions, agent),
    }
    (folder / "micro/files/etc/hostname").write_text("other\n")
    seen.add(digest())
    (folder / "micro/files/etc/hostname").chmod(0o755)
    seen.add(digest())
    (folder / "micro/hooks/20-more").write_text("#!/bin/sh\n")
    seen.add(digest())
    agent.write_bytes(b"another agent")
    seen.add(digest())
    assert len(seen) == 8


def test_the_digest_does_not_follow_where_things_lie(folder: Path, agent: Path) -> None:
    elsewhere = agent.rename(agent.with_name("moved"))
    here = digest_of(recipes.load("micro"), {}, elsewhere)
    assert here == digest_of(recipes.load("micro", folder), {}, elsewhere)
