"""The look: one palette and one style sheet, used by every panel, chart and scene.

The style sheet is sent with the dashboard itself, so that it looks the same in a notebook and on
its own page; everything is scoped below ``.nx-dashboard``.
"""

from __future__ import annotations

from importlib.resources import files

PALETTE: dict[str, str] = {
    "bg": "#0b1020",
    "panel": "#131a2e",
    "line": "#243049",
    "text": "#e6ebf5",
    "muted": "#8fa0bf",
    "accent": "#4cc9f0",
    "gold": "#ffc857",
    "green": "#5ad1a0",
    "red": "#ff6b6b",
    "violet": "#a78bfa",
}
KIND_COLOURS = {"code": "violet", "compute": "accent", "data": "green", "hyperparameters": "gold"}
MONO = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'


def rgb(name: str) -> tuple[float, float, float]:
    """Return a colour of the palette as three numbers from 0 to 1."""
    value = PALETTE[name].lstrip("#")
    red, green, blue = (int(value[at : at + 2], 16) / 255 for at in (0, 2, 4))
    return red, green, blue


MARK = (
    '<svg class="nx-mark" viewBox="0 0 32 32" aria-hidden="true">'
    '<g stroke="#4cc9f0" stroke-width="2"><path d="M16 16 7 8M16 16l10-6M16 16v10"/></g>'
    '<g fill="#4cc9f0"><circle cx="7" cy="8" r="3"/><circle cx="26" cy="10" r="3"/>'
    '<circle cx="16" cy="26" r="3"/></g><circle cx="16" cy="16" r="4.5" fill="#ffc857"/></svg>'
)
_ICONS = {
    "code": "M6 4 2 8l4 4M10 4l4 4-4 4",
    "compute": "M4.5 4.5h7v7h-7zM6.5 1.5v3m3-3v3m-3 7v3m3-3v3m-8-8h3m-3 3h3m7-3h3m-3 3h3",
    "data": "M2.5 4c0-3.3 11-3.3 11 0s-11 3.3-11 0v8c0 3.3 11 3.3 11 0V4m-11 4c0 3.3 11 3.3 11 0",
    "hyperparameters": "M3 2v4m0 4v4M8 2v7m0 4v1M13 2v1m0 4v7M1.5 8h3M6.5 11h3M11.5 5h3",
}


def icon(kind: str) -> str:
    """Return the icon of a kind of contribution as inline SVG; empty for an unknown kind."""
    if kind not in _ICONS:
        return ""
    return (
        f'<svg class="nx-icon nx-{KIND_COLOURS[kind]}" viewBox="0 0 16 16" aria-hidden="true" '
        f'fill="none" stroke="currentColor" stroke-width="1.5"><path d="{_ICONS[kind]}"/></svg>'
    )


def css() -> str:
    """Return the whole style sheet: the palette as variables, then ``style.css``."""
    variables = "".join(f"--nx-{name}:{value};" for name, value in PALETTE.items())
    rules = files("neuronexus_widgets").joinpath("style.css").read_text("utf-8")
    return f".nx-dashboard{{{variables}--nx-mono:{MONO};}}\n{rules}"
