"""What a decoder begins with, where a model's configuration does not say it."""

import logging
from typing import Any

__all__ = ["set_decoder_start"]

_log = logging.getLogger(__name__)


def set_decoder_start(config: Any, generation: Any = None) -> None:
    """Give a model of an encoder and a decoder a ``decoder_start_token_id``, if it has none.

    It is that by which the model generates; else its first token, as Transformers' ``generate``
    takes then; else its padding, as T5 has it. One that had to be chosen so is warned of.

    Args:
        config: of the model; changed in place.
        generation: its ``generation_config``, if it has one.
    """
    if not config.is_encoder_decoder or getattr(config, "decoder_start_token_id", None) is not None:
        return
    start = getattr(generation, "decoder_start_token_id", None)
    if start is None:
        start, what = getattr(config, "bos_token_id", None), "first"
        if start is None:
            start, what = getattr(config, "pad_token_id", None), "padding"
        if start is None:
            return
        _log.warning(
            "model: config.json names no decoder_start_token_id; the decoder begins with its %s "
            "token, %d. Write another one there, if it was pre-trained with that.",
            *(what, start),
        )
    config.decoder_start_token_id = start
