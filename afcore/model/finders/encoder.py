"""Encoder and decoder (T5, BART): the blocks of the encoder.

The boundary lies inside the encoder, whose blocks are the prefix; the decoder, which reads what the
encoder's last block puts out, and the head are always in the suffix.
"""

from typing import Any

from afcore.model.finders.traced import chains_in
from afcore.model.forwards import Batch
from afcore.model.stacks import Stack

__all__ = ["find_in_encoder"]


def find_in_encoder(model: Any, batch: Batch) -> list[Stack]:
    """Nothing for a model that has no encoder beside a decoder."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return []
    return chains_in(model, model.get_encoder(), batch)
