"""Fixtures for tests with real virtual machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from copper.host.template import build_template
from copper.model.settings import from_environment
from tests.vm.machinery import Copper, a_copper, images_folder


class _Said:
    """Shows the steps of a build in the test's output."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"{name} …")
        yield


def _image(accel: str, recipe: str) -> str:
    """Builds the recipe's image once for all tests and runs."""
    settings = from_environment(
        {
            "COPPER_STATE_DIR": str(images_folder()),
            "COPPER_RUN_DIR": "/run/copper-test-images",
            "COPPER_ACCEL": accel,
        }
    )
    build_template(settings, recipe, recipe, replace=True, progress=_Said())
    return recipe


@pytest.fixture(scope="session")
def micro(accel: str) -> str:
    """The image `micro`."""
    return _image(accel, "micro")


@pytest.fixture(scope="session")
def debian(accel: str) -> str:
    """The image `debian-12`."""
    return _image(accel, "debian-12")


@pytest.fixture(scope="session")
def debian_dev(accel: str) -> str:
    """The image `debian-12-dev`: debian-12 with the guest API in every language."""
    return _image(accel, "debian-12-dev")


@pytest.fixture
def copper(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper that knows the image `micro`."""
    with a_copper(accel) as made:
        yield made
