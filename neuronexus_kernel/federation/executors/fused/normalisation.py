"""Rules of the normalisations.

With xhat = (x - mean) * r, r = 1 / sqrt(variance + eps), y = w xhat + b and the delta d of y: the
bias's gradient is the sum of d, the weight's that of d xhat, and with e = d w the input's delta is
r (e - mean(e) - xhat mean(e xhat)), the means taken over what was normalised together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site

aten = torch.ops.aten


def batch_norm(site: Site) -> Derive:
    """Batch norm: torch's kernels, one client after another, over the rows that are examples.

    Filling lies behind a client's examples, so it is left out by looking at the first rows only;
    its values and deltas are zero.
    """
    x, y, state = site.inputs[0], site.output, site.state
    eps, momentum = site.arguments.real("eps"), site.arguments.real("momentum")
    affine = "weight" in state
    y.image = x.image
    each = torch.Size(x.shape[3:]).numel()
    forwards = torch.ops.aten.native_batch_norm.default
    join = site.join(y.shape, image=y.image)
    saved: list[tuple[Tensor, Tensor]] = []

    def forward() -> None:
        saved.clear()
        outputs = []
        for place, size in enumerate(_sizes(site)):
            weight, bias = (state[name][place] if affine else None for name in ("weight", "bias"))
            mean, variance = state["running_mean"][place], state["running_var"][place]
            single = size * each == 1
            running = (None, None) if single else (mean, variance)
            inputs = x.value[place, :size]
            output, *found = forwards(inputs, weight, bias, *running, True, momentum, eps)
            if single:  # its variance counts as zero
                mean.lerp_(found[0], momentum)
                variance.mul_(1.0 - momentum)
            saved.append((found[0], found[1]))
            outputs.append(_filled(output, site.batch))
        y.value = join(outputs)

    site.forward.append(forward)

    def derive() -> None:
        backwards = torch.ops.aten.native_batch_norm_backward.default
        deltas = site.join(x.shape, image=x.image)
        how = (None, None), (True, eps, (x.wanted, affine, affine))
        found: list[tuple[Tensor, Tensor, Tensor]] = []

        def backward() -> None:
            found.clear()
            for place, size in enumerate(_sizes(site)):
                delta, inputs = y.delta[place, :size], x.value[place, :size]
                weight = state["weight"][place] if affine else None
                found.append(backwards(delta, inputs, weight, *how[0], *saved[place], *how[1]))

        site.backward.append(backward)
        if x.wanted:
            site.give(x, lambda: deltas([_filled(dx, site.batch) for dx, _, _ in found]))
        if affine:
            site.descend("weight", lambda: torch.stack([dw for _, dw, _ in found]))
            site.descend("bias", lambda: torch.stack([db for _, _, db in found]))

    return derive


def group_norm(site: Site) -> Derive:
    """Group norm: torch's kernels, one client after another; they take one layout for all."""
    x, y, state = site.inputs[0], site.output, site.state
    groups, eps = site.arguments.whole("num_groups"), site.arguments.real("eps")
    affine = "weight" in state
    channels, each = x.shape[2], torch.Size(x.shape[3:]).numel()
    sizes = (site.batch, channels, each, groups)
    y.image = x.image
    layout = torch.channels_last if x.image else torch.contiguous_format
    join = site.join(y.shape, image=y.image)
    saved: list[tuple[Tensor, Tensor]] = []

    def taken(values: Tensor) -> list[Tensor]:
        return [each.contiguous(memory_format=layout) for each in values]

    def forward() -> None:
        saved.clear()
        outputs = []
        for place, inputs in enumerate(taken(x.value)):
            weight, bias = (state[name][place] if affine else None for name in ("weight", "bias"))
            output, mean, scale = torch.native_group_norm(inputs, weight, bias, *sizes, eps)
            saved.append((mean, scale))
            outputs.append(output)
        y.value = join(outputs)

    site.forward.append(forward)

    def derive() -> None:
        deltas = site.join(x.shape, image=x.image)
        found: Sequence[tuple[Tensor, Tensor, Tensor]] = ()

        def backward() -> None:
            nonlocal found
            found = [
                aten.native_group_norm_backward(
                    delta,
                    inputs,
                    *saved[place],
                    state["weight"][place] if affine else None,
                    *sizes,
                    (x.wanted, affine, affine),
                )
                for place, (delta, inputs) in enumerate(
                    zip(taken(y.delta), taken(x.value), strict=True)
                )
            ]

        site.backward.append(backward)
        if x.wanted:
            site.give(x, lambda: deltas([dx for dx, _, _ in found]))
        if affine:
            site.descend("weight", lambda: torch.stack([dw for _, dw, _ in found]))
            site.descend("bias", lambda: torch.stack([db for _, _, db in found]))

    return derive


