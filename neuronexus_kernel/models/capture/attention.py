"""Rules for attention: scaled dot products, and nn.MultiheadAttention.

With no mask or a causal one it is a single `attention` node; any other mask takes the products
apart, so that the mask is a node of its own.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import arithmetic
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.dropping import dropped
from neuronexus_kernel.models.capture.layers import linear
from neuronexus_kernel.models.capture.values import (
    BATCH,
    MASKED,
    Constant,
    Refused,
    Traced,
    Weight,
    shape_text,
)

_ADVICE = "F.scaled_dot_product_attention(..., dropout_p=p if self.training else 0.0)"


def scaled_dot_product_attention(
    g: Translation,
    query: object,
    key: object,
    value: object,
    attn_mask: object = None,
    dropout_p: object = 0.0,
    is_causal: object = False,
    scale: object = None,
    enable_gqa: object = False,
) -> Traced:
    """``F.scaled_dot_product_attention``."""
    if enable_gqa is not False:
        raise ArchitectureError(
            "enable_gqa is not supported; repeat keys and values for each head."
        )
    p = arithmetic.needed_number(dropout_p, "dropout_p")
    on = g.follows_mode(bool(p), _ADVICE)
    mask = _bool_mask_of_sdpa(attn_mask)
    factor = None if scale is None else arithmetic.needed_number(scale, "scale")
    return attend(
        g,
        g.tensor(query),
        g.tensor(key),
        g.tensor(value),
        mask=mask,
        causal=is_causal is True,
        p=p if on else 0.0,
        scale=factor,
    )


def _bool_mask_of_sdpa(mask: object) -> object:
    """Return a mask in which True shuts out, as everywhere but in this function of PyTorch."""
    if isinstance(mask, Constant) and mask.value.dtype == torch.bool:
        return Constant(~mask.value, mask.batch)
    return mask


def attend(
    g: Translation,
    query: Traced,
    key: Traced,
    value: Traced,
    *,
    mask: object = None,
    causal: bool = False,
    p: float = 0.0,
    scale: float | None = None,
) -> Traced:
    """Return softmax(q kᵀ · scale + mask) v.

    Parameters
    ----------
    query, key, value
        (..., steps, width), with the batch at one place among the leading dimensions.
    mask
        Constant of truth values (True shuts out) or of numbers to add; or None.
    causal
        Whether a step sees only those up to its own.
    p
        Dropout of the weights.
    scale
        None for one over the square root of the width.
    """
    for each in (query, key, value):
        if len(each.full) < 3 or BATCH in each.full[-2:]:
            raise ArchitectureError(
                f"it takes (batch, ..., steps, width), but is given {shape_text(each.full)}."
            )
    queries, keys, values = arithmetic.aligned(g, query, key, value)
    steps, past = queries.shape[-2], keys.shape[-2]
    if mask is not None and is_causal(mask, steps, past):
        causal, mask = True, None
    if mask is None:
        usual = scale is None or math.isclose(scale, queries.shape[-1] ** -0.5, rel_tol=1e-12)
        factor = 0.0 if usual or scale is None else scale
        return g.add("attention", queries, keys, values, causal=causal, p=p, scale=factor)
    if causal:
        raise ArchitectureError("it has a mask and is causal too; put both into the mask.")
    return _taken_apart(g, (queries, keys, values), mask, p, scale)


def _taken_apart(
    g: Translation,
    given: tuple[Traced, Traced, Traced],
    mask: object,
    p: float,
    scale: float | None,
) -> Traced:
    queries, keys, values = given
    rank = len(keys.shape)
    turned = g.add("permute", keys, order=(*range(rank - 2), rank - 1, rank - 2))
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    scores = arithmetic.scaled(g, g.add("matmul", queries, turned), factor)
    if isinstance(mask, Constant) and mask.value.dtype == torch.bool:
        scores = arithmetic.joined(g, "masked_fill", scores, mask, value=MASKED)
    else:
        scores = arithmetic.add(g, scores, mask)
    weights = g.add("softmax", scores, dim=-1)
    return g.add("matmul", dropped(g, "dropout", weights, p) if p else weights, values)


def is_causal(mask: object, steps: int, past: int) -> bool:
    """Tell whether a mask shuts out exactly what comes later."""
    if not isinstance(mask, Constant) or mask.batch is not None or steps != past:
        return False
    shape = tuple(mask.value.shape)
    if shape[-2:] != (steps, past) or any(size != 1 for size in shape[:-2]):
        return False
    value = mask.value.reshape(steps, past)
    later = torch.ones(steps, past, dtype=torch.bool).triu(1)
    if value.dtype == torch.bool:
        return bool((value == later).all())
    return bool((value[~later] == 0).all() and (value[later] <= MASKED).all())


def multihead_layer(
    g: Translation,
    layer: nn.MultiheadAttention,
    query: object,
    key: object,
    value: object,
    key_padding_mask: object = None,
    need_weights: object = True,
    attn_mask: object = None,
    average_attn_weights: object = True,
    is_causal: object = False,
) -> object:
    """``nn.MultiheadAttention``."""
    if key_padding_mask is not None:
        raise ArchitectureError(
            "its key_padding_mask depends on the input; make all sequences equally long instead."
        )
    if layer.bias_k is not None or layer.add_zero_attn:
        raise ArchitectureError("add_bias_kv and add_zero_attn are not supported; leave them out.")
    if is_causal is True and attn_mask is None:
        raise ArchitectureError("is_causal=True needs attn_mask too, as in PyTorch.")
    given = [_sequence(g, layer, each) for each in (query, key, value)]
    heads, width = layer.num_heads, layer.head_dim
    queries, keys, values = (_heads(g, each, heads, width) for each in _projected(g, layer, given))
    made = attend(g, queries, keys, values, mask=_mask(attn_mask), p=layer.dropout)
    merged = g.add("permute", made, order=(1, 0, 2))
    merged = g.add("reshape", merged, sizes=(given[0].shape[0], heads * width))
    out = linear(g, merged, layer.out_proj.weight, layer.out_proj.bias)
    return Traced(out.name, out.shape, given[0].batch), _no_weights(g)


def _no_weights(g: Translation) -> Refused:
    return Refused(
        ArchitectureError(
            f"Step '{g.step}': the weights of nn.MultiheadAttention are used, which are not kept; "
            "use its output alone, or write the attention with softmax."
        )
    )


def _sequence(g: Translation, layer: nn.MultiheadAttention, input: object) -> Traced:
    x = g.tensor(input)
    if x.batch != (0 if layer.batch_first else 1) or len(x.shape) != 2:
        order = "(batch, steps, features)" if layer.batch_first else "(steps, batch, features)"
        raise ArchitectureError(
            f"with batch_first={layer.batch_first} it takes {order}, but is given "
            f"{shape_text(x.full)}; give the layer batch_first={not layer.batch_first}, or permute "
            "its input."
        )
    return Traced(x.name, x.shape, x.batch)


def _mask(mask: object) -> object:
    """Check a mask: without a batch, and the same for every head."""
    if mask is None:
        return None
    if not isinstance(mask, Constant) or mask.batch is not None or mask.value.dim() != 2:
        raise ArchitectureError(
            "its attn_mask must be a constant (steps, steps), such as "
            "nn.Transformer.generate_square_subsequent_mask(T) kept in a buffer."
        )
    return mask


def _projected(
    g: Translation,
    layer: nn.MultiheadAttention,
    given: list[Traced],
) -> list[Traced]:
    """Return queries, keys and values: parts of one product where they come from one tensor."""
    if not layer._qkv_same_embed_dim:
        return _projected_apart(g, layer, given)
    weight, bias = g.needed_weight(layer.in_proj_weight), g.weight(layer.in_proj_bias)
    width, products = layer.embed_dim, dict[str, Traced]()
    made = []
    for place, x in enumerate(given):
        if x.name not in products:
            products[x.name] = linear(g, x, weight, bias)
        made.append(_part(g, products[x.name], place, width))
    return made


def _part(g: Translation, x: Traced, place: int, width: int) -> Traced:
    return g.add("slice", x, dim=-1, start=place * width, length=width)


def _projected_apart(
    g: Translation, layer: nn.MultiheadAttention, given: list[Traced]
) -> list[Traced]:
    weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    bias: Weight | None = g.weight(layer.in_proj_bias)
    made = []
    for place, (x, weight) in enumerate(zip(given, weights, strict=True)):
        product = linear(g, x, weight)
        if bias is not None:
            part = _part(g, g.tensor(bias), place, layer.embed_dim)
            added = g.add("add", product, g.add("reshape", part, sizes=(1, layer.embed_dim)))
            product = Traced(added.name, added.shape, x.batch)
        made.append(product)
    return made


def _heads(g: Translation, x: Traced, heads: int, width: int) -> Traced:
    """Return (heads, steps, width) of one example, the batch before them."""
    apart = g.add("reshape", x, sizes=(x.shape[0], heads, width))
    made = g.add("permute", apart, order=(1, 0, 2))
    return Traced(made.name, made.shape, 0)
