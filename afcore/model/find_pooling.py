"""Whether a model's last block can be run at one position, seen by running it.

Which position a head reads is found by its gradient, and that the outputs are the same is tried;
blocks that ask for no kernel, and heads that read more than one position, are run whole.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from afcore.model.attention import KERNEL
from afcore.model.forwards import (
    Batch,
    evaluating,
    first_output,
    logits_of,
    relative_difference,
    replaced_forwards,
)
from afcore.model.pooled_block import PooledBlock, meeting
from afcore.model.probing import padded_batch
from afcore.model.stacks import Pooling, Position

__all__ = ["find_pooling"]

_TOLERANCE = 1e-5
_NO_WAY = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def find_pooling(
    model: Any, block: nn.Module, wrap: Callable[[Tensor], Any], batch: Batch
) -> tuple[Pooling | None, str]:
    """See whether a model's last block can be run at one position, by running it.

    Args:
        model: with a head; left as it is.
        block: its last one.
        wrap: makes of hidden states what the block puts out.
        batch: of two examples, for a model that does not take text.

    Returns:
        How, and the position; or None, and why not.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return None, "its decoder reads every position"
    if config._attn_implementation != KERNEL:
        return None, f"its attention is {config._attn_implementation}"
    positions: tuple[Position, ...] = ("first",)
    pad_token_id = getattr(config, "pad_token_id", None)
    if "input_ids" in batch:
        if pad_token_id is None:
            return None, "it has no padding token"
        batch = padded_batch(pad_token_id, next(model.parameters()).device)
        positions = get_args(Position)
    with evaluating(model):
        try:
            whole, is_read = _run_whole(model, block, batch)
        except _NO_WAY as error:
            return None, f"what its head reads cannot be seen: {error}"
        for position in positions:
            pooled = PooledBlock(block, Pooling(position, pad_token_id))
            if _is_only(pooled.positions(batch), is_read):
                return _tried(model, pooled, batch, whole, wrap)
    return None, "its head reads more than one position"


def _tried(
    model: Any,
    pooled: PooledBlock,
    batch: Batch,
    whole: Tensor,
    wrap: Callable[[Tensor], Any],
) -> tuple[Pooling | None, str]:
    try:
        found = _idling(model, pooled, batch)
    except _NO_WAY as error:
        return None, f"its block cannot be run at one position: {error}"
    ways = [found, replace(found, projections=None)] if found.projections else [found]
    for way in ways:
        reason = _fault(model, PooledBlock(pooled.block, way), batch, whole, wrap)
        if not reason:
            return way, way.position
    return None, reason


def _fault(
    model: Any,
    pooled: PooledBlock,
    batch: Batch,
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
            logits = logits_of(model(**batch))
    except _NO_WAY as error:
        return f"its block cannot be run at one position: {error}"
    difference = relative_difference(logits, whole, 1.0)
    if difference <= _TOLERANCE:
        return ""
    return f"its block at one position differs from the whole by {difference:.1e}"


def _run_whole(model: Any, block: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [b, c], and [b, s] which of the block's outputs they depend on."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _args: Any, output: Any) -> None:
        caught.append(first_output(output))

    handle = block.register_forward_hook(catch)
    try:
        with torch.enable_grad():
            logits = logits_of(model(**batch))
            (gradient,) = torch.autograd.grad(logits.sum(), caught[0])
    finally:
        handle.remove()
    return logits.detach(), gradient.abs().sum(-1) > 0


def _idling(model: Any, pooled: PooledBlock, batch: Batch) -> Pooling:
    """The same with its idle layers (those without gradient) and what makes keys and values."""
    whole = pooled.block.forward
    positions = pooled.positions(batch)
    names = {layer: name for name, layer in pooled.block.named_modules()}
    found: list[Pooling] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = pooled.by_name(args, kwargs)
        with _noting_linears(pooled.block) as ran:
            key, value = pooled.keys_and_values(whole, given)
        first = _without_gradient(key.sum() + value.sum(), ran)
        found_makers = [_maker(seen, given["hidden_states"], ran) for seen in (key, value)]
        with _noting_linears(pooled.block) as ran_again:
            attention = meeting(key.detach(), value.detach())
            output = pooled.one_position(whole, given, positions, attention)
        second = _without_gradient(output.sum(), ran_again)
        makers = [names[maker] for maker in found_makers if maker is not None]
        found.append(
            replace(
                pooled.pooling,
                idle_first=tuple(names[layer] for layer in first),
                idle_second=tuple(names[layer] for layer in second),
                projections=(makers[0], makers[1]) if len(makers) == 2 else None,
            )
        )
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


def _is_only(positions: Tensor | None, is_read: Tensor) -> bool:
    """Whether of each example exactly this position is read."""
    expected = torch.zeros_like(is_read)
    at = positions if positions is not None else torch.zeros(len(is_read), dtype=torch.int64)
    expected[torch.arange(len(is_read)), at] = True
    return torch.equal(expected, is_read)
