"""Answers as spans of tokens: where they stand in a window, and which span a model means."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["OUTSIDE", "Span", "best_span", "span_of"]

OUTSIDE = -1
"""Character of a token that is not of the context."""


class Span(NamedTuple):
    """Tokens of a window.

    Attributes:
        score: of the first plus of the last.
        first: token of the window.
        last: the same.
    """

    score: float
    first: int
    last: int


def span_of(characters: npt.NDArray[np.int32], begin: int, end: int) -> tuple[int, int] | None:
    """First and last token of an answer; None where the window does not hold all of it.

    Args:
        characters: [s, 2] of each token: its first one, and that behind its last; of the context.
        begin: the answer's first character.
        end: that behind its last.
    """
    starts, ends = characters[:, 0], characters[:, 1]
    touched = np.flatnonzero((starts != OUTSIDE) & (starts < end) & (ends > begin))
    if not len(touched) or starts[touched[0]] > begin or ends[touched[-1]] < end:
        return None
    return int(touched[0]), int(touched[-1])


def best_span(
    logits: npt.NDArray[np.floating], characters: npt.NDArray[np.int32], max_tokens: int
) -> Span:
    """The span of the context with the largest sum of logits.

    Args:
        logits: [s, 2] of each token, to be the first and the last one; perhaps more, of padding.
        characters: [s, 2], see :func:`span_of`.
        max_tokens: of a span.
    """
    tokens = np.flatnonzero(characters[:, 0] != OUTSIDE)
    begin, end = logits[tokens, 0], logits[tokens, 1]
    found = Span(-np.inf, 0, 0)
    for more in range(min(max_tokens, len(tokens))):
        sums = begin[: len(tokens) - more] + end[more:]
        first = int(sums.argmax())
        if sums[first] > found.score:
            found = Span(float(sums[first]), int(tokens[first]), int(tokens[first + more]))
    return found
