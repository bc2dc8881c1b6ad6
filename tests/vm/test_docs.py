"""Every example in README.md, the tutorial and the how-to pages does what the page says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.vm.machinery import ROOT, Copper, a_copper, images_folder
from tests.vm.pages import Command, Example, commands_of, examples_of, is_what_the_page_shows
from tests.vm.reader import Reader

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        ROOT / "README.md",
        ROOT / "docs/performance.md",
        *(ROOT / "docs/tutorial").glob("*.md"),
        *(ROOT / "docs/how-to").glob("*.md"),
    ]
)
# every block that a page marks as not run, by its reason
NOT_RUN = {
    "README.md": [
        "they install Debian packages; what copper demo does is run before the next ones"
    ],
    "docs/how-to/accounts.md": ["curl is not among what Copper needs"],
    "docs/how-to/automate.md": ["it has no end"],
    "docs/how-to/bench.md": [
        "it takes half an hour; tests/bench has a quick one",
        "it takes half an hour; tests/bench has a quick one",
        "it takes a quarter of an hour; tests/bench has a tiny one",
        "it takes minutes; tests/bench has a tiny one",
        "it takes ten minutes; tests/bench has one with three clones",
        "it takes minutes; tests/bench has a tiny one",
    ],
    "docs/how-to/commands.md": [
        "examples of pipes with programs of your own",
        "it needs a keyboard",
        "ten seconds of waiting",
    ],
    "docs/how-to/images.md": [
        "the text of a file",
        "a cloud image is hundreds of megabytes; tests/vm/test_import.py makes and imports one",
    ],
    "docs/how-to/names.md": [
        "the port may be another's; tests/cluster/test_names.py asks at one that is free",
        "the port may be another's; tests/cluster/test_names.py asks at one that is free",
        "it needs a guest with dig; tests/vm/test_names.py asks by nslookup and getent",
    ],
    "docs/how-to/public-addresses.md": [
        "it needs a network of yours; tests/cluster/test_public_addresses.py does it with fake machines",
        "it needs a network of yours; tests/vm/test_public.py does it with real guests",
        "it needs a network of yours; tests/cluster/test_public_addresses.py does it with fake machines",
        "it needs a network of yours; tests/cluster/test_public_addresses.py does it with fake machines",
        "it needs a network of yours; tests/cluster/test_public_addresses.py does it with fake machines",
    ],
    "docs/performance.md": [
        "it takes half an hour; tests/bench has a quick one",
        "it takes half an hour; tests/bench has a quick one",
        "it takes minutes; tests/bench has a tiny one",
        "it takes minutes; tests/bench has a tiny one",
        "it takes minutes; tests/bench has a tiny one",
        "it takes minutes; tests/bench has a tiny one",
        "it uses all memory of the host; tests/bench has a tiny one",
        "it takes an hour; tests/bench has a tiny one",
    ],
    "docs/how-to/programs.md": ["the first build takes minutes; tests have the image"],
    "docs/how-to/ssh.md": ["it takes a key of yours in the VM"],
    "docs/how-to/users.md": ["it needs a certificate"],
    "docs/tutorial/first-fork.md": ["it needs a keyboard"],
}
# what a page takes for granted
BEFORE = {
    "README.md": "copper demo",
    "docs/how-to/automate.md": "copper up",
    "docs/how-to/clusters.md": "copper up",
    "docs/how-to/accounts.md": "copper up; gc-vc create demo --image micro; gc-vc boot demo",
    "docs/how-to/audit.md": "copper up; gc-vc create demo --image micro; gc-vc boot demo",
    "docs/how-to/images.md": "copper up",
    "docs/how-to/ssh.md": """
        copper up
        gc-vc create demo --image debian-12
        gc-vc boot demo
        mkdir site""",
    "docs/how-to/programs.md": "copper up",
    "docs/how-to/connections.md": "copper up",
    "docs/how-to/commands.md": """
        copper up
        gc-vc create demo --image micro
        gc-vc boot demo
        gc-vm exec demo-0 -- sh -c 'mkdir -p /srv/site; touch /var/log/app.log /etc/app.ini'
        gc-vm exec demo-0 -- gc clone 3
        mkdir site
        touch app.tar.gz config.ini site/index.html""",
}
# Two Debians would take two minutes: the recipe that is built here under that name is micro. Others
# test that debian-12 is built and boots.
SMALL = "docs/how-to/images.md"
DEV = "docs/how-to/programs.md"  # needs debian-12-dev
EDITOR = '#!/bin/sh\n[ -e "$1" ] || echo "#!/bin/sh" >"$1"\n'


def checkout(page: str, folder: Path) -> Path:
    """A folder that looks like a checkout, as far as the pages need it."""
    made = folder / "checkout"
    for name in ("src", "images"):
        shutil.copytree(ROOT / name, made / name)
    if page == SMALL:
        shutil.rmtree(made / "images/debian-12")
        shutil.copytree(ROOT / "images/micro", made / "images/debian-12")
    return made


def follow(copper: Copper, page: str, examples: list[Example], folder: Path) -> None:
    """Does what the page says, one example after the other."""
    state = copper.settings.state_dir
    (state / "cache").symlink_to(images_folder() / "cache")
    if page.startswith("docs/tutorial"):
        shutil.rmtree(state / "images")
    copper.stop()  # the page says when to start it
    editor = folder / "editor"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    reader = Reader(copper, checkout(page, folder), EDITOR=str(editor))
    try:
        reader.run(BEFORE.get(page, ""))
        for example in examples:
            print(f"{page}, line {example.line}:\n{example.text}")
            if example.kind == "console":
                reader.type(commands_of(example.text))
            else:
                print(reader.run(example.text))
    finally:
        copper.run("copper", "down")
        copper.process = None


@pytest.mark.parametrize("page", PAGES)
def test_every_example_does_what_the_page_says(
    page: str,
    accel: str,
    micro: str,
    debian: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if page == DEV:
        request.getfixturevalue("debian_dev")
    examples = [example for example in all_of(page) if not example.not_run]
    if examples:
        with a_copper(accel) as copper:
            follow(copper, page, examples, tmp_path)


def all_of(page: str) -> list[Example]:
    return examples_of((ROOT / page).read_text())


def test_the_blocks_that_are_not_run_are_those_known() -> None:
    found = {page: [example.not_run for example in all_of(page)] for page in PAGES}
    assert {page: [*filter(None, why)] for page, why in found.items() if any(why)} == NOT_RUN


PAGE = """\
- a list

    command --one \\
      --two

<!-- not run: no keyboard -->
```console
$ ask
```

```toml
a = 1
```
```console
$ for x in 1 2; do
>   echo $x
> done
1
2
$ true
$ ls
total …
…
last
```
"""


def test_blocks_and_their_marks_are_found() -> None:
    one, two, three = examples_of(PAGE)
    assert (one.line, one.kind, one.text) == (3, "sh", "command --one \\\n  --two\n")
    assert (one.not_run, two.not_run, three.not_run) == ("", "no keyboard", "")
    assert commands_of(three.text) == [
        Command("for x in 1 2; do\n  echo $x\ndone", "1\n2"),
        Command("true", ""),
        Command("ls", "total …\n…\nlast"),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  b", "a b\n", True),
        ("a … c", "a 17 c", True),
        ("a … c", "a 17 d", False),
        ("…\nlast", "last\n", True),
        ("…\nlast", "one\ntwo\nlast\n", True),
        ("first\n…", "first\nsecond\nthird", True),
        ("first", "first\nsecond", False),
        ("", "", True),
        ("", "word", False),
        ("1.5", "1x5", False),
    ],
)
def test_outputs_are_compared(shown: str, printed: str, same: bool) -> None:
    assert is_what_the_page_shows(shown, printed) == same
