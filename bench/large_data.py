"""How much memory, and how long, does a data set of many short rows take?

Two stages, each in a process of its own: rows are read, split and tokenized into a store; and the
prepared tokens are opened there and an epoch is begun: its order, and its first batches. Anonymous
memory is what a machine must have; files that are mapped (``peak_rss`` has them too) are given
back when it is short of it.

    python bench/large_data.py --rows 2000000 --format csv --task text-classification
"""

import argparse
import json
import multiprocessing
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from afcore.data.order import epoch_batches
from afcore.storage.objects import Storage
from afcore.tasks.prepare import DataSources, prepare
from afcore.tasks.stored_tokens import open_prepared

HERE = Path(__file__).parent
WORDS = 10
CONTEXT_WORDS = 60
LABELS = 4
TASKS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "causal-language-modeling",
)
PIECE = 100_000
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="autofreeze-bench-"))
    try:
        source = scratch / f"rows.{arguments.format}"
        write_rows(source, arguments.rows, arguments.task)
        size = source.stat().st_size
        found: dict[str, Any] = {"task": arguments.task, "rows": arguments.rows, "bytes": size}
        print(
            f"{arguments.task}: {arguments.rows:,} rows, {size / 2**20:,.0f} MiB of {source.suffix}"
        )
        found["prepare"] = alone(prepared, arguments.task, str(source), str(scratch / "store"))
        digest = found["prepare"].pop("found")
        found["epoch"] = alone(begun, str(scratch / "store"), digest)
        del found["epoch"]["found"]
        for stage in ("prepare", "epoch"):
            print(line(stage, arguments.rows, found[stage]), flush=True)
    finally:
        shutil.rmtree(scratch)
    arguments.out.mkdir(exist_ok=True)
    name = f"large_data-{arguments.task}-{arguments.format}-{arguments.rows}.json"
    path = arguments.out / name
    path.write_text(json.dumps(found, indent=1))


def write_rows(path: Path, count: int, task: str) -> None:
    rng = random.Random(0)
    words = [f"w{i:04d}" for i in range(5000)]
    schema = pa.schema([(name, pa.string()) for name in COLUMNS[task].values()])
    writer = (pacsv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter)(path, schema)
    with writer:
        for start in range(0, count, PIECE):
            rows = [row(task, rng, words) for _ in range(min(PIECE, count - start))]
            columns = zip(schema.names, zip(*rows, strict=True), strict=True)
            writer.write_table(pa.table({k: list(v) for k, v in columns}, schema=schema))


COLUMNS = {
    "text-classification": {"text": "text", "label": "label"},
    "token-classification": {"text": "tokens", "label": "labels"},
    "question-answering": {"text": "question", "text_pair": "context", "label": "answers"},
    "causal-language-modeling": {"text": "text"},
}


def row(task: str, rng: random.Random, words: list[str]) -> tuple[str, ...]:
    """In the order of the task's columns."""
    text = rng.choices(words, k=WORDS)
    if task == "text-classification":
        return " ".join(text), f"label {rng.randrange(LABELS)}"
    if task == "token-classification":
        return " ".join(text), " ".join(f"L{rng.randrange(LABELS)}" for _ in text)
    if task == "question-answering":
        context = rng.choices(words, k=CONTEXT_WORDS)
        answers = {"text": [context[7]], "answer_start": [sum(len(w) + 1 for w in context[:7])]}
        return " ".join(text), " ".join(context), json.dumps(answers)
    return (" ".join(text),)


def alone(work: Callable[..., Any], *given: Any) -> dict[str, Any]:
    """What it takes in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, work, *given).result()


def measured(work: Callable[..., Any], *given: Any) -> dict[str, Any]:
    before, peak, done = memory("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], memory("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    found = work(*given)
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    return {
        "seconds": seconds,
        "before_bytes": before,
        "peak_anonymous_bytes": peak[0],
        "peak_rss_bytes": memory("VmHWM"),
        "found": found,
    }


def memory(name: str) -> int:
    """Bytes, of Linux."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{name}:"))


def prepared(task: str, source: str, store: str) -> str:
    sources = DataSources(source, 0.1, None, COLUMNS[task])
    return prepare(Storage(store), tokenizer(), task, sources, 64).digest


def begun(store: str, digest: Any) -> int:
    data = open_prepared(Storage(store), digest)
    lengths = data.train.lengths
    batches = epoch_batches(lengths, batch_size=BATCH, seed=0, epoch=1, batching="grouped")
    data.task.weights(data.train)
    data.task.chance_loss(data.train)
    for ids in batches[:100]:
        data.task.collate(data.train, ids, torch.device("cpu"))
    return len(batches)


def tokenizer() -> Any:
    """A WordPiece tokenizer of the words, as BERT's is."""

    def texts() -> Iterator[str]:
        yield " ".join(f"w{i:04d}" for i in range(5000))

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(
        texts(), trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special)
    )
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
    )


def line(stage: str, rows: int, found: dict[str, Any]) -> str:
    names = ("before", "peak_anonymous", "peak_rss")
    mib = {name: found[f"{name}_bytes"] / 2**20 for name in names}
    return (
        f"{stage}: {found['seconds']:.1f} s ({rows / found['seconds']:,.0f} rows/s), anonymous "
        f"memory {mib['before']:,.0f} MiB before, {mib['peak_anonymous']:,.0f} MiB at its peak; "
        f"{mib['peak_rss']:,.0f} MiB with mapped files"
    )


if __name__ == "__main__":
    main()