def layer_norm(site: Site) -> Derive:
    """Layer norm: all clients at once, since it knows no clients before the weights."""
    x, y = site.inputs[0], site.output
    shape, eps = site.arguments.sizes("normalized_shape"), site.arguments.real("eps")
    saved: tuple[Tensor, Tensor, Tensor]

    def forward() -> None:
        nonlocal saved
        saved = torch.native_layer_norm(x.value, shape, None, None, eps)
        y.value = _scaled(site, saved[0], len(shape))

    site.forward.append(forward)

    def derive() -> None:
        def backward() -> Tensor:
            delta: Tensor = aten.native_layer_norm_backward(
                _unscaled(site, len(shape)),
                x.value,
                shape,
                *saved[1:],
                None,
                None,
                (True, False, False),
            )[0]
            return delta

        if x.wanted:
            site.give(x, backward)
        _descend(site, lambda: saved[0], len(shape))

    return derive


def rms_norm(site: Site) -> Derive:
    """RMS norm: no mean is taken off, so the input's delta is r (e - xhat mean(e xhat))."""
    x, y = site.inputs[0], site.output
    rank, eps = len(site.arguments.sizes("normalized_shape")), site.arguments.real("eps")
    over = tuple(range(-rank, 0))
    hat = site.take(x.shape)
    scale: Tensor

    def forward() -> None:
        nonlocal scale
        scale = x.value.square().mean(over, keepdim=True).add_(eps).rsqrt_()
        torch.mul(x.value, scale, out=hat)
        y.value = _scaled(site, hat, rank)

    site.forward.append(forward)

    def derive() -> None:
        def backward() -> Tensor:
            delta = _unscaled(site, rank)
            along = (delta * hat).mean(over, keepdim=True)
            return (delta - hat * along).mul_(scale)

        if x.wanted:
            site.give(x, backward)
        _descend(site, lambda: hat, rank)

    return derive


def _sizes(site: Site) -> Sequence[int]:
    """Return how many rows of each client are examples."""
    batch = site.feed.batch
    return (site.batch,) * site.clients if batch.full else [int(n) for n in batch.sizes.tolist()]


def _filled(rows: Tensor, batch: int) -> Tensor:
    """Return (size, ...) as (batch, ...), with zeros behind."""
    if len(rows) == batch:
        return rows
    return torch.cat((rows, rows.new_zeros(batch - len(rows), *rows.shape[1:])))


def _spread(site: Site, short: str, rank: int) -> Tensor:
    """Return a parameter (clients, \\*shape) with ones between, to be joined with values."""
    tensor = site.state[short]
    between = (1,) * (len(site.output.shape) - 1 - rank)
    return tensor.view(site.clients, *between, *tensor.shape[1:])


def _scaled(site: Site, hat: Tensor, rank: int) -> Tensor:
    """Return ``weight * hat + bias`` for what there is of them."""
    if "weight" not in site.state:
        return hat
    weight = _spread(site, "weight", rank)
    if "bias" not in site.state:
        return hat * weight
    return torch.addcmul(_spread(site, "bias", rank), hat, weight)


def _unscaled(site: Site, rank: int) -> Tensor:
    """Return the delta of xhat."""
    delta = site.output.delta
    return delta * _spread(site, "weight", rank) if "weight" in site.state else delta


def _descend(site: Site, hat: Callable[[], Tensor], rank: int) -> None:
    """Move weight and bias against the sums over all that shares them."""
    y = site.output
    over = tuple(range(1, len(y.shape) - rank))
    if "weight" in site.state:
        site.descend("weight", lambda: (y.delta * hat()).sum(over))
    if "bias" in site.state:
        site.descend("bias", lambda: y.delta.sum(over))
