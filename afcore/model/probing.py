"""A small batch to try a model on, made from its configuration alone."""

from typing import Any

import torch
from torch import Tensor

from afcore.errors import ModelError
from afcore.model.forwards import Batch

__all__ = ["padded_batch", "probing_batch"]


def probing_batch(model: Any) -> Batch:
    """Two examples of one length, of the kind that the model takes.

    Raises:
        ModelError: when it takes something that cannot be made up.
    """
    device, config, name = next(model.parameters()).device, model.config, model.main_input_name
    if name == "input_ids":
        ids = torch.tensor([[1, 2, 3, 4], [4, 2, 1, 3]], device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        shape = (2, config.num_channels, config.image_size, config.image_size)
        return {name: torch.linspace(-1, 1, torch.Size(shape).numel(), device=device).view(shape)}
    given: dict[str, Tensor] = model.dummy_inputs
    if name not in given:
        raise ModelError(
            f"{type(model).__name__} takes {name}, of which none can be made up to try it on. "
            "Give a batch of two examples."
        )
    return {key: values.to(device) for key, values in given.items()}


def padded_batch(pad_token_id: int, device: torch.device) -> Batch:
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
