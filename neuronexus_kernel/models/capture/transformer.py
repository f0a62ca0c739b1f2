"""Rules for nn.TransformerEncoder, nn.TransformerDecoder and their layers, from their sublayers.

PyTorch has fast paths for them in evaluation, which compute the same.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Translation

_Step = Callable[[object], object]


def _no_padding(*masks: object) -> None:
    if any(mask is not None for mask in masks):
        raise ArchitectureError(
            "a key_padding_mask depends on the input; make all sequences equally long instead."
        )


def _activation(g: Translation, function: object, x: object) -> object:
    if isinstance(function, nn.Module):
        return g.layer(function, x)
    rule = g.tables.functions.get(function) if callable(function) else None
    if rule is None:
        raise ArchitectureError("its activation is code; write activation='relu' or 'gelu'.")
    return rule(g, x)


def _attended(
    g: Translation,
    attention: nn.Module,
    dropout: nn.Module,
    x: object,
    memory: object,
    mask: object,
) -> object:
    given = g.layer(attention, x, memory, memory, attn_mask=mask)
    assert isinstance(given, tuple)
    return g.layer(dropout, given[0])


def _residual(g: Translation, x: object, norm: nn.Module, step: _Step, *, first: bool) -> object:
    """Return x + step(norm(x)), or norm(x + step(x))."""
    if first:
        return g.add("add", x, step(g.layer(norm, x)))
    return g.layer(norm, g.add("add", x, step(x)))


def _check_hint(mask: object, is_causal: object) -> None:
    if is_causal is True and mask is None:
        raise ArchitectureError("is_causal=True needs a mask too, as in PyTorch.")


def encoder_layer(
    g: Translation,
    layer: nn.TransformerEncoderLayer,
    src: object,
    src_mask: object = None,
    src_key_padding_mask: object = None,
    is_causal: object = False,
) -> object:
    """``nn.TransformerEncoderLayer``."""
    _no_padding(src_key_padding_mask)
    _check_hint(src_mask, is_causal)

    def attend(x: object) -> object:
        return _attended(g, layer.self_attn, layer.dropout1, x, x, src_mask)

    def forward(x: object) -> object:
        inner = _activation(g, layer.activation, g.layer(layer.linear1, x))
        return g.layer(layer.dropout2, g.layer(layer.linear2, g.layer(layer.dropout, inner)))

    first = bool(layer.norm_first)
    x = _residual(g, src, layer.norm1, attend, first=first)
    return _residual(g, x, layer.norm2, forward, first=first)


def encoder(
    g: Translation,
    layer: nn.TransformerEncoder,
    src: object,
    mask: object = None,
    src_key_padding_mask: object = None,
    is_causal: object = None,
) -> object:
    """``nn.TransformerEncoder``."""
    _no_padding(src_key_padding_mask)
    _check_hint(mask, is_causal)
    x = src
    for each in layer.layers:
        x = g.layer(each, x, src_mask=mask)
    return x if layer.norm is None else g.layer(layer.norm, x)


def decoder_layer(
    g: Translation,
    layer: nn.TransformerDecoderLayer,
    tgt: object,
    memory: object,
    tgt_mask: object = None,
    memory_mask: object = None,
    tgt_key_padding_mask: object = None,
    memory_key_padding_mask: object = None,
    tgt_is_causal: object = False,
    memory_is_causal: object = False,
) -> object:
    """``nn.TransformerDecoderLayer``."""
    _no_padding(tgt_key_padding_mask, memory_key_padding_mask)
    _check_hint(tgt_mask, tgt_is_causal)
    _check_hint(memory_mask, memory_is_causal)

    def attend(x: object) -> object:
        return _attended(g, layer.self_attn, layer.dropout1, x, x, tgt_mask)

    def cross(x: object) -> object:
        return _attended(g, layer.multihead_attn, layer.dropout2, x, memory, memory_mask)

    def forward(x: object) -> object:
        inner = _activation(g, layer.activation, g.layer(layer.linear1, x))
        return g.layer(layer.dropout3, g.layer(layer.linear2, g.layer(layer.dropout, inner)))

    x, first = tgt, bool(layer.norm_first)
    for norm, step in ((layer.norm1, attend), (layer.norm2, cross), (layer.norm3, forward)):
        x = _residual(g, x, norm, step, first=first)
    return x


def decoder(
    g: Translation,
    layer: nn.TransformerDecoder,
    tgt: object,
    memory: object,
    tgt_mask: object = None,
    memory_mask: object = None,
    tgt_key_padding_mask: object = None,
    memory_key_padding_mask: object = None,
    tgt_is_causal: object = None,
    memory_is_causal: object = False,
) -> object:
    """``nn.TransformerDecoder``."""
    _no_padding(tgt_key_padding_mask, memory_key_padding_mask)
    x = tgt
    for each in layer.layers:
        x = g.layer(each, x, memory, tgt_mask=tgt_mask, memory_mask=memory_mask)
    return x if layer.norm is None else g.layer(layer.norm, x)
