"""Models of multiple choice, taking each choice by itself.

Transformers' own take [b, c, s] and flatten it, so that their blocks see b * c examples. Here a
choice is an example, [b, s], wherever a model is run: it is handed on as [b, 1, s], and gets
[b, 1] logits. Batches of three dimensions stay as they are.
"""

from typing import Any

from torch import Tensor

__all__ = ["take_single_choices"]

_KIND = "ForMultipleChoice"


def take_single_choices(model: Any) -> Any:
    """The model; one of multiple choice takes single choices too."""
    if type(model).__name__.endswith(_KIND):
        model.register_forward_pre_hook(_as_only_choice, with_kwargs=True)
    return model


def _as_only_choice(_model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    shaped = {
        name: value[:, None] if isinstance(value, Tensor) and value.ndim == 2 else value
        for name, value in kwargs.items()
    }
    return args, shaped
