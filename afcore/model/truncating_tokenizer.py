"""A tokenizer that cuts texts at its length, also where nobody asks it to.

A pipeline of Transformers does not cut unless it is told to, and a saved pipeline has no place in
which to keep that. This file is copied into the folder that such a tokenizer is saved in, so it
knows nothing but Transformers; MLflow loads it from there (docs/decisions/0050).
"""

import tempfile
from typing import Any

from transformers import PreTrainedTokenizerFast

__all__ = ["TruncatingTokenizer", "truncating"]


class TruncatingTokenizer(PreTrainedTokenizerFast):
    """Any fast tokenizer, cutting at ``model_max_length`` unless it is told otherwise."""

    def __call__(self, *args: Any, truncation: Any = None, **kwargs: Any) -> Any:
        """As that of Transformers, where None means no truncation."""
        truncation = True if truncation is None else truncation
        return super().__call__(*args, truncation=truncation, **kwargs)


def truncating(tokenizer: Any) -> Any:
    """The same tokenizer, cutting; itself where it is none of the ``tokenizers`` library."""
    if not getattr(tokenizer, "is_fast", False):
        return tokenizer
    TruncatingTokenizer.register_for_auto_class("AutoTokenizer")  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        tokenizer.save_pretrained(folder)
        # What follows from the class of the tokenizer has to be kept beside its file.
        return TruncatingTokenizer.from_pretrained(
            folder, model_input_names=tokenizer.model_input_names, trust_remote_code=False
        )
