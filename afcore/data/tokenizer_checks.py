"""What of a tokenizer decides the tokens it gives, and whether it knows the words it is given."""

import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afcore.data.examples import Examples
from afcore.digest import ContentDigest, canonical_json, content_digest
from afcore.errors import DataError

__all__ = ["check_known", "tokenizer_digest"]

_VERSIONED = ("tokenizers", "transformers")
# Where it was loaded from is not what it does.
_NOT_SETTINGS = ("is_local", "local_files_only", "name_or_path", "tokenizer_file", "_commit_hash")
# Set anew by every call of the tokenizer.
_SET_BY_CALLS = ("padding", "truncation")
_ATTRIBUTES = ("padding_side", "truncation_side", "split_special_tokens", "add_prefix_space")
# Accents, wide letters, white space, capitals, digits, scripts, what looks like a special token.
_PROBE = (
    "\u00dcn\u00efcod\u00e9, \uff37\uff49\uff44\uff45\tand  CAPS 1,234.5 don't un-known\n"
    "\u4e2d\u6587 \U0001f600 <unk> [SEP] </s> <|endoftext|> "
)
_NUM_PROBED = 64
_NUM_LOOKED_AT = 1000
_MANY_UNKNOWN = 0.2
_ALL_UNKNOWN = 0.95
_log = logging.getLogger(__name__)


def tokenizer_digest(tokenizer: Any, texts: Sequence[Any], max_length: int) -> ContentDigest:
    """Name a tokenizer by all that it saves of itself, and by the tokens of a sample.

    The sample catches what a class does by settings that it does not save; the versions what a
    release changes.

    Args:
        tokenizer: fast or slow.
        texts: of which some are tokenized, spread evenly; lists as Python shows them.
        max_length: tokens of an example at most.
    """
    step = max(1, len(texts) // _NUM_PROBED)
    # The second one is cut, whatever the length.
    rows = range(0, len(texts), step)[:_NUM_PROBED]
    probed = [_PROBE, _PROBE * max_length, *(str(texts[row]) for row in rows)]
    known = {
        "class": type(tokenizer).__name__,
        "saved": _saved(tokenizer),
        "attributes": {name: str(getattr(tokenizer, name, None)) for name in _ATTRIBUTES},
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "sample": tokenizer(probed, truncation=True, max_length=max_length)["input_ids"],
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }
    return content_digest(canonical_json(known))


def check_known(
    tokenizer: Any,
    examples: Examples,
    source: str,
) -> None:
    """Say so when many tokens of the training rows are unknown to the tokenizer.

    Args:
        tokenizer: that gave them.
        examples: of which a sample is looked at.
        source: of the rows.

    Raises:
        DataError: when as good as all of them are.
    """
    unknown = tokenizer.unk_token_id
    column = examples.inputs.get("input_ids")
    if unknown is None or column is None or column.offsets is None:
        return
    count = len(column.offsets) - 1
    sample = column.pick(np.arange(0, count, max(1, count // _NUM_LOOKED_AT))).values
    words = sample[~np.isin(sample, [*{*tokenizer.all_special_ids} - {unknown}])]
    share = float((words == unknown).mean()) if len(words) else 0.0
    what = f"data {source!r}: {100 * share:.0f} % of the tokens are unknown to the tokenizer"
    if share >= _ALL_UNKNOWN:
        raise DataError(
            f"{what}, so there is nothing to learn from. Is it the model's own tokenizer, and the "
            "model made for this language and script?"
        )
    if share >= _MANY_UNKNOWN:
        _log.warning("%s. Is the model made for this language and script?", what)


def _saved(tokenizer: Any) -> dict[str, Any]:
    """The files that it writes of itself: settings as they are, others by their content."""
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {
            path.relative_to(folder).as_posix(): _settings(path.name, path.read_bytes())
            for path in files
        }


def _settings(name: str, content: bytes) -> ContentDigest:
    left_out = {"tokenizer.json": _SET_BY_CALLS, "tokenizer_config.json": _NOT_SETTINGS}.get(name)
    if left_out is None:
        return content_digest(content)
    tree = {key: value for key, value in json.loads(content).items() if key not in left_out}
    return content_digest(json.dumps(tree, sort_keys=True).encode())
