"""Words of a row among its tokens: which token a word begins with, by the tokens' offsets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NOT_READ", "word_positions"]

NOT_READ = -1
"""Position of a word that has no token: it was cut off, or the tokenizer knows nothing of it."""


def word_positions(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """[w], the first token of each word.

    Args:
        words: w; what was tokenized is these with a space between two.
        offsets: [s], of each token: its first character, and that behind its last. A token may
            begin with the space before a word; one of no characters belongs to none.
    """
    owners = _owners(words)
    positions = [NOT_READ] * len(words)
    for token, (start, end) in enumerate(offsets):
        owned = owners[start:end]
        seen = owned[owned != NOT_READ]
        if len(seen) and positions[seen[0]] == NOT_READ:
            positions[seen[0]] = token
    return positions


def _owners(words: Sequence[str]) -> npt.NDArray[Any]:
    """Of each character of the text, the word that it is of; of a space between two, none."""
    sizes = [size for word in words for size in (len(word), 1)]
    numbers = [owner for word in range(len(words)) for owner in (word, NOT_READ)]
    return np.repeat(numbers, sizes)
