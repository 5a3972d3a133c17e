"""The frozen blocks of a model that somebody else trains: no gradients, no dropout, no moments.

What its owner has frozen stays so, whatever the boundary.
"""

from collections.abc import MutableMapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from afcore.model.split_model import SplitModel

__all__ = ["FrozenPrefix", "release_model"]

_prefixes: "WeakKeyDictionary[nn.Module, FrozenPrefix]" = WeakKeyDictionary()


class FrozenPrefix:
    """Blocks of a model, frozen from the bottom up; nothing is at first.

    A model has one: what an earlier one left, should its training have been broken off, is undone.

    Args:
        model: a ``PreTrainedModel``, whose own ``forward`` is called, or PEFT's around one.

    Attributes:
        model: that one.
        split: what PEFT has wrapped, else the model.
        boundary: ``k``.

    Raises:
        ModelError: when no row of blocks is found, or parts share parameters.
    """

    def __init__(self, model: Any) -> None:
        release_model(model)
        # Adapters lie within its modules; the layers around it only hand on.
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        use_cache = getattr(inner.config, "use_cache", None)
        with torch.random.fork_rng(devices=[]):  # what is drawn in training does not depend on us
            self.split = SplitModel(inner, pool=False)
        if use_cache is not None:
            inner.config.use_cache = use_cache
        self.model = model
        self.boundary = 0
        self._trainable = {name for name, p in inner.named_parameters() if p.requires_grad}
        # Whoever trains calls model.train() before each step.
        self._hooks = [model.register_forward_pre_hook(self._evaluate_frozen)]
        inside = set(inner.parameters())
        if all(p in inside for p in model.parameters() if p.requires_grad):  # no prompts of PEFT's
            for block, module in enumerate(self.split.blocks[:-1]):
                self._hooks.append(module.register_forward_hook(partial(self._end_graph, block)))
        _prefixes[model] = self

    def move(self, boundary: int, moments: MutableMapping[nn.Parameter, Any]) -> None:
        """Train what is above the boundary, and nothing else, as far as it trained before.

        Args:
            boundary: ``k``.
            moments: the optimizer's state, of which frozen parameters need none. They stay in its
                groups, where they are passed over: so a checkpoint fits an optimizer made anew.
        """
        self.boundary = boundary
        frozen = set(self.split.frozen_parts(boundary))
        for name, parameter in self.split.model.named_parameters():
            if name in self._trainable:
                parameter.requires_grad_(self.split.part_of[name] not in frozen)
                if not parameter.requires_grad:
                    parameter.grad = None
                    moments.pop(parameter, None)

    def release(self) -> None:
        """Leave the model as it was found."""
        for hook in self._hooks:
            hook.remove()
        for name, parameter in self.split.model.named_parameters():
            parameter.requires_grad_(name in self._trainable)
        _prefixes.pop(self.model, None)

    def _evaluate_frozen(self, model: nn.Module, _args: Any) -> None:
        if model.training:
            self.split.evaluate_frozen(self.boundary)

    def _end_graph(self, block: int, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Keep nothing of a frozen block for the backward pass, and end that above it.

        With activation checkpointing Transformers lets the embeddings' output require a gradient.
        """
        return _without_graph(output) if block < self.boundary else output


def release_model(model: Any) -> None:
    """Leave a model as it was before a training that was broken off, if there was one."""
    if model in _prefixes:
        _prefixes[model].release()


def _without_graph(output: Any) -> Any:
    """What is above may be computed again, as if it required a gradient: so it still does."""
    if isinstance(output, tuple):
        return tuple(map(_without_graph, output))
    is_part = isinstance(output, Tensor) and output.requires_grad
    return output.detach().requires_grad_() if is_part else output
