"""Any Hugging Face model seen as embeddings, a row of blocks, and a head.

No model code is edited or copied: the model's own ``forward`` runs every time, with some blocks
told for the moment to hand through what they get. So masks, positions and pooling are always the
model's own.

* **prefix**: the base model runs with the blocks from the boundary on handing through; what the
  last frozen block puts out is caught.
* **suffix**: the whole model runs with the frozen blocks handing out the given hidden states, and
  the last block computed only at the position that the head reads (:mod:`afcore.model.pooled`).
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from afcore.errors import ModelError
from afcore.model.forwards import (
    Forward,
    evaluating,
    first_output,
    replaced_forwards,
)
from afcore.model.pooled import find_pooled_block

__all__ = [
    "EMBEDDINGS",
    "HEAD",
    "Batch",
    "SplitModel",
    "block_part",
]

EMBEDDINGS = "embeddings"
HEAD = "head"
Batch = Mapping[str, Tensor]


def block_part(index: int) -> str:
    """Name of the part that is block ``index``."""
    return f"block.{index:03d}"


class SplitModel:
    """A model with its blocks found.

    Every parameter and buffer belongs to one part: ``embeddings`` (what runs before block 0),
    ``block.NNN``, or ``head`` (the rest).

    Args:
        model: a ``PreTrainedModel`` with a head, whose blocks run one after the other.
        pool: compute the last block only at the position that the head reads, where that can be.

    Attributes:
        pooled: how; None where the last block is computed whole.
        pooled_reason: the position, or why there is none.

    Raises:
        ModelError: when no row of blocks is found, or parts share parameters.
    """

    def __init__(self, model: Any, pool: bool = True) -> None:
        self.model = model
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        found = _find_blocks(model)
        self.blocks: list[nn.Module] = found.blocks
        self._tuple_size = found.tuple_size
        self._before = found.before
        self._entry = found.entry
        self.part_of = _parts(model, found)
        self.pooled, self.pooled_reason = None, "turned off"
        if pool:
            last = self.blocks[-1]
            self.pooled, self.pooled_reason = find_pooled_block(model, last, self._as_block_output)

    @property
    def num_blocks(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def parts(self) -> list[str]:
        """Names of all parts, bottom first."""
        return [EMBEDDINGS, *(block_part(i) for i in range(self.num_blocks)), HEAD]

    def part_parameters(self, part: str) -> dict[str, nn.Parameter]:
        """Parameters of one part by their names in the whole model."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if self.part_of[name] == part
        }

    def part_tensors(self, part: str) -> dict[str, Tensor]:
        """What of one part is saved: parameters and persistent buffers, sharing memory."""
        return {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if self.part_of.get(name) == part
        }

    def frozen_parts(self, boundary: int) -> list[str]:
        """Names of the parts below the boundary ``k``: none at 0, else embeddings and blocks."""
        return self.parts[: boundary + 1] if boundary else []

    def set_training(self, boundary: int) -> None:
        """Train mode above the boundary; below it eval mode, no gradients, none left over."""
        self.model.train()
        frozen = set(self.frozen_parts(boundary))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.part_of[name] not in frozen)
            if not parameter.requires_grad:
                parameter.grad = None
        for module in [*self._before, *self.blocks[:boundary]] if boundary else []:
            module.eval()

    def hidden(
        self,
        batch: Batch,
        stop: int,
        start: int = 0,
        hidden: Tensor | None = None,
        rounding: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Run blocks ``start..stop - 1`` (and the embeddings, from 0).

        Args:
            batch: ``input_ids`` and ``attention_mask``, [b, s].
            stop: at least ``max(1, start)``; equal to ``start`` gives ``hidden`` back.
            start: 0, or the boundary that ``hidden`` is of.
            hidden: [b, s, h] what the blocks below ``start`` put out.
            rounding: of what each block puts out; None: none.

        Returns:
            [b, s, h] hidden states at boundary ``stop``, in the blocks' own dtype or rounding's.
        """
        if start and start == stop:
            assert hidden is not None
            return hidden
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _args: Any, output: Any) -> None:
            caught.append(first_output(output))

        def round_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            assert rounding is not None
            return self._as_block_output(rounding(first_output(output)))

        with ExitStack() as stack:
            for block in self.blocks[start:stop] if rounding else []:
                stack.callback(block.register_forward_hook(round_output).remove)
            below = self._handing_out(range(start), hidden)
            above = self._handing_out(range(stop, self.num_blocks), None)
            stack.enter_context(replaced_forwards(below | above))
            handle = self.blocks[stop - 1].register_forward_hook(catch)
            stack.callback(handle.remove)
            self.model.base_model(**batch)
        return caught[0]

    def logits(self, batch: Batch, start: int = 0, hidden: Tensor | None = None) -> Tensor:
        """Run everything from boundary ``start`` on.

        Args:
            batch: ``input_ids`` and ``attention_mask``, [b, s].
            start: 0 for the whole model, or the boundary that ``hidden`` is of.
            hidden: [b, s, h].

        Returns:
            [b, c] float32.
        """
        below = self._handing_out(range(start), hidden)
        with replaced_forwards(below | self._at_pooled_position(batch)):
            logits: Tensor = self.model(**batch).logits
        return logits.float()

    def _handing_out(self, indices: range, hidden: Tensor | None) -> dict[nn.Module, Forward]:
        """Forwards of blocks that give ``hidden`` for their output; without it, their input.

        With it, the module that feeds block 0 gives it too, so that it costs nothing.
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else kwargs["hidden_states"]
            output = given if hidden is None else hidden
            return self._as_block_output(output)

        forwards = {self.blocks[i]: forward for i in indices}
        if hidden is not None and self._entry is not None:
            # What block 0 would get is not looked at: the embeddings need not be computed.
            forwards[self._entry] = lambda *_args, **_kwargs: hidden
        return forwards

    def _at_pooled_position(self, batch: Batch) -> dict[nn.Module, Forward]:
        """The last block's forward, where it need not be computed whole."""
        if self.pooled is None:
            return {}
        forward = self.pooled.at(self.pooled.positions(batch))
        return {self.blocks[-1]: lambda *args, **kw: self._as_block_output(forward(*args, **kw))}

    def _as_block_output(self, hidden: Tensor) -> Any:
        """Some architectures' blocks put out a tuple, hidden states first."""
        if self._tuple_size is None:
            return hidden
        return (hidden, *[None] * (self._tuple_size - 1))


@dataclass
class _Found:
    blocks: list[nn.Module]
    before: list[nn.Module]
    below_first: list[nn.Parameter]
    tuple_size: int | None
    entry: nn.Module | None


def _find_blocks(model: Any) -> _Found:
    """Watch one forward pass: the largest chain of like modules, each fed by the one before."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelError(f"{name} has an encoder and a decoder; choose a model with one of them")
    rows = [
        list(module)
        for module in model.base_model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) >= 2
        and len({type(block) for block in module}) == 1
        and any(True for _ in module[0].parameters())
    ]
    trace = _trace(model)
    chains = [row for row in rows if trace.is_chain(row)]
    if not chains:
        raise ModelError(
            f"no row of transformer blocks found in {name}: blocks must stand in "
            "a ModuleList of two or more, share no weights, and run once each, one feeding the "
            "next. Choose another model."
        )
    blocks = max(chains, key=lambda row: sum(p.numel() for b in row for p in b.parameters()))
    first = trace.started.index(blocks[0])
    before = [module for module in trace.started[:first] if not _holds(module, blocks[0])]
    output = trace.outputs[blocks[0]]
    tuple_size = len(output) if isinstance(output, tuple) else None
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    outside = [p for p in model.parameters() if id(p) not in inside and p.requires_grad]
    # By gradient, not by order of calls: some models read a weight without calling its module.
    gradients = torch.autograd.grad(first_output(output).sum(), outside, allow_unused=True)
    below_first = [
        p for p, gradient in zip(outside, gradients, strict=True) if gradient is not None
    ]
    return _Found(blocks, before, below_first, tuple_size, _entry(before, trace, blocks[0]))


def _entry(before: list[nn.Module], trace: "_Trace", first: nn.Module) -> nn.Module | None:
    """The outermost module that puts out nothing but what block 0 takes, if there is one."""
    return next((m for m in before if trace.outputs.get(m) is trace.inputs[first]), None)


@dataclass
class _Trace:
    started: list[nn.Module]
    inputs: dict[nn.Module, Any]
    outputs: dict[nn.Module, Any]

    def is_chain(self, row: list[nn.Module]) -> bool:
        if any(self.started.count(block) != 1 for block in row):
            return False
        return all(
            self.inputs[after] is first_output(self.outputs[before])
            for before, after in pairwise(row)
        )


def _trace(model: Any) -> _Trace:
    trace = _Trace([], {}, {})

    def start(module: nn.Module, args: Any, kwargs: Any) -> None:
        trace.started.append(module)
        trace.inputs[module] = args[0] if args else kwargs.get("hidden_states")

    def finish(module: nn.Module, _args: Any, output: Any) -> None:
        trace.outputs[module] = output

    device = next(model.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4]], device=device)
    with ExitStack() as stack:
        for module in model.modules():
            before = module.register_forward_pre_hook(start, with_kwargs=True)
            after = module.register_forward_hook(finish)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(evaluating(model))
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return trace


def _holds(module: nn.Module, block: nn.Module) -> bool:
    return module is not block and any(inner is block for inner in module.modules())


def _parts(model: Any, found: _Found) -> dict[str, str]:
    owners: dict[int, str] = {id(parameter): EMBEDDINGS for parameter in found.below_first}
    for index, block in enumerate(found.blocks):
        for parameter in block.parameters():
            part = block_part(index)
            if owners.setdefault(id(parameter), part) != part:
                raise ModelError(
                    f"{type(model).__name__}: {owners[id(parameter)]} and {part} share weights, "
                    "so one cannot be frozen without the other. Choose another model."
                )
    parts = {name: owners.get(id(p), HEAD) for name, p in model.named_parameters()}
    blocks = {id(b): block_part(i) for i, block in enumerate(found.blocks) for b in block.buffers()}
    before = {id(buffer) for module in found.before for buffer in module.buffers()}
    for name, buffer in model.named_buffers():
        parts[name] = blocks.get(id(buffer), EMBEDDINGS if id(buffer) in before else HEAD)
    return parts
