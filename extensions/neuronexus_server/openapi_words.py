"""Docstrings in the style of NumPy, read for the API's description."""

from __future__ import annotations

import inspect
import re

_SECTIONS = re.compile(r"^(Parameters|Returns|Raises|Attributes|Yields|Scopes)\n-+\n", re.MULTILINE)


def words_of(text: str) -> tuple[str, str, dict[str, dict[str, str]]]:
    """Return a docstring's first line, its further paragraphs, and its sections by name."""
    head, *sections = _SECTIONS.split(inspect.cleandoc(text))
    summary, _, rest = head.strip().partition("\n\n")
    found = dict(zip(sections[::2], map(_entries, sections[1::2]), strict=True))
    return _plain(summary), "\n\n".join(_plain(each) for each in rest.split("\n\n")), found


def _entries(section: str) -> dict[str, str]:
    """Return the entries of a section: what is told about each name."""
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            name = line.partition(" :")[0]
            found[name] = ""
        elif line and name:
            found[name] = _plain(f"{found[name]} {line}")
    return found


def _plain(text: str) -> str:
    """Join lines, and write code as Markdown does."""
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split()))
