"""The generic finder: watch one forward pass, and find the chain of like modules.

Blocks stand in a ``ModuleList``, run once each, and each gets what the one before put out; they
need not be of one class (a hybrid's are of two). Which parameters below them are the embeddings is
decided by gradient, not by the order of
calls: some models read a weight without calling its module.

What a block hands to the next one beside the hidden states (T5's bias of positions, which block 0
makes) is found too: tensors of its output that are an argument of the next block.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from afcore.errors import ModelError
from afcore.model.forwards import (
    Batch,
    evaluating,
    first_output,
    relative_difference,
    taken_by,
)
from afcore.model.stacks import HIDDEN_STATES, Stack

__all__ = ["chains_in", "find_by_tracing", "why_no_chain"]

_ALIKE = 1e-5


def find_by_tracing(model: Any, batch: Batch) -> list[Stack]:
    """The chains of like modules, best first: in the base model, if that is told all on its own.

    Longformer's classifier tells its base model which tokens attend globally; then the whole model
    is run for the prefix.
    """
    found = chains_in(model, model.base_model, batch)
    if found and not _runs_alike_alone(model, model.base_model, found[0], batch):
        return chains_in(model, model, batch)
    return found


def chains_in(model: Any, body: nn.Module, batch: Batch) -> list[Stack]:
    """The same in a part of the model.

    Args:
        model: with a head.
        body: the part; run on its own, on what it takes of the batch.
        batch: of two examples at least, all of one length.

    Raises:
        ModelError: when the body cannot be run on the batch.
    """
    count = getattr(model.config, "num_hidden_layers", None)

    def rank(row: list[nn.Module]) -> tuple[bool, bool, int]:
        size = sum(p.numel() for block in row for p in block.parameters())
        return len(row) == count, len({type(block) for block in row}) == 1, size

    with _all_differentiable(model):
        trace = _trace(body, batch)
        chains = [row for row in _rows(body) if trace.is_chain(row)]
        chains.sort(key=rank, reverse=True)
        return [_stack(model, body, batch, trace, row) for row in chains]


def why_no_chain(model: Any, batch: Batch) -> str:
    """What keeps a model's rows of like modules from being a chain, of the largest of them."""
    trace = _trace(model.base_model, batch)
    ran = {module: trace.started.count(module) for module in dict.fromkeys(trace.started)}
    again = [m for row in _rows(model.base_model, 1) for m in row if ran.get(m, 0) > 1]
    if again:
        name = type(again[0]).__name__
        return f"its blocks share their weights: one {name} runs {ran[again[0]]} times in a pass"
    rows = _rows(model.base_model)
    if not rows:
        count = getattr(model.config, "num_hidden_layers", None)
        if isinstance(count, int) and count < 2:
            blocks = "1 block" if count == 1 else f"{count} blocks"
            return f"it has {blocks} by its configuration, and at least two are needed"
        return "it has no ModuleList of two or more modules"
    largest = max(rows, key=lambda row: sum(p.numel() for m in row for p in m.parameters()))
    name, number = type(largest[0]).__name__, len(largest)
    if any(module not in ran for module in largest):
        return f"its {number} modules like {name} do not all run in a pass"
    return f"its {number} modules like {name} do not take just what the one before puts out"


def _rows(body: nn.Module, least: int = 2) -> list[list[nn.Module]]:
    return [
        list(module)
        for module in body.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) >= least
        and any(True for _ in module[0].parameters())
    ]


@contextmanager
def _all_differentiable(model: nn.Module) -> Iterator[None]:
    """Also parameters that a model never trains (Whisper's positions) are below its blocks."""
    fixed = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in fixed:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in fixed:
            parameter.requires_grad_(False)


def _runs_alike_alone(model: Any, body: nn.Module, stack: Stack, batch: Batch) -> bool:
    """Whether the last block puts out the same in the whole model; yes, if that cannot be run."""
    caught: list[Tensor] = []
    block = model.get_submodule(stack.blocks[-1])
    handle = block.register_forward_hook(lambda *given: caught.append(first_output(given[2])))
    try:
        with evaluating(model), torch.no_grad():
            body(**taken_by(body, batch))
            model(**batch)
    except Exception:  # whatever a model's own code raises; who runs the whole model will meet it
        return True
    finally:
        handle.remove()
    one, other = caught[0], caught[-1]
    return relative_difference(one, other, 1.0) < _ALIKE


@dataclass
class _Trace:
    started: list[nn.Module]
    given: dict[nn.Module, dict[str, Any]]
    outputs: dict[nn.Module, Any]
    entered: dict[nn.Module, int]  # how often its input had been changed in place by then,
    left: dict[nn.Module, int]  # and its output

    def is_chain(self, row: list[nn.Module]) -> bool:
        if any(self.started.count(block) != 1 for block in row):
            return False
        if len({_num_outputs(self.outputs[block]) for block in row}) != 1:
            return False
        return all(
            _input(self.given[after]) is first_output(self.outputs[before])
            for before, after in pairwise(row)
        )


def _input(given: dict[str, Any]) -> Any:
    """The first argument: hidden states, whatever they are called."""
    return next(iter(given.values()), None)


def _version(value: Any) -> int:
    """Counts changes in place."""
    return value._version if isinstance(value, Tensor) else 0


def _num_outputs(output: Any) -> int | None:
    """Of a block's tuple; None where it puts out the hidden states alone."""
    return len(output) if isinstance(output, tuple | list) else None


