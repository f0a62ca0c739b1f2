"""The templates of our pages: everything that is put in is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

_FOLDER = Path(__file__).parent / "templates"


def render(name: str, **values: Any) -> str:
    """Return a page from a template and the values in it."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=select_autoescape(), trim_blocks=True
    )
    environment.filters["moment"] = _moment
    return environment


def _moment(time: str) -> str:
    """Return a time to the minute, in UTC as the hub keeps it."""
    return f"{time[:10]} {time[11:16]} UTC" if len(time) >= 16 else time
