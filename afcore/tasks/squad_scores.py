"""Exact match and F1 of answers that are texts, as the official script of SQuAD 2.0 has them.

Source: evaluate-v2.0.py of https://rajpurkar.github.io/SQuAD-explorer.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

__all__ = ["exact_match", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _normalized(text: str) -> list[str]:
    """Its words in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _expected(answers: Sequence[str]) -> list[list[str]]:
    """Those with words; without any, blank is right."""
    return [words for words in map(_normalized, answers) if words] or [[]]


def exact_match(answers: Sequence[str], given: str) -> float:
    """1 if ``given`` is one of the right answers, else 0; without any, if it is blank."""
    return float(_normalized(given) in _expected(answers))


def token_f1(answers: Sequence[str], given: str) -> float:
    """F1, 0 to 1, of the words that are in common with the nearest of the right answers."""
    return max(_f1(words, _normalized(given)) for words in _expected(answers))


def _f1(expected: list[str], given: list[str]) -> float:
    if not expected or not given:
        return float(expected == given)
    common = sum((Counter(expected) & Counter(given)).values())
    return 2 * common / (len(expected) + len(given))
