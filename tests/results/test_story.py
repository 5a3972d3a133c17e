from typing import Any

import pytest

from afcore.results.report import EpochReport
from afcore.results.story import what_happened
from afcore.tasks.known_tasks import find_score
from tests.reports import make_report


def epochs(*rows: tuple[int, int, str, float]) -> list[EpochReport]:
    """(boundary at its start, at its end, what it read, validation loss)."""
    one = make_report(mode="cached").epochs[0]
    return [
        one.model_copy(
            update={
                "epoch": number,
                "boundary_start": start,
                "boundary_end": end,
                "read_from": read,
                "validation": {"accuracy": 0.5, "loss": loss},
            }
        )
        for number, (start, end, read, loss) in enumerate(rows, start=1)
    ]


@pytest.mark.parametrize(
    ("rows", "planned", "expected"),
    [
        (
            [(2, 2, "activations@2", 1.0), (2, 2, "activations@2", 0.95)],
            4,
            "blocks 0-1 of 6 were frozen from the start, what they put out was read from the cache "
            "in epochs 1, 2; stopped after epoch 2 of 4: the last one lowered the validation loss "
            "by 5 %",
        ),
        (
            [(1, 0, "activations@1", 1.0), (0, 0, "tokens", 1.1)],
            3,
            "block 0 of 6 was frozen from the start, all blocks thawed after epoch 1, what they "
            "put out was read from the cache in epoch 1; stopped after epoch 2 of 3: the "
            "validation loss no longer fell",
        ),
        (
            [(0, 0, "tokens", 1.0), (0, 0, "tokens", 0.9)],
            2,
            "nothing was frozen; all 2 epochs were trained",
        ),
        ([(0, 0, "tokens", 1.0)], 1, "nothing was frozen; one epoch was trained"),
        (
            [(0, 0, "tokens", 0.0), (0, 0, "tokens", 0.0)],
            4,
            "nothing was frozen; stopped after epoch 2 of 4: the validation loss no longer fell",
        ),
        (
            [(3, 1, "tokens", 1.0), (1, 1, "tokens", 0.9)],
            2,
            "blocks 0-2 of 6 were frozen from the start, blocks thawed down to 1 after epoch 1; "
            "all 2 epochs were trained",
        ),
        (
            [
                (3, 4, "activations@3", 1.0),
                (4, 5, "activations@3", 1.1),
                (5, 3, "activations@5", 1.2),
                (3, 3, "activations@3", 1.2),
            ],
            4,
            "blocks 0-2 of 6 were frozen from the start, 0-3 by the end of epoch 1, 0-4 by the end "
            "of epoch 2, blocks thawed down to 3 after epoch 3, what they put out was read from "
            "the cache in epochs 1, 2, 3, 4; all 4 epochs were trained",
        ),
        (
            [(0, 3, "tokens", 1.0), (3, 3, "tokens", 0.9)],
            2,
            "blocks 0-2 of 6 were frozen by the end of epoch 1; all 2 epochs were trained",
        ),
    ],
)
def test_in_a_sentence(rows: list[Any], planned: int, expected: str) -> None:
    assert what_happened(epochs(*rows), 6, planned) == expected


def test_a_score_that_may_stop_is_in_the_sentence() -> None:
    trained = [
        epoch.model_copy(update={"validation": {**epoch.validation, "f1_macro": score}})
        for epoch, score in zip(
            epochs((0, 0, "tokens", 1.0), (0, 0, "tokens", 1.1)), (0.6, 0.59), strict=True
        )
    ]
    assert what_happened(trained, 6, 4, find_score("text-classification", "f1_macro")) == (
        "nothing was frozen; stopped after epoch 2 of 4: the validation loss no longer fell, and "
        "macro-F1 was 59.00 % after at most 60.00 %"
    )
