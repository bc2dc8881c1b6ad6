"""Names, counts, addresses and settings: what is taken and what is refused, in one line."""

from __future__ import annotations

import pytest

from copper.model.errors import BadInput
from copper.model.names import check_count, check_name, parse_vm_name, vm_name
from copper.model.settings import Settings, from_environment

BAD_NAMES = ["", "a/b", "a.b", "a b", "-a", "a-", "A", "é", "a" * 41, "a" * 300, "..", "a\n", "a\0"]


@pytest.mark.parametrize("name", ["a", "demo", "a-1", "0", "a" * 40])
def test_a_label_is_a_name(name: str) -> None:
    assert check_name(name, "image") == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_label_is_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_name(name, "image")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 200
    assert "a-z" in text


@pytest.mark.parametrize("cluster", ["demo", "a-1", "0"])
def test_a_vm_name_is_read_back(cluster: str) -> None:
    assert parse_vm_name(vm_name(cluster, 12)) == (cluster, 12)


@pytest.mark.parametrize("name", ["demo", "demo-", "demo-x", "-1", *BAD_NAMES[:7]])
def test_what_is_no_vm_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        parse_vm_name(name)


@pytest.mark.parametrize("count", [0, -1, 1025, 10**30, "9", 1.5, None, True, [], {}])
def test_a_count_is_a_whole_number_in_bounds(count: object) -> None:
    with pytest.raises(BadInput, match="from 1 to 1024"):
        check_count(count)


def test_settings_come_from_the_environment() -> None:
    assert from_environment({}) == Settings()
    settings = from_environment({"COPPER_STANDBYS": "7", "COPPER_RUN_DIR": "/r"})
    assert settings.standbys == 7
    assert str(settings.api_socket) == "/r/api.sock"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COPPER_ACCEL", "fast"),
        ("COPPER_STANDBYS", "many"),
        ("COPPER_STANDBYS", "-1"),
        ("COPPER_RUN_DIR", "/" + "x" * 100),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_environment({variable: value})
    assert variable in str(caught.value)
