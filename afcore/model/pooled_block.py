"""The last block, computed only at the position that the head reads.

A classifier reads one position of the last block's output: the first token (BERT) or the last one
(GPT, Llama). What the block puts out anywhere else is looked at by nobody and gets no gradient. So
keys and values are needed at every position, and all the rest of the block (attention, projection,
feed-forward part) at one. Outputs and gradients are those of the whole block, for about a fifth of
its work. Once all other blocks are frozen and read from the cache, it is all that an epoch does.

No model code is edited or copied. The block's own ``forward`` runs twice, each time with an
attention kernel of ours: on all positions, up to where attention is asked for, which tells keys
and values; then on the one position, where attention meets these. Queries of all positions, and in
the second run keys and values, are left out where layers of their own make them.

Where keys and values are made of the block's input by linear layers and by nothing else (BERT and
its like: no norm before, no rotation after), the block runs on the one position only, and attention
meets the input itself (:func:`afcore.model.attention.attend_to_hidden`): a tenth of what is left.

Whether a block can be run so, and where, is found by :mod:`afcore.model.find_pooling`.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from afcore.model.attention import attend_to_hidden, attention_kernel, replaced_kernel
from afcore.model.forwards import Batch, first_output, replaced_forwards
from afcore.model.stacks import Pooling

__all__ = ["PooledBlock", "meeting"]

_Attention = Callable[..., Any]


class PooledBlock:
    """A model's last block, run at one position.

    Args:
        block: the last one.
        pooling: how.
    """

    def __init__(self, block: nn.Module, pooling: Pooling) -> None:
        self.block = block
        self.pooling = pooling
        self._signature = inspect.signature(block.forward)

    def positions(self, batch: Batch) -> Tensor | None:
        """[b] int64, the position that the head reads of each example; None: the first of all.

        Args:
            batch: ``input_ids`` and, where they are padded, ``attention_mask``, [b, s].
        """
        if self.pooling.position == "first":
            return None
        if self.pooling.position == "last":
            mask = batch.get("attention_mask")
            shown = torch.ones_like(batch["input_ids"]) if mask is None else mask != 0
        else:
            assert self.pooling.pad_token_id is not None
            shown = batch["input_ids"] != self.pooling.pad_token_id
        columns = torch.arange(shown.shape[1], device=shown.device)
        return (columns * shown).argmax(1)

    def at(self, positions: Tensor | None) -> Callable[..., Tensor]:
        """A ``forward`` for the block: [b, s, h] in.

        Out come [b, 1, h] of the first position, which the head finds there as well; of others
        [b, s, h], each in its place and zeros where nobody looks.

        Args:
            positions: [b], as :meth:`positions` gives them.
        """
        whole = self.block.forward

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            given = self.by_name(args, kwargs)
            attention = self._attention(whole, given)
            with self._leaving_out(self.pooling.idle_second):
                pooled = self.one_position(whole, given, positions, attention)
            if positions is None:
                return pooled
            return _spread(pooled, positions, given["hidden_states"].shape[1])

        return forward

    def _layer(self, name: str) -> Any:
        """A linear layer, or one with an adapter around it."""
        return self.block.get_submodule(name)

    def _leaving_out(self, names: tuple[str, ...]) -> AbstractContextManager[None]:
        layers = [self._layer(name) for name in names]
        return replaced_forwards({layer: partial(_nothing, layer) for layer in layers})

    def by_name(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """All arguments of the block by name, those of ``**kwargs`` among them."""
        named = dict(self._signature.bind(*args, **kwargs).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named

    def _attention(self, whole: Callable[..., Any], given: dict[str, Any]) -> _Attention:
        if self.pooling.projections is not None:
            key, value = (self._layer(name) for name in self.pooling.projections)
            # An adapter's layer makes more of its input than its weights say.
            if type(key) is nn.Linear and type(value) is nn.Linear:
                return _meeting_hidden(given["hidden_states"], key, value)
        with self._leaving_out(self.pooling.idle_first):
            return meeting(*self.keys_and_values(whole, given))

    def keys_and_values(
        self, whole: Callable[..., Any], given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Of all positions, [b, g, s, d] each; runs the block up to its attention.

        Raises:
            TypeError: when it asks for no kernel.
        """

        def catch(
            _module: nn.Module, _query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
        ) -> Any:
            raise _Caught(key, value)

        try:
            with replaced_kernel(catch):
                whole(**given)
        except _Caught as caught:
            return caught.seen
        raise TypeError("its attention is out of reach")

    def one_position(
        self,
        whole: Callable[..., Any],
        given: dict[str, Any],
        positions: Tensor | None,
        attention: _Attention,
    ) -> Tensor:
        """[b, 1, h]: what the block puts out there, with this attention of one query."""
        hidden = given["hidden_states"]
        some = {name: _select(name, value, positions, hidden) for name, value in given.items()}
        if positions is not None and some.get("attention_mask") is None:
            # Without one, attention is causal, which a single query does not know the place for.
            columns = torch.arange(hidden.shape[1], device=hidden.device)
            some["attention_mask"] = (columns <= positions.unsqueeze(1))[:, None, None]
        with replaced_kernel(attention):
            return first_output(whole(**some))


