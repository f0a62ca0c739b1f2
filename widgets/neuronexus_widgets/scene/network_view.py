"""The network, drawn: a hub, its members, the clients of the run and what flows between them.

All nodes are one point cloud, all links one set of line segments and all sparks another point
cloud, updated in place.  Motion costs the kernel nothing: see ``playback.py`` and ``shaders.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import ipywidgets as widgets
import numpy as np
import pythreejs as three
from numpy.typing import NDArray

from neuronexus_kernel.hub.records import Event
from neuronexus_widgets.scene import layout, playback, shaders
from neuronexus_widgets.scene.clock import Clock
from neuronexus_widgets.state import DashboardState
from neuronexus_widgets.theme import PALETTE, rgb
from neuronexus_widgets.words import count, escape

WIDTH, HEIGHT = 960, 640
"""Size of the picture; the page scales it to fill its panel and crops what is over."""
LABELS = 16
"""Members with a name beside them; the rest are points."""
ROUND_EVERY = 0.6
"""Rounds of training that come faster than this share one animation."""
_NEVER = float("-inf")
_CENTRE = (0.0, -0.45, 0.0)
_LEGEND = (
    ("gold", "hub"),
    ("green", "online"),
    ("accent", "training"),
    ("muted", "away"),
    ("violet", "client"),
)


class NetworkView:
    """The 3D view of a `DashboardState`.

    Parameters
    ----------
    now
        Where to read the time, in seconds; tests give their own.

    Attributes
    ----------
    widget
        What to show.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._places = np.zeros((0, 3), np.float32)
        self._rows: dict[str, int] = {}
        self._sparks: list[playback.Spark] = []
        self._labels: dict[str, three.Sprite] = {}
        self._drawn: tuple[object, ...] = ()
        self._last_round = self._last_set = _NEVER
        self._now = now
        size = layout.CAPACITY
        self._nodes = _squares(size + 1, position=3, look=4)
        self._flow = _squares(playback.SLOTS, position=3, birth=1, look=4)
        self._links = _lines(size)
        self._flow.attributes["corner"].observe(self._page_opened, "version")
        self._world = three.Group(name="world", children=self._objects())
        self.clock = Clock(self._world, "sparks", now)
        self._heading, self._legend = _overlay("nx-heading"), _overlay("nx-legend")
        self._legend.value = _legend()
        box = widgets.Box([self._heading, self._renderer(), self._legend])
        for name in ("nx-panel", "nx-scene", "nx-w7"):
            box.add_class(name)
        self.widget = box

    # -- drawing the state --------------------------------------------------------------------

    def update(self, state: DashboardState) -> None:
        """Draw members, clients and links as they are in `state`."""
        run = state.run
        active = run is not None and run.state == "running"
        anonymous = run.clients if run and not run.participants else 0
        cohort = run.history[-1].clients if run and active and run.history else ()
        people = tuple((m.name, m.online, m.training) for m in state.members)
        drawn = (people, anonymous, active, cohort)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        self._place([name for name, _, _ in people], anonymous)
        self._paint(people, anonymous, active, frozenset(cohort))
        self._name([name for name, _, _ in people][:LABELS])
        self._heading.value = _heading(state, anonymous)

    def _place(self, names: list[str], clients: int) -> None:
        places, rows = layout.arrange(names, clients)
        if rows == self._rows:
            return
        self._places, self._rows = places, dict(rows)
        nodes = np.zeros((layout.CAPACITY + 1, 3), np.float32)
        nodes[1 : len(places) + 1] = places
        links = np.zeros((layout.CAPACITY, 2, 3), np.float32)
        links[: len(places), 1] = places
        _set(self._nodes, "position", _four(nodes))
        _set(self._links, "position", links.reshape(-1, 3))

    def _paint(
        self,
        people: tuple[tuple[str, bool, bool], ...],
        clients: int,
        active: bool,
        cohort: frozenset[str],
    ) -> None:
        looks = np.zeros((layout.CAPACITY + 1, 4), np.float32)
        links = np.zeros((layout.CAPACITY, 2, 3), np.float32)
        looks[0] = (*rgb("gold"), 0.56)
        scale = min(1.0, max(0.45, (12 / max(1, len(people))) ** 0.5))
        for name, online, training in people:
            row = self._rows.get(name)
            if row is None:
                continue
            colour = "accent" if training else "green" if online else "muted"
            looks[row + 1] = (*rgb(colour), scale * (0.36 if training else 0.32))
            links[row] = _link(colour, 0.85 if training else 0.42 if online else 0.2)
        for index in range(clients):
            name = f"client {index}"
            row = self._rows.get(name)
            if row is None:
                continue
            picked = name in cohort
            looks[row + 1] = (*rgb("violet"), 0.16 if picked else 0.11)
            links[row] = _link("violet", 0.5 if picked else 0.16 if active else 0.1)
        _set(self._nodes, "look", _four(looks))
        _set(self._links, "color", links.reshape(-1, 3))

    def _name(self, names: list[str]) -> None:
        added = [name for name in names if name not in self._labels]
        for name in added:
            label = _label(name)
            x, y, z = (float(part) for part in self._places[self._rows[name]])
            label.position = (x, y - 0.52, z)
            self._labels[name] = label
        if added:
            self._world.children = (*self._world.children, *(self._labels[n] for n in added))

    # -- playing events -----------------------------------------------------------------------

    def play(self, events: Iterable[Event]) -> None:
        """Let what happened move: call with each batch, and without events now and then."""
        now = self.clock.time
        latest = list(events)
        rounds = [event for event in latest if event.kind == "run.round"]
        if rounds and self._now() - self._last_round < ROUND_EVERY:
            rounds = []
        if rounds:
            self._last_round = self._now()
        shown = [event for event in latest if event.kind != "run.round"][-8:] + rounds[-1:]
        fresh = [
            spark for event in shown for spark in playback.choreograph(event, now + 0.1, self._rows)
        ]
        if fresh:
            self._sparks = playback.keep([*self._sparks, *fresh], now)
            self._start()
        elif self.clock.running and now > playback.end(self._sparks) + 0.5:
            self.clock.pause()
        elif self.clock.running and self._last_set == _NEVER:
            self._start()

    def _page_opened(self, _: object) -> None:
        """Have the clock set again: a page that has just drawn the scene does not know it.

        The page tells by the version it gives to a buffer that is never changed from here.
        """
        self._last_set = _NEVER

    def _start(self) -> None:
        """Send the sparks; run the clock, setting it again every few seconds for late pages."""
        if not self.clock.running or self._now() - self._last_set > 6.0:
            self._sparks = playback.shift(self._sparks, self.clock.run())
            self._last_set = self._now()
        buffers = playback.encode(self._sparks, self._places)
        _set(self._flow, "position", _four(buffers.ends))
        _set(self._flow, "birth", _four(buffers.births))
        _set(self._flow, "look", _four(buffers.looks))

    # -- parts --------------------------------------------------------------------------------

    def _objects(self) -> list[three.Object3D]:
        nodes = three.ShaderMaterial(
            vertexShader=shaders.NODE_VERTEX,
            fragmentShader=shaders.NODE_FRAGMENT,
            transparent=True,
            depthWrite=False,
        )
        sparks = three.ShaderMaterial(
            vertexShader=shaders.SPARK_VERTEX,
            fragmentShader=shaders.SPARK_FRAGMENT,
            uniforms=shaders.spark_uniforms(),
            transparent=True,
            depthWrite=False,
            blending="AdditiveBlending",
        )
        lines = three.LineBasicMaterial(
            vertexColors="VertexColors",
            transparent=True,
            depthWrite=False,
            blending="AdditiveBlending",
        )
        return [
            three.LineSegments(_orbits(), lines, name="orbits"),
            three.LineSegments(self._links, lines, name="links", frustumCulled=False),
            three.Mesh(self._nodes, nodes, name="nodes", frustumCulled=False, renderOrder=1),
            three.Mesh(self._flow, sparks, name="sparks", frustumCulled=False, renderOrder=2),
        ]

    def _renderer(self) -> three.Renderer:
        camera = three.PerspectiveCamera(
            position=(0.0, 4.6, 11.0), fov=44, aspect=WIDTH / HEIGHT, near=0.1, far=100
        )
        camera.lookAt(_CENTRE)
        controls = three.OrbitControls(
            controlling=camera,
            target=_CENTRE,
            enableZoom=False,
            enablePan=False,
            minPolarAngle=0.5,
            maxPolarAngle=2.4,
        )
        scene = three.Scene(children=[self._world], background=PALETTE["panel"])
        return three.Renderer(
            scene=scene,
            camera=camera,
            controls=[controls],
            width=WIDTH,
            height=HEIGHT,
            antialias=True,
            background=PALETTE["panel"],
        )


