import ast
from collections import Counter

import pytest

from afcore.data.builtin.docstrings import MIN_CHARACTERS, PACKAGES, _docstrings, docstring_rows
from afcore.errors import DataError


def test_real_text_of_many_packages_without_duplicates() -> None:
    train, test = docstring_rows("train"), docstring_rows("test")
    labels = Counter(row["label"] for row in train)
    assert set(labels) == set(PACKAGES)
    assert len(labels) >= 6
    assert min(labels.values()) > 200
    texts = [row["text"] for row in train + test]
    assert len(texts) == len(set(texts))
    assert min(map(len, texts)) >= MIN_CHARACTERS
    assert 0.15 < len(test) / len(texts) < 0.35


def test_kinds_are_those_of_the_code() -> None:
    text = "It says in more than sixty characters what {} is there for, with examples."
    tree = ast.parse(
        f'''"""{text.format("a module")}"""
class A:
    """{text.format("a class")}"""
    def f(self):
        """{text.format("a method")}"""
        def g():
            """{text.format("an inner function, which nobody documents,")}"""
async def h():
    """{text.format("a function")}"""
'''
    )
    kinds = ("module", "class", "method", "function")
    expected = [(text.format(f"a {kind}"), kind) for kind in kinds]
    assert list(_docstrings(tree)) == expected


def test_every_kind_is_there() -> None:
    kinds = Counter(row["kind"] for row in docstring_rows("train"))
    assert set(kinds) == {"module", "class", "function", "method"}
    assert min(kinds.values()) > 100


def test_any_prefix_holds_all_packages() -> None:
    assert {row["label"] for row in docstring_rows("train")[:200]} == set(PACKAGES)


def test_other_splits_are_refused() -> None:
    with pytest.raises(DataError, match="train and test, not 'dev'"):
        docstring_rows("dev")
