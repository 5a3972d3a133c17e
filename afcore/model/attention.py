"""Attention: a kernel that runs otherwise for a moment, and one that needs no keys and values.

Attention of one query ``q`` over hidden states ``x_s`` (each head by itself, ``W`` and ``b`` of its
layers)::

    score_s = q (W_k x_s + b_k)          = (q W_k) x_s + q b_k
    output  = sum_s p_s (W_v x_s + b_v)  = W_v (sum_s p_s x_s) + b_v sum_s p_s

On the left, keys and values of all s positions are made: two products of ``s h h`` each. On the
right, the layers are applied to one vector and the positions are met ``h`` wide in each head: with
``a`` heads ``h h + a s h`` each, about a twentieth where s is 50, h 384 and a 12. What it costs is
that a head meets vectors of ``h`` instead of ``h / a``; so it is for one query, not for many.
(DeepSeek-V2, arXiv 2405.04434, 2.1.2, absorbs its up-projections in the same way.)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["KERNEL", "attend_to_hidden", "attention_kernel", "replaced_kernel"]

KERNEL = "sdpa"
"""The only one: with others, what a mask means for a single query is not known."""


_replacement: ContextVar[Callable[..., Any] | None] = ContextVar("replacement", default=None)


class _Table:
    """The process's table of kernels, while something in it is replaced."""

    lock = threading.Lock()
    kernel: Callable[..., Any]  # what it held before
    num_replaced = 0


@contextmanager
def replaced_kernel(function: Callable[..., Any]) -> Iterator[None]:
    """Let models that this thread runs get the given function when they ask for the kernel.

    Args:
        function: from (module, query, key, value, mask, **settings), as Transformers calls it.
    """
    with _Table.lock:
        _Table.kernel = attention_kernel()
        ALL_ATTENTION_FUNCTIONS[KERNEL] = _dispatch
        _Table.num_replaced += 1
    token = _replacement.set(function)
    try:
        yield
    finally:
        _replacement.reset(token)
        with _Table.lock:
            _Table.num_replaced -= 1
            if not _Table.num_replaced:
                ALL_ATTENTION_FUNCTIONS[KERNEL] = _Table.kernel


def attention_kernel() -> Callable[..., Any]:
    """What models get where nothing is replaced."""
    kernel: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[KERNEL]
    return _Table.kernel if kernel is _dispatch else kernel


def _dispatch(*args: Any, **settings: Any) -> Any:
    """The table of kernels is the process's; another thread must not see what this one replaced."""
    return (_replacement.get() or _Table.kernel)(*args, **settings)


def attend_to_hidden(
    query: Tensor,
    hidden: Tensor,
    key: nn.Linear,
    value: nn.Linear,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Attention of one query, from the hidden states that keys and values would be made of.

    Args:
        query: [b, a, 1, d], of a heads.
        hidden: [b, s, h].
        key: layer of h to g heads of keys; a is a multiple of g.
        value: the same of values.
        mask: [b, 1 or a, 1, s], true where it may look, or added to the scores; None: everywhere.
        dropout: rate, on the probabilities.
        scaling: of the scores; None: 1 / sqrt(d).

    Returns:
        [b, 1, a, d].
    """
    num_examples, num_heads, _, width = query.shape
    num_groups = key.out_features // width
    query = query.reshape(num_examples, num_groups, -1, width)
    asking = torch.einsum("bgrd,gdh->bgrh", query, key.weight.view(num_groups, width, -1))
    scores = torch.bmm(asking.flatten(1, 2), hidden.transpose(1, 2))
    if key.bias is not None:
        constant = (query * key.bias.view(num_groups, 1, width)).sum(-1)
        scores = scores + constant.flatten(1).unsqueeze(-1)
    scores = scores * (width**-0.5 if scaling is None else scaling)
    if mask is not None:
        mask = mask.squeeze(2)
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    probabilities = scores.softmax(-1)
    if dropout:
        probabilities = nn.functional.dropout(probabilities, dropout)
    met = torch.bmm(probabilities, hidden).view(num_examples, num_groups, -1, hidden.shape[-1])
    output = torch.einsum("bgrh,gdh->bgrd", met, value.weight.view(num_groups, width, -1))
    output = output.reshape(num_examples, 1, num_heads, width)
    if value.bias is not None:
        shares = probabilities.sum(-1).view(num_examples, 1, num_heads, 1)
        biases = value.bias.view(num_groups, 1, width)
        repeated = biases.expand(-1, num_heads // num_groups, -1).reshape(num_heads, width)
        output = output + shares * repeated
    return output