def _squares(count: int, **widths: int) -> three.BufferGeometry:
    """Return a geometry of squares: four corners each, every attribute the same at all four."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float32)
    faces = np.array([0, 1, 2, 0, 2, 3], np.uint16)
    starts = 4 * np.arange(count, dtype=np.uint16)
    attributes: dict[str, NDArray[np.generic]] = {
        name: np.zeros((4 * count, width) if width > 1 else 4 * count, np.float32)
        for name, width in widths.items()
    }
    attributes["corner"] = np.tile(corners, (count, 1))
    attributes["index"] = (starts[:, None] + faces).ravel()
    return _geometry(attributes)


def _lines(count: int) -> three.BufferGeometry:
    ends = np.zeros((2 * count, 3), np.float32)
    return _geometry({"position": ends, "color": ends})


def _orbits() -> three.BufferGeometry:
    """Return faint circles around the hub, which make the space readable."""
    angle = np.linspace(0.0, 2.0 * np.pi, 129)
    circle = np.column_stack([np.cos(angle), np.zeros(129), np.sin(angle)])
    segments = np.stack([circle[:-1], circle[1:]], axis=1).reshape(-1, 3)
    radii = (0.5 * layout.MEMBER_RADIUS, layout.MEMBER_RADIUS, layout.CLIENT_RADIUS)
    places = np.concatenate([radius * segments for radius in radii]).astype(np.float32)
    colours = np.tile(np.array(rgb("line"), np.float32), (len(places), 1))
    return _geometry({"position": places, "color": 0.75 * colours})


def _geometry(attributes: dict[str, NDArray[np.generic]]) -> three.BufferGeometry:
    return three.BufferGeometry(
        attributes={
            name: three.BufferAttribute(values.copy(), normalized=False)
            for name, values in attributes.items()
        }
    )


def _four(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(values, 4, axis=0)


def _set(geometry: three.BufferGeometry, name: str, values: NDArray[np.float32]) -> None:
    attribute = geometry.attributes[name]
    if not np.array_equal(attribute.array, values):
        attribute.array = values


def _link(colour: str, strength: float) -> NDArray[np.float32]:
    """Return the colours of both ends of a link; additive, so that dark is faint."""
    outer = np.array(rgb(colour), np.float32) * np.float32(strength)
    return np.stack([outer * np.float32(0.35), outer])


def _label(name: str) -> three.Sprite:
    """Return a name as a picture of constant size; its texture is a square as wide as the text."""
    text = name if len(name) <= 16 else name[:15] + "…"
    texture = three.TextTexture(
        string=text,
        color=PALETTE["text"],
        size=44,
        fontFace="monospace",
        minFilter="LinearFilter",
        generateMipmaps=False,
    )
    material = three.SpriteMaterial(
        map=texture, transparent=True, depthTest=False, sizeAttenuation=False, opacity=0.9
    )
    side = 0.012 * len(text)
    return three.Sprite(material, scale=(side, side, 1.0), renderOrder=3)


def _overlay(name: str) -> widgets.HTML:
    box = widgets.HTML()
    box.add_class(name)
    return box


def _legend() -> str:
    items = "".join(
        f'<span><i style="background:{PALETTE[colour]}"></i>{word}</span>'
        for colour, word in _LEGEND
    )
    return f'<div class="nx-legend-items">{items}</div>'


def _heading(state: DashboardState, clients: int) -> str:
    parts = [count(len(state.members), "member")]
    if clients:
        parts.append(count(clients, "client"))
    hidden = len(state.members) + clients - layout.CAPACITY
    if hidden > 0:
        parts.append(f"{hidden:,} not drawn")
    return f"<h2>Network <small>{escape(', '.join(parts))}</small></h2>"
