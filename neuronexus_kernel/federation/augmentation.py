"""Augmentation: random changes of the training inputs, as data and as one function.

Every row's change is a pure function of the row's own 64-bit key: random numbers are hashes of
(key, the entry's place, a counter).  So a row is changed in the same way by every executor, alone
or among thousands, on any device, and whatever else was drawn before.  Pixels are only moved and
copied, hence those changes are exact; noise is drawn in float64 and rounded once.

Sources: He et al. 2016, arXiv:1512.03385 (shift, flip); Zagoruyko and Komodakis 2016,
arXiv:1605.07146 (crop from an image padded by its own reflection); DeVries and Taylor 2017,
arXiv:1708.04552 (cutout); Box and Muller 1958 (normal noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation.fields import Setting, Value, number, positive, settings_of, whole
from neuronexus_kernel.models.noise import BITS, bits_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from neuronexus_kernel.models import Architecture

Entry: TypeAlias = Mapping[str, Value]
"""One augmentation: its name and its parameters, such as ``{"name": "shift", "pixels": 2}``."""

MOST_ENTRIES = 10

_ROWS = 0x61756773
"""The stream of a step's key that the rows' keys come from; a node's place is never so large."""


def row_keys(keys: Tensor, batch: int) -> Tensor:
    """Return the key of each row of some batches.

    Parameters
    ----------
    keys
        int64 (n,): the noise key of the step that each batch belongs to.
    batch
        Rows in a batch.

    Returns
    -------
    Tensor
        int64 (n, batch): a hash of the step's key and the row's place in its batch.
    """
    return bits_tensor(keys[:, None], _ROWS, batch)


def augment(inputs: Tensor, keys: Tensor, augmentations: Sequence[Entry]) -> Tensor:
    """Return inputs changed by each augmentation in turn; labels stay as they are.

    Parameters
    ----------
    inputs
        (n, \\*shape), floating point; not changed.
    keys
        int64 (n,): one for each row, which alone decides the row's change.
    augmentations
        Those of a recipe.
    """
    for place, entry in enumerate(augmentations):
        inputs = _KINDS[str(entry["name"])].apply(inputs, _Draw(keys, place), entry)
    return inputs


def check_augmentation(given: object, architecture: Architecture) -> tuple[Entry, ...]:
    """Check a recipe's augmentations; return them in their normal form, in the same order.

    Parameters
    ----------
    given
        A sequence of mappings, each with a ``name`` and the parameters that belong to it.
    architecture
        What the inputs are for: most augmentations need an image.

    Raises
    ------
    RecipeError
        If one is unknown or malformed, or does not fit the architecture's input.
    """
    if not isinstance(given, (list, tuple)):
        raise RecipeError(
            "augmentation must be a list such as [{'name': 'flip', 'probability': 0.5}], "
            f"not a {type(given).__name__}."
        )
    if len(given) > MOST_ENTRIES:
        raise RecipeError(f"augmentation has {len(given)} entries; at most {MOST_ENTRIES}.")
    return tuple(_entry(place, each, architecture) for place, each in enumerate(given))


def _entry(place: int, given: object, architecture: Architecture) -> Entry:
    field = f"augmentation[{place}]"
    if not isinstance(given, Mapping):
        raise RecipeError(f"{field} must be a mapping with a name, not a {type(given).__name__}.")
    name = given.get("name")
    if not isinstance(name, str) or name not in _KINDS:
        raise RecipeError(f"{field}: name must be one of {', '.join(_KINDS)}, not {name!r}.")
    kind = _KINDS[name]
    parameters = {key: value for key, value in given.items() if key != "name"}
    checked = settings_of(field, name, parameters, kind.settings)
    _check_fits(field, name, checked, architecture)
    return MappingProxyType({"name": name, **checked})


def _check_fits(
    field: str, name: str, parameters: Mapping[str, Value], architecture: Architecture
) -> None:
    shape = architecture.input_shape
    if architecture.input_dtype == "int64":
        raise RecipeError(f"{field}: {name} changes numbers, but the model's inputs are tokens.")
    if not _KINDS[name].image:
        return
    if len(shape) != 3:
        raise RecipeError(
            f"{field}: {name} needs images (channels, height, width), but the architecture's "
            f"inputs have shape {shape}; capture one that takes images and flattens them itself."
        )
    room = min(shape[1:])
    for key in ("pixels", "padding", "size"):
        most = room if key == "size" else room - 1
        if key in parameters and int(parameters[key]) > most:
            raise RecipeError(
                f"{field}[{key!r}] must be at most {most} for images of "
                f"{shape[1]} x {shape[2]}, not {parameters[key]}."
            )


