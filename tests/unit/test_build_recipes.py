"""Recipes: those that we ship are right, and one that is not says where."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from copper.image.build import build, recipes
from copper.image.build.digest import digest_of
from copper.model.errors import BadInput, CopperError, NotFound


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
    assert recipes.names() == ["debian-12", "debian-12-dev", "micro"]
    for name in recipes.names():
        assert recipes.load(name).name == name


@pytest.mark.parametrize("name", ["debian-99", "", ".", "..", "../images/micro", "a b", "x" * 300])
def test_an_unknown_recipe_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(NotFound, match="debian-12, debian-12-dev, micro"):
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
        ("disk_mib = 256", "disk_mib = 256\nssh = 1", "ssh is not right: 1"),
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


def test_a_recipe_adds_to_its_base() -> None:
    base, dev = recipes.load("debian-12"), recipes.load("debian-12-dev")
    assert {"nodejs", "memcached"} < set(dev.packages)
    assert (dev.suite, dev.kernel, dev.cmdline) == (base.suite, base.kernel, base.cmdline)
    assert (dev.enable, dev.mask, dev.files) == (base.enable, base.mask, base.files)
    assert dev.disk_mib > base.disk_mib


def test_a_recipe_with_ssh_has_the_files_that_it_takes(folder: Path) -> None:
    server, client = (f"etc/ssh/{kind}_config.d/gridcentric.conf" for kind in ("sshd", "ssh"))
    assert {server, client, "etc/gridcentric/renew-ssh-host-keys"} < recipes.load(
        "debian-12"
    ).files.keys()
    assert not [name for name in recipes.load("micro").files if "ssh" in name]
    own = folder / "debian-12/files" / server
    own.parent.mkdir(parents=True)
    own.write_text("of the recipe\n")
    for name in ("debian-12", "debian-12-dev"):  # which stands on it
        assert recipes.load(name, folder).files[server] == own
        assert recipes.load(name, folder).ssh


def test_a_recipes_files_lie_over_its_bases(folder: Path) -> None:
    own = folder / "debian-12-dev"
    for name in ("files/etc/hostname", "files/etc/more", "hooks/10-last", "../debian-12/hooks/90"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("x\n")
    dev = recipes.load("debian-12-dev", folder)
    assert dev.files["etc/hostname"] == own / "files/etc/hostname"
    assert dev.files.keys() == {*recipes.load("debian-12", folder).files, "etc/more"}
    assert [hook.name for hook in dev.hooks] == ["90", "10-last"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = "debian-99"', "base is not right: 'debian-99'"),
        ("base = 12", "base is not right: 12"),
        ('base = "other"', "base is not right: 'other'"),
        ('base = "debian-12-dev"', "its base debian-12-dev has a base of its own"),
        ('base = "micro"\npackages = "nodejs"', "packages is not right: 'nodejs'"),
        ('base = "micro"\npackages_from = "guest/package"', "packages_from is not right"),
        ('base = "debian-12"\npackages_from = "/bin/x"', "packages_from is not right"),
        ('base = "debian-12"\npackages_from = "../x"', "packages_from is not right"),
    ],
)
def test_a_wrong_base_is_named(folder: Path, text: str, says: str) -> None:
    (folder / "other").mkdir()
    (folder / "other/recipe.toml").write_text(text)
    with pytest.raises(BadInput, match=says):
        recipes.load("other", folder)


def test_what_makes_packages_is_asked_before_all_else(folder: Path, agent: Path) -> None:
    """Neither a mirror nor a compiler is asked when it cannot do its work here."""
    dev = recipes.load("debian-12-dev", folder)
    with pytest.raises(BadInput, match="needs guest/package of Copper's sources"):
        build(dev, agent=agent, cache=folder / "cache")
    maker = folder.parent / "guest/package"
    maker.parent.mkdir()
    maker.write_text("#!/bin/sh\necho 'no javac: apt-get install default-jdk-headless' >&2; exit 1")
    maker.chmod(0o755)
    with pytest.raises(CopperError) as caught:
        build(dev, agent=agent, cache=folder / "cache")
    assert caught.value.message == (
        "building debian-12-dev, making packages with guest/package: package failed (status 1):"
        " no javac: apt-get install default-jdk-headless"
    )
    assert not (folder / "cache/apt").exists()


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


def test_the_digest_follows_what_was_made_here(tmp_path: Path, agent: Path) -> None:
    dev, deb = recipes.load("debian-12-dev"), tmp_path / "guest_1_amd64.deb"
    seen = {digest_of(dev, {}, agent)}
    for content in (b"one", b"two", b"one"):
        deb.write_bytes(content)
        seen.add(digest_of(dev, {}, agent, [deb]))
    assert len(seen) == 3


def test_the_digest_does_not_follow_where_things_lie(folder: Path, agent: Path) -> None:
    elsewhere = agent.rename(agent.with_name("moved"))
    here = digest_of(recipes.load("micro"), {}, elsewhere)
    assert here == digest_of(recipes.load("micro", folder), {}, elsewhere)
