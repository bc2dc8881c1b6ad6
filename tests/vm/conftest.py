"""Fixtures for tests with real virtual machines."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from copper.host.template import build_template
from copper.model.settings import from_environment
from tests.conftest import show
from tests.vm.machinery import Copper, a_copper, images_folder
from tests.vm.scenario.results import Results


class _Said:
    """Shows the steps of a build in the test's output."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"{name} …")
        yield


Image = Callable[[str], str]


@pytest.fixture(scope="session")
def image(accel: str, testrun_uid: str) -> Image:
    """Builds a recipe's image for all tests of this run, or finds it built by another worker."""

    def build(recipe: str) -> str:
        folder = images_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{recipe}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            if lock.read() != testrun_uid:
                _build(accel, recipe, folder)
                lock.truncate(0)
                lock.write(testrun_uid)
        return recipe

    return build


def _build(accel: str, recipe: str, folder: Path) -> None:
    settings = from_environment(
        {
            "COPPER_STATE_DIR": str(folder),
            "COPPER_RUN_DIR": f"/run/copper-test-{recipe}",
            "COPPER_ACCEL": accel,
        }
    )
    build_template(settings, recipe, recipe, replace=True, progress=_Said())


@pytest.fixture(scope="session")
def micro(image: Image) -> str:
    """The image `micro`."""
    return image("micro")


@pytest.fixture(scope="session")
def debian(image: Image) -> str:
    """The image `debian-12`."""
    return image("debian-12")


@pytest.fixture(scope="session")
def debian_dev(image: Image) -> str:
    """The image `debian-12-dev`: debian-12 with the guest API in every language."""
    return image("debian-12-dev")


@pytest.fixture
def copper(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper that knows the image `micro`."""
    with a_copper(accel) as made:
        yield made


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """What became of the scenario with each binding: a table in the summary of the run."""
    found = Results()
    yield found
    show(request.config, found.table())
