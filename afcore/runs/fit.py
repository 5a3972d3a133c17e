"""Do the tokens of all splits fit the model? Asked before anything trains.

A token or a position that a model has no vector for is an index error in the middle of a training,
or, when only a test text has it, behind the last epoch.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from afcore.data.examples import Examples
from afcore.errors import ConfigError, DataError, ModelError, in_one_line
from afcore.model.forwards import evaluating
from afcore.tasks.stored_tokens import PreparedData
from afcore.tasks.task import Task

__all__ = ["check_fit", "check_length", "check_tokens", "longest_example", "num_positions"]

_NO_LIMIT = 2**20
_ONE_LINE = 200


def num_positions(model: Any) -> int | None:
    """Tokens that the longest example may have, or None for any number.

    RoBERTa and its relatives count positions from the padding's index plus 1, so the table of
    positions, which knows that index, is longer than the longest example. XLNet says -1.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    unused = [
        table.padding_idx + 1
        for name, table in model.named_modules()
        if "position" in name.rpartition(".")[2]
        and isinstance(getattr(table, "padding_idx", None), int)
        and isinstance(getattr(table, "weight", None), torch.Tensor)
        and len(table.weight) == positions
    ]
    return positions - max(unused, default=0)


def longest_example(model: Any, tokenizer: Any) -> int:
    """Tokens that both have room for; many, where neither has a limit."""
    limits = [num_positions(model), getattr(tokenizer, "model_max_length", None), _NO_LIMIT]
    return min(int(limit) for limit in limits if limit is not None)


def check_length(max_length: int, name: str, model: Any, tokenizer: Any) -> None:
    """Every example is cut to ``max_length`` tokens; the model must have positions for them.

    Raises:
        ConfigError: when it has not.
    """
    longest = longest_example(model, tokenizer)
    if max_length > longest:
        raise ConfigError(
            f"data.max_length is {max_length}, but {name!r} has positions for {longest} tokens "
            f"only. Set data.max_length to {longest} or less"
        )


def check_fit(name: str, model: Any, tokenizer: Any, data: PreparedData) -> None:
    """Each token of each split has a vector, and the longest example can be computed.

    Args:
        name: of the model, as the user gave it.
        model: on the CPU, where an index that is too large is an error that can be caught.
        tokenizer: of the model.
        data: all splits.

    Raises:
        DataError: for a token that the model has no vector for.
        ModelError: for an example that it cannot compute.
    """
    splits = data.splits
    for split, examples in splits.items():
        check_tokens(name, model, tokenizer, examples, split)
    split = max(splits, key=lambda split: int(splits[split].lengths.max()))
    _compute_longest(name, model, data.task, split, splits[split])


def check_tokens(name: str, model: Any, tokenizer: Any, examples: Examples, where: str) -> None:
    """Each token has a vector.

    Raises:
        DataError: for one that has none.
    """
    num_vectors, tokens = _num_vectors(model), examples.inputs.get("input_ids")
    largest = 0 if tokens is None else int(tokens.values.max())
    if num_vectors is not None and largest >= num_vectors:
        raise DataError(
            f"the tokenizer of {name!r} makes token {largest} "
            f"({tokenizer.convert_ids_to_tokens(largest)!r}) of a text in {where}, but the "
            f"model has vectors for {num_vectors} tokens only. Give the tokenizer that the "
            "model was trained with, or resize the model's embeddings"
        )


def _num_vectors(model: Any) -> int | None:
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def _compute_longest(name: str, model: Any, task: Task, split: str, examples: Examples) -> None:
    """What no rule above knows of a model's limits shows when it computes the longest example."""
    longest = np.asarray([examples.lengths.argmax()])
    device = next(model.parameters()).device
    batch, _ = task.collate(examples, longest, device)
    try:
        with evaluating(model), torch.no_grad():
            model(**batch)
    except (IndexError, RuntimeError) as error:
        reason = in_one_line(error, _ONE_LINE)
        raise ModelError(
            f"{name!r} cannot compute the longest example ({int(examples.lengths.max())} tokens, "
            f"in {split}): {type(error).__name__}: {reason}. Lower data.max_length, or give "
            "another model"
        ) from error
