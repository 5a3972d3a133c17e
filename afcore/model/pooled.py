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

Which position a head reads is found by its gradient, and that the outputs are the same is tried;
blocks that ask for no kernel, and heads that read more than one position, are run whole.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from afcore.model.attention import KERNEL, attend_to_hidden, attention_kernel, replaced_kernel
from afcore.model.forwards import evaluating, first_output, largest_difference, replaced_forwards

__all__ = ["PooledBlock", "find_pooled_block"]

_TOLERANCE = 1e-5
_NO_WAY = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)

Position = Literal["first", "last", "last but padding"]
_Attention = Callable[..., Any]


@dataclass(frozen=True)
class PooledBlock:
    """How to run a model's last block at one position.

    Attributes:
        block: the last one.
        position: ``first``; ``last`` that the attention mask shows; or ``last but padding``: the
            last token whose id is not the padding's.
        pad_token_id: of the model.
        signature: of the block's ``forward``.
        idle_first: layers that keys and values of all positions do not depend on.
        idle_second: layers that the output at the one position does not depend on, once keys and
            values are given.
        projections: the layers that make keys and values of the block's input; None where more
            than they does.
    """

    block: nn.Module
    position: Position
    pad_token_id: int
    signature: inspect.Signature
    idle_first: tuple[nn.Linear, ...] = ()
    idle_second: tuple[nn.Linear, ...] = ()
    projections: tuple[nn.Linear, nn.Linear] | None = None

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """[b] int64, the position that the head reads of each example; None: the first of all.

        Args:
            batch: ``input_ids`` and ``attention_mask``, [b, s].
        """
        if self.position == "first":
            return None
        if self.position == "last":
            shown = batch["attention_mask"] != 0
        else:
            shown = batch["input_ids"] != self.pad_token_id
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
            with _leaving_out(self.idle_second):
                pooled = self.one_position(whole, given, positions, attention)
            if positions is None:
                return pooled
            return _spread(pooled, positions, given["hidden_states"].shape[1])

        return forward

    def by_name(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """All arguments of the block by name, those of ``**kwargs`` among them."""
        named = dict(self.signature.bind(*args, **kwargs).arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named

    def _attention(self, whole: Callable[..., Any], given: dict[str, Any]) -> _Attention:
        if self.projections is not None:
            return _meeting_hidden(given["hidden_states"], *self.projections)
        with _leaving_out(self.idle_first):
            return _meeting(*self.keys_and_values(whole, given))

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


def find_pooled_block(
    model: Any, block: nn.Module, wrap: Callable[[Tensor], Any]
) -> tuple[PooledBlock | None, str]:
    """See whether a model's last block can be run at one position, by running it.

    Args:
        model: with a head; left as it is.
        block: its last one.
        wrap: makes of hidden states what the block puts out.

    Returns:
        How, and the position; or None, and why not.
    """
    signature = inspect.signature(block.forward)
    pad_token_id = model.config.pad_token_id
    if pad_token_id is None:
        return None, "it has no padding token"
    if model.config._attn_implementation != KERNEL:
        return None, f"its attention is {model.config._attn_implementation}"
    batch = _padded_batch(pad_token_id, next(model.parameters()).device)
    with evaluating(model):
        whole, is_read = _run_whole(model, block, batch)
        for position in get_args(Position):
            pooled = PooledBlock(block, position, pad_token_id, signature)
            if _is_only(pooled.positions(batch), is_read):
                return _tried(model, pooled, batch, whole, wrap)
    return None, "its head reads more than one position"


def _tried(
    model: Any,
    pooled: PooledBlock,
    batch: dict[str, Tensor],
    whole: Tensor,
    wrap: Callable[[Tensor], Any],
) -> tuple[PooledBlock | None, str]:
    try:
        pooled = _idling(model, pooled, batch)
    except _NO_WAY as error:
        return None, f"its block cannot be run at one position: {error}"
    ways = [pooled, replace(pooled, projections=None)] if pooled.projections else [pooled]
    for way in ways:
        reason = _fault(model, way, batch, whole, wrap)
        if not reason:
            return way, way.position
    return None, reason


def _fault(
    model: Any,
    pooled: PooledBlock,
    batch: dict[str, Tensor],
    whole: Tensor,
    wrap: Callable[[Tensor], Any],
) -> str:
    """Why the model does not give the logits ``whole`` this way; empty: it does."""
    forward = pooled.at(pooled.positions(batch))
    try:
        with (
            torch.no_grad(),
            replaced_forwards({pooled.block: lambda *args, **kw: wrap(forward(*args, **kw))}),
        ):
            logits = model(**batch).logits
    except _NO_WAY as error:
        return f"its block cannot be run at one position: {error}"
    difference = largest_difference(logits, whole)
    if difference <= _TOLERANCE:
        return ""
    return f"its block at one position differs from the whole by {difference:.1e}"


def _padded_batch(pad_token_id: int, device: torch.device) -> dict[str, Tensor]:
    """[4, 6]: full; padded; one that ends in the padding's token as a word; a single token."""
    words = [token for token in range(1, 8) if token != pad_token_id][:6]
    lengths = (6, 4, 5, 1)
    rows = [words[:length] + [pad_token_id] * (6 - length) for length in lengths]
    rows[2][4] = pad_token_id
    columns = torch.arange(6)
    return {
        "input_ids": torch.tensor(rows, device=device),
        "attention_mask": torch.stack([(columns < n).long() for n in lengths]).to(device),
    }


def _run_whole(model: Any, block: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [b, c], and [b, s] which of the block's outputs they depend on."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _args: Any, output: Any) -> None:
        caught.append(first_output(output))

    handle = block.register_forward_hook(catch)
    try:
        with torch.enable_grad():
            logits: Tensor = model(**batch).logits
            (gradient,) = torch.autograd.grad(logits.sum(), caught[0])
    finally:
        handle.remove()
    return logits.detach(), gradient.abs().sum(-1) > 0


def _idling(model: Any, pooled: PooledBlock, batch: dict[str, Tensor]) -> PooledBlock:
    """The same with its idle layers (those without gradient) and what makes keys and values."""
    whole = pooled.block.forward
    positions = pooled.positions(batch)
    found: list[PooledBlock] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = pooled.by_name(args, kwargs)
        with _noting_linears(pooled.block) as ran:
            key, value = pooled.keys_and_values(whole, given)
        first = _without_gradient(key.sum() + value.sum(), ran)
        makers = [_maker(seen, given["hidden_states"], ran) for seen in (key, value)]
        with _noting_linears(pooled.block) as ran_again:
            attention = _meeting(key.detach(), value.detach())
            output = pooled.one_position(whole, given, positions, attention)
        second = _without_gradient(output.sum(), ran_again)
        projections = (makers[0], makers[1]) if makers[0] and makers[1] else None
        found.append(replace(pooled, idle_first=first, idle_second=second, projections=projections))
        return whole(*args, **kwargs)

    with torch.enable_grad(), replaced_forwards({pooled.block: forward}):
        model(**batch)
    return found[0]


@dataclass(frozen=True)
class _Ran:
    layer: nn.Linear
    given: Tensor
    output: Tensor


@contextmanager
def _noting_linears(block: nn.Module) -> Iterator[list[_Ran]]:
    """The linear layers of a block that run, in their order."""
    ran: list[_Ran] = []

    def note(layer: nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append(_Ran(layer, given[0], output))

    with ExitStack() as stack:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                stack.callback(layer.register_forward_hook(note).remove)
        yield ran


def _without_gradient(output: Tensor, ran: list[_Ran]) -> tuple[nn.Linear, ...]:
    """Of layers that ran, those that ``output`` does not depend on."""
    if not ran:
        return ()
    weights = [one.layer.weight for one in ran]
    gradients = torch.autograd.grad(output, weights, allow_unused=True, retain_graph=True)
    return tuple(one.layer for one, grad in zip(ran, gradients, strict=True) if grad is None)


def _maker(seen: Tensor, hidden: Tensor, ran: list[_Ran]) -> nn.Linear | None:
    """The layer that makes keys or values [b, g, s, d] of ``hidden``, if it alone does.

    They are its output in another view: of the same memory, so that nothing came in between.
    """
    lying = seen.transpose(1, 2).flatten(2)
    for one in ran:
        alone = type(one.layer) is nn.Linear and one.given is hidden
        if alone and one.output.data_ptr() == seen.data_ptr() and torch.equal(lying, one.output):
            return one.layer
    return None


def _leaving_out(layers: tuple[nn.Linear, ...]) -> AbstractContextManager[None]:
    return replaced_forwards({layer: partial(_nothing, layer) for layer in layers})


def _nothing(layer: nn.Linear, given: Tensor) -> Tensor:
    """Of the shape that the layer puts out, without memory or computing."""
    return given.new_zeros(1).expand(*given.shape[:-1], layer.out_features)


def _is_only(positions: Tensor | None, is_read: Tensor) -> bool:
    """Whether of each example exactly this position is read."""
    expected = torch.zeros_like(is_read)
    at = positions if positions is not None else torch.zeros(len(is_read), dtype=torch.int64)
    expected[torch.arange(len(is_read)), at] = True
    return torch.equal(expected, is_read)


class _Caught(Exception):  # noqa: N818  # nothing went wrong
    """Ends a block's run once its keys and values are known."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.seen = (key, value)


def _meeting(key: Tensor, value: Tensor) -> _Attention:
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
