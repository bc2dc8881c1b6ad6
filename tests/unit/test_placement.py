"""Where VMs go: nothing is given out twice, what is required holds, and a refusal says why."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.controller.placement import Room, Wish, ever, fits, missing, place
from copper.model.api import HostFacts, Requirements, Strategy
from copper.model.errors import NoRoom

MIB = 1 << 20
TAGS = ["ssd", "gpu", "big"]


def facts(name: str, cpus: int = 16, fetches: bool = True, **more: list[str]) -> HostFacts:
    return HostFacts(
        name=name,
        cpus=cpus,
        memory_bytes=1 << 40,
        free_bytes=1 << 40,
        disk_bytes=1 << 40,
        disk_free_bytes=1 << 40,
        accelerator="tcg",
        accelerator_reason="",
        qemu="9.9.9",
        machine="pc",
        vms=0,
        standbys=0,
        fetches=fetches,
        tags=more.get("tags", []),
        networks=more.get("networks", []),
        storage=more.get("storage", []),
    )


def room(
    name: str,
    free: int = 16,
    memory_mib: int = 1024,
    held: int = 0,
    **more: object,
) -> Room:
    """A host with `free` virtual processors left; `more` is of its facts."""
    return Room(facts(name, **more), free, memory_mib * MIB, held)  # type: ignore[arg-type]


names = [f"h{i}" for i in range(12)]
some_tags = st.lists(st.sampled_from(TAGS), unique=True, max_size=2)
a_room = st.builds(
    lambda cpus, memory, held, own, fetches, tags: (cpus, memory, held, own, fetches, tags),
    st.integers(-8, 40),
    st.integers(-64, 2048),
    st.integers(0, 64),
    st.integers(1, 32),
    st.booleans(),
    some_tags,
)
many_rooms = st.lists(a_room, max_size=len(names)).map(
    lambda rows: [
        Room(facts(name, own, fetches, tags=tags), cpus, memory * MIB, held)
        for name, (cpus, memory, held, own, fetches, tags) in zip(names, rows, strict=False)
    ]
)
strategies: st.SearchStrategy[Strategy] = st.sampled_from(["near", "pack", "spread"])
wishes = st.builds(
    lambda vms, least, cpus, memory, strategy, near, tags: Wish(
        vms=vms,
        least=min(least, vms),
        cpus=cpus,
        memory=memory * MIB,
        strategy=strategy,
        near=near,
        requires=Requirements(tags=tags),
    ),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(0, 256),
    strategies,
    st.sampled_from(["", "h0", "h1", "elsewhere"]),
    some_tags,
)


@settings(max_examples=500, deadline=None)
@given(many_rooms, wishes)
def test_what_is_placed_fits_is_allowed_and_is_as_much_as_can_be(
    rooms: list[Room], wish: Wish
) -> None:
    able = [one for one in rooms if not missing(one.facts, wish)]
    most = sum(fits(one, wish) for one in able)
    if most < wish.least:
        with pytest.raises(NoRoom, match=f"room for {most}, not for {wish.least}"):
            place(rooms, wish)
        return
    places = place(rooms, wish)
    by_name = {one.name: one for one in rooms}
    for name, vms in places.items():
        one = by_name[name]
        assert vms >= 1
        assert vms * wish.cpus <= one.cpus
        assert vms * wish.memory <= one.memory or wish.memory == 0
        assert set(wish.requires.tags) <= set(one.facts.tags)
        assert one.facts.fetches or wish.near in ("", name)
    assert sum(places.values()) == min(wish.vms, most)


@settings(max_examples=300, deadline=None)
@given(many_rooms, wishes)
def test_pack_uses_as_few_hosts_as_can_be(rooms: list[Room], wish: Wish) -> None:
    packed = dataclasses.replace(wish, strategy="pack")
    try:
        places = place(rooms, packed)
    except NoRoom:
        return
    # equal VMs: taking the largest first is the fewest that any choice of hosts needs
    takes = sorted((fits(one, wish) for one in rooms if not missing(one.facts, wish)), reverse=True)
    left, fewest = sum(places.values()), 0
    while left > 0:
        left -= takes[fewest]
        fewest += 1
    assert len(places) == fewest


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 12), st.integers(0, 30), st.integers(1, 80), st.integers(1, 8), st.integers(1, 9)
)
def test_spread_differs_by_at_most_one_between_equal_hosts(
    hosts: int, held: int, vms: int, cpus: int, own: int
) -> None:
    rooms = [room(f"h{i}", 64, 1 << 20, held, cpus=own) for i in range(hosts)]
    wish = Wish(vms=vms, least=1, cpus=cpus, memory=MIB, strategy="spread")
    places = place(rooms, wish)
    each = [places.get(one.name, 0) for one in rooms]
    assert max(each) - min(each) <= 1


def test_spread_evens_out_processors_whatever_a_vm_has() -> None:
    rooms = [room("busy", 8, held=8), room("idle", 16)]
    wish = Wish(vms=2, least=2, cpus=4, memory=MIB, strategy="spread")
    assert place(rooms, wish) == {"idle": 2}
    # 8 of 16 are held on both now: the next four are two each
    rooms = [room("busy", 24, held=8), room("idle", 24, held=8)]
    wish = Wish(vms=4, least=2, cpus=4, memory=MIB, strategy="spread")
    assert place(rooms, wish) == {"busy": 2, "idle": 2}
    rooms = [room("busy", 24, held=8), room("idle", 32)]
    assert place(rooms, wish) == {"busy": 1, "idle": 3}


def test_spread_follows_what_each_host_has_of_its_own() -> None:
    rooms = [room("large", 64, cpus=32), room("small", 64, cpus=8)]
    wish = Wish(vms=10, least=10, cpus=1, memory=MIB, strategy="spread")
    assert place(rooms, wish) == {"large": 8, "small": 2}


@settings(max_examples=300, deadline=None)
@given(many_rooms, wishes)
def test_near_fills_the_parents_host_first(rooms: list[Room], wish: Wish) -> None:
    near = dataclasses.replace(wish, strategy="near", near="h0")
    try:
        places = place(rooms, near)
    except NoRoom:
        return
    parent = next((one for one in rooms if one.name == "h0"), None)
    here = fits(parent, near) if parent and not missing(parent.facts, near) else 0
    assert places.get("h0", 0) == min(here, near.vms)


def test_near_goes_on_with_the_fullest_hosts() -> None:
    rooms = [room("idle", 8), room("full", 4, held=12), room("parent", 2, held=14)]
    wish = Wish(vms=5, least=5, cpus=1, memory=MIB, near="parent")
    assert place(rooms, wish) == {"parent": 2, "full": 3}


def test_pack_prefers_one_fuller_host_that_takes_all() -> None:
    rooms = [room("idle", 16), room("full", 4, held=12), room("half", 8, held=8)]
    wish = Wish(vms=6, least=6, cpus=1, memory=MIB, strategy="pack")
    assert place(rooms, wish) == {"half": 6}


@settings(max_examples=200, deadline=None)
@given(many_rooms, wishes, st.randoms(use_true_random=False))
def test_the_order_of_the_hosts_decides_nothing(
    rooms: list[Room], wish: Wish, chance: random.Random
) -> None:
    shuffled = list(rooms)
    chance.shuffle(shuffled)
    try:
        places = place(rooms, wish)
    except NoRoom:
        with pytest.raises(NoRoom):
            place(shuffled, wish)
        return
    assert place(shuffled, wish) == places


@pytest.mark.parametrize("strategy", ["near", "pack", "spread"])
@pytest.mark.parametrize(
    ("rooms", "wish", "says"),
    [
        ([], {}, "no host answers"),
        ([room("h", 0)], {}, "h: no processors left"),
        ([room("h", 8, 0)], {}, "h: no memory left"),
        ([room("h", -4, -4)], {}, "h: no processors left"),
        ([room("h"), room("i")], {"requires": Requirements(tags=["ssd"])}, "2 hosts: no tag ssd"),
        ([room("h")], {"requires": Requirements(networks=["dmz"])}, "h: no network dmz"),
        ([room("h")], {"requires": Requirements(storage=["nfs"])}, "h: no storage nfs"),
        (
            [room("h", tags=["b"])],
            {"requires": Requirements(tags=["c", "b", "a"])},
            "h: no tag a, c",
        ),
        ([room("h", fetches=False)], {"near": "i"}, "h: cannot fetch another's images"),
        ([room("h", 3, 99)], {"vms": 4, "least": 4}, "h has 3 processors and 99 MiB left"),
        ([room("h", 3), room("i", 0)], {"vms": 4, "least": 4}, "i: no processors left"),
    ],
)
def test_a_refusal_names_its_reason(
    rooms: list[Room], wish: dict[str, object], says: str, strategy: Strategy
) -> None:
    whole = {"vms": 1, "least": 1, "cpus": 1, "memory": MIB, "strategy": strategy, **wish}
    with pytest.raises(NoRoom) as refused:
        place(rooms, Wish(**whole))  # type: ignore[arg-type]
    assert says in refused.value.message
    assert refused.value.advice


def test_a_refusal_says_how_much_there_is_and_what_one_vm_takes() -> None:
    wish = Wish(vms=9, least=5, cpus=2, memory=64 * MIB)
    with pytest.raises(NoRoom, match=r"room for 4, not for 5 \(2 processors, 64 MiB each\)"):
        place([room("h", 4), room("i", 5)], wish)
    with pytest.raises(NoRoom, match=r"\(1 processor, "):
        place([], Wish(vms=1, least=1, cpus=1, memory=0))


def test_what_empty_hosts_would_take_counts_whole_vms_of_those_that_may() -> None:
    rooms = [room("h", 0, 0, cpus=2), room("i", -3, 0, cpus=2), room("j", 9, cpus=9, tags=["ssd"])]
    each = [Wish(vms=99, least=1, cpus=cpus, memory=MIB) for cpus in (1, 3, 4, 5)]
    assert [ever(rooms[:2], wish) for wish in each] == [16, 4, 4, 2]
    assert ever(rooms, Wish(99, 1, 6, MIB, requires=Requirements(tags=["ssd"]))) == 6
    assert ever(rooms, Wish(99, 1, 6, MIB, near="elsewhere")) == 8
    assert ever(rooms, Wish(99, 1, 1, 1 << 39)) == 6


def test_a_few_reasons_stand_for_a_thousand_hosts() -> None:
    rooms = [room(f"h{i}", 0) for i in range(900)] + [room(f"i{i}", 4, 0) for i in range(100)]
    with pytest.raises(NoRoom) as refused:
        place(rooms, Wish(vms=1, least=1, cpus=1, memory=MIB))
    assert "900 hosts: no processors left; 100 hosts: no memory left" in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("strategy", ["near", "pack", "spread"])
def test_a_thousand_hosts_are_filled_to_the_last_place(strategy: Strategy) -> None:
    chance = random.Random(3)
    rooms = [
        room(f"h{i:04}", chance.randrange(64), 4096, chance.randrange(64)) for i in range(1000)
    ]
    most = sum(one.cpus // 2 for one in rooms)
    wish = Wish(vms=most, least=most, cpus=2, memory=32 * MIB, strategy=strategy, near="h0007")
    places = place(rooms, wish)
    assert places == {one.name: one.cpus // 2 for one in rooms if one.cpus > 1}
    with pytest.raises(NoRoom):
        place(rooms, Wish(vms=most + 1, least=most + 1, cpus=2, memory=32 * MIB))
