"""What the pages name exists: links, paths, commands and make's targets. The README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from esper.cli.main import COMMANDS
from tests.support.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SUFFIXES = {".avsc", ".json", ".md", ".py", ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml"}
FOLDERS = {each.name for each in ROOT.iterdir() if each.is_dir() and each.name not in (".esper", ".venv")}
_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def links(text: str) -> list[str]:
    """Where links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def paths(text: str) -> set[str]:
    """Paths between backticks that look like files and folders of this repository. NAME in one is to be filled in."""
    written = set(re.findall(r"`(\w+\.py)`[^`]*```python", text))  # programs that the reader types
    found = set(re.findall(r"`([\w.*-]+(?:/[\w.*-]+)*/?)`", _BLOCK.sub("", text)))
    return {
        path
        for path in found - written
        if ("/" in path and path.partition("/")[0] in FOLDERS) or Path(path).suffix in SUFFIXES
        if not re.search(r"\b[A-Z]{2,}\b", Path(path).stem) or (ROOT / path).exists()
    }


def commands(text: str) -> set[str]:
    """What follows ``esper`` where it is typed: after a backtick, a prompt or a sign of the shell, or in a line."""
    return set(re.findall(r"(?:^|`|\$ |\$\(|\| |; |&& )esper ([a-z][a-z-]*)\b", text, re.MULTILINE))


def targets(text: str) -> set[str]:
    """What follows ``make``, likewise."""
    return set(re.findall(r"(?:^|`|\$ )(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)", text, re.MULTILINE))


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in links(page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text("utf-8")), target


@each_page
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert [path for path in sorted(paths(page.read_text("utf-8"))) if not any(ROOT.glob(path))] == []


@each_page
def test_every_command_that_a_page_names_is_known(page: Path) -> None:
    assert commands(page.read_text("utf-8")) - set(COMMANDS) == set()


@each_page
def test_every_target_of_make_that_a_page_names_is_in_the_makefile(page: Path) -> None:
    known = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert targets(page.read_text("utf-8")) - known == set()


def test_what_is_not_there_would_be_told() -> None:
    text = "`esper/none.py` `none.py` `esper/none/` `kinds/none.py` `esper conquer` `make gold` [it](none.md#none)\n"
    assert paths(text) == {"esper/none.py", "none.py", "esper/none/", "kinds/none.py"}
    assert (commands(text), targets(text), links(text)) == ({"conquer"}, {"gold"}, ["none.md#none"])
    assert commands("$ esper one\nesper two\nRUN=$(esper three); esper four") == {"one", "two", "three", "four"}


def test_the_pages_name_enough_for_these_tests_to_say_something() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert len(paths(text)) > 100
    assert len(links(text)) > 40
    assert len(commands(text)) > 25
    assert targets(text) >= {"demo", "test", "lint", "bench"}


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_every_page_is_linked_from_the_readme() -> None:
    assert {str(page.relative_to(ROOT)) for page in PAGES if page != README} - set(links(README.read_text())) == set()


def test_every_page_begins_with_what_it_answers() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        title, blank, sentence = page.read_text("utf-8").split("\n", 2)
        assert title.startswith("# "), page.name
        assert blank == "", page.name
        assert re.match(r"[A-Z`]", sentence), page.name
