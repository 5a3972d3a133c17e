"""Memory does not grow with the rows: neither texts nor tokens are held while they are prepared."""

import copy
import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from afcore.storage.objects import Storage
from afcore.tasks.prepare import DataSources, prepare

FEW, MANY = 2_500, 6_000
WORDS = ("random", "value", "return", "the", "of", "a", "number", "list")
MOST_BYTES_A_ROW = 300
"""Numbers of rows, and what tokenizing at once happens to take. What a tokenizer gives of a row, as
Python's lists, takes a thousand and more."""


def row(task: str, number: int) -> dict[str, str]:
    words = [WORDS[(number >> shift) % len(WORDS)] for shift in range(10)]
    text = f"{number} {' '.join(words)}"
    if task == "token-classification":
        return {"tokens": text, "labels": " ".join("AB"[number % 2] for _ in text.split())}
    if task == "question-answering":
        answers = {"text": [words[0]], "answer_start": [len(str(number)) + 1]}
        return {"question": f"which {number}?", "context": text, "answers": json.dumps(answers)}
    if task == "causal-language-modeling":
        return {"text": f"{text} {text}"}
    return {"text": text, "label": "yn"[number % 2]}


COLUMNS = {
    "text-classification": {"text": "text", "label": "label"},
    "token-classification": {"text": "tokens", "label": "labels"},
    "question-answering": {"text": "question", "text_pair": "context", "label": "answers"},
    "causal-language-modeling": {"text": "text"},
}


def peak(path: Path, task: str, tokenizer: Any, count: int) -> int:
    """Bytes at most while so many rows are prepared; what is mapped does not count."""
    source = path / f"{count}.csv"
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, row(task, 0))
        writer.writeheader()
        writer.writerows(row(task, number) for number in range(count))
    sources = DataSources(str(source), 0.1, None, COLUMNS[task])
    tracemalloc.start()
    try:
        prepare(Storage(str(path / f"store-{count}")), tokenizer, task, sources, 16)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "task",
    [
        "text-classification",
        "question-answering",
        pytest.param("token-classification", marks=pytest.mark.faults),
        pytest.param("causal-language-modeling", marks=pytest.mark.faults),
    ],
)
def test_many_rows_take_what_few_take(tmp_path: Path, tiny_tokenizer: Any, task: str) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = tokenizer.sep_token
    few, many = (peak(tmp_path, task, tokenizer, count) for count in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < MOST_BYTES_A_ROW
