"""Links, commands, Makefile targets, modules and configurations that the documentation names exist."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from diffportrait3d.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("checkpoints/*/README.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def targets() -> set[str]:
    """Every target of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {name for line in re.findall(r"^([\w\- ]+):(?!=)", text, re.MULTILINE) for name in line.split()}


@pages
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


@pages
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)(?:\.venv/bin/)?diffportrait3d ([a-z][\w-]+)", text, re.MULTILINE))
    assert named <= set(COMMANDS)
    made = set(re.findall(r"(?:^|`)make ([a-z][\w-]+)", text, re.MULTILINE))
    assert made <= targets()
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pages
def test_configurations_exist(page: Path) -> None:
    for name in re.findall(r"configs/[\w/]+\.yaml", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


def test_readme_is_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_make_help_lists_every_target() -> None:
    printed = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [name for name in targets() if not re.search(rf"\b{re.escape(name)}\b", printed)] == []