class _Draw:
    """The random numbers that one augmentation may draw for each row."""

    def __init__(self, keys: Tensor, place: int) -> None:
        self._keys = keys[:, None]
        self._place = place

    def unit(self, count: int) -> Tensor:
        """Return numbers uniform in [0, 1): float64 (n, count)."""
        return bits_tensor(self._keys, self._place, count).double() * 2.0**-BITS

    def whole(self, low: int, high: int, count: int) -> Tensor:
        """Return whole numbers from `low` to `high`, both possible: int64 (n, count)."""
        return (self.unit(count) * (high - low + 1)).floor().long() + low

    def normal(self, count: int) -> Tensor:
        """Return standard normal numbers: float64 (n, count)."""
        half = -(-count // 2)
        unit = self.unit(2 * half)
        radius = (-2.0 * (1.0 - unit[:, :half]).log()).sqrt()
        angle = 2.0 * math.pi * unit[:, half:]
        return _join(radius * angle.cos(), radius * angle.sin())[:, :count]


def _join(left: Tensor, right: Tensor) -> Tensor:
    import torch

    return torch.cat((left, right), dim=1)


def _shift(images: Tensor, draw: _Draw, entry: Entry) -> Tensor:
    import torch

    (rows, row_inside), (columns, column_inside) = _moved(images, draw, int(entry["pixels"]))
    taken = _take(images, rows, columns)
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
    return torch.where(inside, taken, torch.zeros((), dtype=images.dtype, device=images.device))


def _crop(images: Tensor, draw: _Draw, entry: Entry) -> Tensor:
    (rows, _), (columns, _) = _moved(images, draw, int(entry["padding"]), reflect=True)
    return _take(images, rows, columns)


def _flip(images: Tensor, draw: _Draw, entry: Entry) -> Tensor:
    import torch

    chosen = draw.unit(1) < float(entry["probability"])
    return torch.where(chosen[:, :, None, None], images.flip(3), images)


def _cutout(images: Tensor, draw: _Draw, entry: Entry) -> Tensor:
    size = int(entry["size"])
    height, width = images.shape[2:]
    centre = draw.unit(2)
    rows = _within(centre[:, :1], height, size)
    columns = _within(centre[:, 1:], width, size)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def _noise(inputs: Tensor, draw: _Draw, entry: Entry) -> Tensor:
    # Rounded through float32: the last bits of a logarithm may differ with the vector unit.
    count = math.prod(inputs.shape[1:])
    drawn = (draw.normal(count) * float(entry["scale"])).float().to(inputs.dtype)
    return inputs + drawn.view(inputs.shape)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one augmentation does, and to what."""

    apply: Callable[[Tensor, _Draw, Entry], Tensor]
    settings: Mapping[str, Setting]
    image: bool = True


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "shift": _Kind(_shift, {"pixels": Setting(whole(1, 1000))}),
        "flip": _Kind(
            _flip, {"probability": Setting(number(0.0, 1.0, low_allowed=False), default=0.5)}
        ),
        "crop": _Kind(_crop, {"padding": Setting(whole(1, 1000))}),
        "noise": _Kind(_noise, {"scale": Setting(positive(1000.0))}, image=False),
        "cutout": _Kind(_cutout, {"size": Setting(whole(1, 1000))}),
    }
)

AUGMENTATIONS: tuple[str, ...] = tuple(_KINDS)
"""Names of all augmentations.

``shift`` moves an image by up to ``pixels`` in each direction and fills with zeros; ``flip``
mirrors it from left to right with a ``probability``; ``crop`` takes an image of the old size from
one padded on all sides with ``padding`` reflected pixels; ``noise`` adds normal noise of standard
deviation ``scale`` to inputs of any shape; ``cutout`` sets a square of ``size`` pixels around a
random pixel to zero, as much of it as lies inside the image.
"""


def _moved(
    images: Tensor, draw: _Draw, most: int, *, reflect: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Return, for height and width, which pixel each takes (n, size) and whether it exists."""
    import torch

    offsets = draw.whole(-most, most, 2)
    moved = []
    for axis, size in enumerate(images.shape[2:]):
        at = torch.arange(size, device=images.device) + offsets[:, axis : axis + 1]
        inside = (at >= 0) & (at < size)
        at = (size - 1) - ((size - 1) - at.abs()).abs() if reflect else at.clamp(0, size - 1)
        moved.append((at, inside))
    return moved


def _take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images whose pixel (y, x) is the old one at (rows[y], columns[x])."""
    import torch

    count, channels, height, width = images.shape
    flat = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width)
    taken = images.reshape(count, channels, -1).gather(2, flat.expand(-1, channels, -1))
    return torch.reshape(taken, images.shape)


def _within(centre: Tensor, size: int, width: int) -> Tensor:
    """Return which of `size` pixels lie in a window around a random one: bool (n, size)."""
    import torch

    start = (centre * size).floor().long() - width // 2
    at = torch.arange(size, device=centre.device)
    return (at >= start) & (at < start + width)