def _trace(body: nn.Module, batch: Batch) -> _Trace:
    trace = _Trace([], {}, {}, {}, {})

    def start(module: nn.Module, args: Any, kwargs: Any) -> None:
        trace.started.append(module)
        trace.given[module] = _by_name(module, args, kwargs)
        trace.entered[module] = _version(_input(trace.given[module]))

    def finish(module: nn.Module, _args: Any, output: Any) -> None:
        trace.outputs[module] = output
        trace.left[module] = _version(output)

    with ExitStack() as stack:
        for module in body.modules():
            before = module.register_forward_pre_hook(start, with_kwargs=True)
            after = module.register_forward_hook(finish)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(evaluating(body))
        try:
            body(**taken_by(body, batch))
        except Exception as error:  # whatever a model's own code raises
            raise ModelError(
                f"{type(body).__name__} cannot be run on a batch of {', '.join(batch)}: {error}"
            ) from error
    return trace


def _by_name(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    if not args:
        return {HIDDEN_STATES: kwargs.get(HIDDEN_STATES), **kwargs}
    names = list(inspect.signature(module.forward).parameters)
    named = names[: len(args)] if len(names) >= len(args) else [str(i) for i in range(len(args))]
    return {**dict(zip(named, args, strict=True)), **kwargs}


def _stack(
    model: Any, body: nn.Module, batch: Batch, trace: _Trace, blocks: list[nn.Module]
) -> Stack:
    names = {module: name for name, module in model.named_modules()}
    first = trace.started.index(blocks[0])
    before = [
        module
        for module in dict.fromkeys(trace.started[:first])
        if not any(inner is blocks[0] for inner in module.modules())
    ]
    later = set(trace.started[first:])
    output = trace.outputs[blocks[0]]
    entry = _entry(model, before, trace, blocks[0])
    stack = Stack(
        body=names[body],
        blocks=tuple(names[block] for block in blocks),
        embeddings=_below(model, blocks, first_output(output)),
        before=tuple(names[module] for module in before),
        again=tuple(names[module] for module in before if module in later),
        entry=None if entry is None else names[entry],
        num_outputs=_num_outputs(output),
        widths={HIDDEN_STATES: first_output(output).shape[-1]},
    )
    shapes = [list(first_output(trace.outputs[block]).shape) for block in blocks]
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        return replace(
            stack,
            unsplittable=f"its blocks put out different shapes, {shapes[0]} and {other}",
        )
    return _with_handed_on(stack, body, batch, trace, blocks)


def _below(model: Any, blocks: list[nn.Module], output: Tensor) -> tuple[str, ...]:
    """Parameters outside the blocks that the first one's output depends on."""
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    outside = {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in inside and parameter.requires_grad
    }
    gradients = torch.autograd.grad(
        output.sum(), list(outside.values()), allow_unused=True, retain_graph=True
    )
    found = zip(outside, gradients, strict=True)
    return tuple(name for name, gradient in found if gradient is not None)


def _entry(
    model: Any, before: list[nn.Module], trace: _Trace, first: nn.Module
) -> nn.Module | None:
    """The outermost module that puts out nothing but what block 0 takes, and runs only for that.

    None also where something is added to its output in place (UDOP's boxes): it would be added to
    the given hidden states.
    """
    given = _input(trace.given[first])
    found = next((m for m in before if trace.outputs.get(m) is given), None)
    if found is None or trace.left[found] != trace.entered[first]:
        return None
    places = [m for _, m in model.named_modules(remove_duplicate=False) if m is found]
    return found if len(places) == 1 and trace.started.count(found) == 1 else None


def _with_handed_on(
    stack: Stack, body: nn.Module, batch: Batch, trace: _Trace, blocks: list[nn.Module]
) -> Stack:
    """The stack with what its blocks hand on beside the hidden states."""
    indices: dict[str, int] = {}
    for block, after in pairwise(blocks):
        output = trace.outputs[block]
        for index, tensor in enumerate(output if isinstance(output, tuple | list) else ()):
            if index and isinstance(tensor, Tensor):
                indices |= {n: index for n, given in trace.given[after].items() if given is tensor}
    if not indices:
        return stack
    widths = dict(stack.widths)
    reasons, from_all = [], False
    # Examples and positions the other way round; corners of a box stay in their order.
    flipped = {name: values.flip(*range(min(values.ndim, 2))) for name, values in batch.items()}
    other = _trace(body, flipped)
    for name, index in indices.items():
        made = trace.outputs[blocks[0]][index]
        positions = first_output(trace.outputs[blocks[0]]).shape[:2]
        handed = all(trace.outputs[b][index] is trace.given[b].get(name) for b in blocks[1:])
        above = made is trace.given[blocks[0]].get(name)  # in every pass, of the batch (UDOP)
        if made.ndim == 3 and made.shape[:2] == positions:
            widths[name] = made.shape[-1]
        elif not handed or not (above or torch.equal(made, other.outputs[blocks[0]][index])):
            reasons.append(
                f"its blocks hand on {name} {list(made.shape)}, which has no row at every position "
                "and is not the same for all batches of a shape"
            )
        else:
            from_all = from_all or len(made) != 1
    if len({_arguments(block) for block in blocks}) != 1:
        reasons.append(f"its blocks hand on {', '.join(indices)}, and are not called alike")
    outputs = {**stack.outputs, **indices}
    unsplittable = "; ".join(reasons) or None
    return replace(
        stack,
        outputs=outputs,
        widths=widths,
        remade_from_all=from_all,
        unsplittable=unsplittable,
    )


def _arguments(block: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(block.forward).parameters)
