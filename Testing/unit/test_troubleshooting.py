"""The page for when something goes wrong: its messages are those of the code, all of them."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import pytest
from told_messages import GAP, ROOT, plain, told_by

PAGE = ROOT.parents[1] / "Docs" / "troubleshooting.md"
# What users of the panel, the command line and a server meet; training and data sets have pages of their own.
PARTS = (
    "RAUSlicerLib",
    "rau/worker",
    "rau/volume",
    "rau/preparation.py",
    "rau/references",
    "rau/corrections.py",
    "rau/export",
    "rau/models",
    "rau/bank",
    "rau/local_ray.py",
    *(f"rau/commands/{name}.py" for name in ("bank", "batch", "describe", "evaluate", "models", "segment", "serve")),
)


@lru_cache(maxsize=1)
def rows() -> list[list[str]]:
    """The cells of every row of the tables under a head that begins with "what it says"."""
    found, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [one.strip().replace("\\|", "|") for one in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == "what it says":
            inside = True
        elif inside and not set(cells[0]) <= set("- "):
            found.append(cells)
    return found


@lru_cache(maxsize=1)
def said_by_the_code() -> str:
    """All fixed texts of the sources, a line each."""
    texts = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"\{\w*\}", GAP, " ".join(node.value.split())))
    return "\n".join(texts)


def test_every_message_of_the_page_is_still_in_the_code():
    assert len(rows()) > 150
    gone = []
    for message, *_ in rows():
        pieces = [one.strip(" (:),;") for one in message.split(GAP) if len(one.strip(" (:),;")) >= 8]
        if not all(piece in said_by_the_code() for piece in pieces):
            gone.append(message)
    assert gone == []


def test_every_message_of_the_code_is_on_the_page():
    known = {message for message, *_ in rows()}
    assert [f"{one.where}: {one.message}" for one in told_by(*PARTS) if one.message not in known] == []


def test_every_row_says_what_to_do():
    for cells in rows():
        assert len(cells) in (1, 3), cells
        assert len(cells) == 1 or len(cells[2]) > 3, f"what to do about: {cells[0]}"
        assert plain(cells[0]) == cells[0]


def test_no_row_is_there_twice_in_a_section():
    section: set[str] = set()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = set()
        if line.startswith("| ") and not line.startswith(("| what", "| ---")):
            assert line not in section, line
            section.add(line)


@pytest.mark.parametrize("page", ["README.md", "Docs/tutorial.md"])
def test_readers_find_the_page(repository, page):
    text = (repository / page).read_text(encoding="utf-8")
    assert re.search(r"\]\((Docs/)?troubleshooting\.md\)", text), f"{page} links it"