def _nothing(layer: Any, given: Tensor) -> Tensor:
    """Of the shape that the layer puts out, without memory or computing."""
    return given.new_zeros(1).expand(*given.shape[:-1], layer.out_features)


class _Caught(Exception):  # noqa: N818  # nothing went wrong
    """Ends a block's run once its keys and values are known."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.seen = (key, value)


def meeting(key: Tensor, value: Tensor) -> _Attention:
    """Attention that meets these, whatever keys and values the block has."""
    kernel = attention_kernel()

    def attention(
        module: nn.Module, query: Tensor, _key: Tensor, _value: Tensor, *rest: Any, **settings: Any
    ) -> Any:
        return kernel(module, query, key, value, *rest, **settings)

    return attention


def _meeting_hidden(hidden: Tensor, key: nn.Linear, value: nn.Linear) -> _Attention:
    """Attention that meets hidden states, of which these layers would make keys and values."""

    def attention(
        _module: nn.Module,
        query: Tensor,
        _key: Tensor,
        _value: Tensor,
        mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if position_bias is not None:
            raise TypeError("its attention has a bias of positions")
        return attend_to_hidden(query, hidden, key, value, mask, dropout, scaling), None

    return attention


def _select(name: str, value: Any, positions: Tensor | None, hidden: Tensor) -> Any:
    """Of an argument of the block, what belongs to the pooled positions."""
    if name in ("hidden_states", "position_ids"):
        return _take(value, positions, 1, len(hidden))
    if name == "position_embeddings" and value is not None:
        return tuple(_take(part, positions, 1, len(hidden)) for part in value)
    if name == "attention_mask" and isinstance(value, Tensor) and value.ndim == 4:
        return _take(value, positions, 2, len(hidden)) if value.shape[2] > 1 else value
    return value


def _take(values: Tensor | None, positions: Tensor | None, dim: int, count: int) -> Tensor | None:
    """[b, .., 1, ..] of [b, .., s, ..]: one position of each example."""
    if values is None:
        return None
    if positions is None:
        return values.narrow(dim, 0, 1)
    values = values.expand(count, *values.shape[1:])
    shape = [*values.shape[:dim], 1, *values.shape[dim + 1 :]]
    index = positions.view(-1, *[1] * (values.ndim - 1)).expand(shape)
    return values.gather(dim, index)


def _spread(pooled: Tensor, positions: Tensor, num_columns: int) -> Tensor:
    """[b, 1, h] to [b, s, h], each in its place and zeros elsewhere."""
    zeros = pooled.new_zeros(len(pooled), num_columns, pooled.shape[2])
    return zeros.scatter(1, positions.view(-1, 1, 1).expand_as(pooled), pooled)
