"""How far is a cached epoch from a reference: the suffix alone, fed from memory?

At every boundary k, in one process and interleaved:

* **reference**: forward of the blocks from k on and the head, loss, backward, clipping, AdamW.
  Hidden states and masks lie in memory, padded, a tensor a batch. Nothing else: no cache, no flow,
  no statistics, no log. Written out here, for BERT, without the product's way of splitting a model;
  the last block at the one position that the head reads.
* **whole**: the same with the last block at every position, as the model's own code has it.
* **least**: the same with the last block at one position and without keys and values, as the
  product has it (:mod:`afcore.model.attention`).
* **cached**: the product's epoch (:func:`afcore.training.loop.train_epoch`), fed from an activation
  set in a store, with statistics and decisions where something is left to decide; they are not
  carried out.

All train on the same batches in the same order, with dropout, in the same precision. Prints median
seconds over the repetitions, and the median ratios of an epoch to the reference, and to the least,
measured next to it; opening the set (once an epoch) stands beside it.

    python bench/limit.py --train train.csv --set data.limit=3000 --out bench/out
    python bench/limit.py --limit 200 --boundaries 1,5 --repeats 2
"""

import argparse
import dataclasses
import json
import logging
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from afcore.activations.feed import HiddenFeed
from afcore.config import load_config
from afcore.data.order import epoch_batches
from afcore.freezing.policy import FreezePolicy, FreezeState
from afcore.model.attention import attend_to_hidden
from afcore.model.split_model import SplitModel
from afcore.model.stacks import HIDDEN_STATES
from afcore.runs.batches import training_schedule
from afcore.runs.cache import RunCache
from afcore.runs.identify import identify_run
from afcore.runs.run import Run, begin_run
from afcore.storage.objects import Storage
from afcore.tasks.stored_tokens import PreparedData
from afcore.training.loop import Course, train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.steps import StepSettings
from afcore.training.trained import TrainedEpoch, TrainingState

HERE = Path(__file__).parent
GOAL = 1.10
ALONE = ("whole", "reference", "least")
WARM_UP_STEPS = 5  # they pay for what is allocated once


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A batch as the reference wants it: all in memory.

    ``hidden`` [b, s, h] float32; ``mask`` as a block of the model takes it; ``labels`` [b].
    """

    hidden: Tensor
    mask: Tensor | None
    labels: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="docstrings", help="CSV with the columns text,label")
    parser.add_argument("--limit", type=int, help="training examples, for a quick try")
    parser.add_argument("--boundaries", help="comma-separated; default: every one of the model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="further settings")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    work = arguments.out.absolute() / time.strftime("limit-%Y%m%d-%H%M%S")
    work.mkdir(parents=True)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as store:
        rows = measure(open_run(arguments, store), arguments)
    (work / "limit.json").write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=150).print(table(rows))
    figure(rows).savefig(work / "limit.png", dpi=150)
    print(f"{work}/limit.json, limit.png")


def open_run(arguments: argparse.Namespace, store: str) -> Run:
    settings = [f"data.train={arguments.train}", "data.test=null", f"store={store}"]
    settings += [f"data.limit={arguments.limit}"] if arguments.limit else []
    config = load_config(str(HERE / "speed.yaml"), settings + arguments.set)
    storage = Storage(config.store)
    return begin_run(storage, identify_run(config, storage))


def measure(run: Run, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a boundary: seconds of each repetition."""
    data = run.data()
    given = arguments.boundaries
    boundaries = [int(k) for k in given.split(",")] if given else range(1, run.record.num_blocks)
    cells = [Cell(run, data, boundary) for boundary in boundaries]
    for cell in cells:
        cell.check()
        for way in ALONE:
            cell.suffix_alone(way, WARM_UP_STEPS)
        cell.cached(WARM_UP_STEPS)
    for repeat in range(arguments.repeats):
        for cell in cells:
            print(f"round {repeat + 1}/{arguments.repeats}, boundary {cell.boundary}", flush=True)
            epochs = [partial(cell.suffix_alone, way) for way in ALONE]
            for epoch in [*epochs, cell.cached][:: -1 if repeat % 2 else 1]:
                epoch()
    return [cell.row() for cell in cells]


class Cell:
    """One boundary: the model, its activation set, and both kinds of epoch."""

    def __init__(self, run: Run, data: PreparedData, boundary: int) -> None:
        self.run, self.data, self.boundary, self.compute = run, data, boundary, run.compute
        config = run.config
        self.split = run.pretrained()
        self.trainee = run.trainee(self.split, data.train)
        cache = RunCache(run, self.trainee)
        reference = cache.next_source(boundary, run.record.weights, None)
        activation_set = cache.open_or_build(reference, run.record.weights)
        clock = time.perf_counter()
        self.feed = HiddenFeed(activation_set, cache.runner, device=self.compute.device)
        self.set_bytes = activation_set.manifest.num_bytes
        self.open_seconds = time.perf_counter() - clock
        self.batches = epoch_batches(
            data.train.lengths,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            epoch=1,
            batching=config.data.batching,
        )
        self.prepared = [self._prepare(ids) for ids in self.batches]
        self.split.set_training(boundary)
        settings = {
            "learning_rate": config.training.learning_rate,
            "weight_decay": config.training.weight_decay,
        }
        self.parameters = [p for p in self.split.model.parameters() if p.requires_grad]
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=settings["learning_rate"], weight_decay=0.0, fused=True
        )
        self.optimizer = SuffixOptimizer(self.split, **settings)
        self.policy = Held(policy="held", rule=config.freezing, boundary=boundary)
        self.alone_seconds: dict[str, list[float]] = {way: [] for way in ALONE}
        self.cached_seconds: list[float] = []
        self.trained = TrainedEpoch()

    def check(self) -> None:
        """Both compute the same numbers; in fp32, as bf16 rounds them apart."""
        self.split.model.eval()
        ids, prepared = self.batches[0], self.prepared[0]
        batch = self.trainee.inputs(ids)
        with torch.no_grad():
            ours = self.split.logits(batch, self.boundary, {HIDDEN_STATES: prepared.hidden})
            for way in ALONE:
                alone = suffix_logits(self.split, self.boundary, prepared, way)
                torch.testing.assert_close(alone, ours)

    def suffix_alone(self, way: str, num_steps: int | None = None) -> None:
        """An epoch of the suffix alone, or a few steps that do not count."""
        max_grad_norm = self.run.config.training.max_grad_norm
        self.split.set_training(self.boundary)
        self.compute.synchronize()
        clock = time.perf_counter()
        for prepared in self.prepared[:num_steps]:
            with self.compute.autocast():
                logits = suffix_logits(self.split, self.boundary, prepared, way)
            torch.nn.functional.cross_entropy(logits, prepared.labels).backward()
            if max_grad_norm:
                torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
            self.adamw.step()
            self.adamw.zero_grad(set_to_none=True)
        self.compute.synchronize()
        if num_steps is None:
            self.alone_seconds[way].append(time.perf_counter() - clock)

    def cached(self, num_steps: int | None = None) -> None:
        """The product's epoch, or a few steps that do not count."""
        training = self.run.config.training
        state = TrainingState(self.optimizer, FreezeState(self.boundary))
        clock = time.perf_counter()
        trained = train_epoch(
            self.trainee,
            state,
            self.batches[:num_steps],
            Course(
                epoch=1,
                schedule=training_schedule(training, len(self.data.train)),
                policy=self.policy,
                intervals_per_epoch=self.run.config.freezing.intervals_per_epoch,
            ),
            StepSettings(seed=training.seed, max_grad_norm=training.max_grad_norm),
            feed=self.feed,
        )
        if num_steps is None:
            self.cached_seconds.append(time.perf_counter() - clock)
            self.trained = trained

    def row(self) -> dict[str, Any]:
        """All that was measured."""
        return {
            "boundary": self.boundary,
            "num_steps": len(self.batches),
            **{f"{way}_seconds": seconds for way, seconds in self.alone_seconds.items()},
            "cached_seconds": self.cached_seconds,
            "cached_read_seconds": self.trained.read_seconds,
            "open_seconds": self.open_seconds,
            "set_bytes": self.set_bytes,
            "ratio": self._ratio("reference"),
            "ratio_to_least": self._ratio("least"),
        }

    def _ratio(self, way: str) -> float:
        """Of neighbours in time, so that what else the machine does weighs on both."""
        pairs = zip(self.cached_seconds, self.alone_seconds[way], strict=True)
        return statistics.median(cached / alone for cached, alone in pairs)

    def _prepare(self, ids: Any) -> Prepared:
        batch, targets = self.run.record.task.collate(self.data.train, ids, self.compute.device)
        return Prepared(self.feed.batch(ids)[HIDDEN_STATES], self._mask(batch), targets["labels"])

    def _mask(self, batch: Any) -> Tensor | None:
        """What the model makes of ``attention_mask`` before its first block."""
        caught: list[Tensor | None] = []

        def catch(_module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            caught.append(named["attention_mask"] if "attention_mask" in named else given[1])

        handle = self.split.blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
        with torch.no_grad(), self.compute.autocast():
            self.split.hidden(batch, 1)
        handle.remove()
        return caught[0]


def suffix_logits(split: SplitModel, boundary: int, batch: Prepared, way: str) -> Tensor:
    """BERT from ``boundary`` on, by hand: blocks, pooler, dropout, classifier."""
    model, hidden = split.model, batch.hidden
    for block in split.blocks[boundary : None if way == "whole" else -1]:
        output = block(hidden, batch.mask)
        hidden = output[0] if isinstance(output, tuple) else output
    if way != "whole":
        hidden = first_position(split.blocks[-1], hidden, batch.mask, way)
    logits: Tensor = model.classifier(model.dropout(model.bert.pooler(hidden)))
    return logits.float()


def first_position(block: Any, hidden: Tensor, mask: Tensor | None, way: str) -> Tensor:
    """[b, 1, h], what a block of BERT puts out for the first token."""
    attention, first = block.attention.self, hidden[:, :1]
    mask = None if mask is None else mask[:, :, :1]
    dropout = attention.dropout.p if attention.training else 0.0

    def heads(values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], -1, attention.attention_head_size).transpose(1, 2)

    query = heads(attention.query(first))
    if way == "least":
        layers = attention.key, attention.value
        context = attend_to_hidden(query, hidden, *layers, mask, dropout, None)
    else:
        key, value = heads(attention.key(hidden)), heads(attention.value(hidden))
        context = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        ).transpose(1, 2)
    attended = block.attention.output(context.flatten(2), first)
    return block.feed_forward_chunk(attended)


class Held(FreezePolicy):
    """Another policy, decisions and all, but the boundary stays."""

    rule: FreezePolicy
    boundary: int

    def decide(self, state: FreezeState, statistics: Any) -> Any:
        """As the other does."""
        after, decision = self.rule.decide(state, statistics)
        return dataclasses.replace(after, boundary=self.boundary), decision


def table(rows: list[dict[str, Any]]) -> Table:
    found = Table(title="A cached epoch beside its reference, medians", title_justify="left")
    for column in (
        "boundary",
        "steps",
        "whole s",
        "reference s",
        "cached s",
        "of it reading s",
        "opening the set s",
        "MB",
        "cached / reference",
        f"goal {GOAL:.2f}",
        "least s",
        "cached / least",
    ):
        found.add_column(column, justify="right")
    for row in rows:
        found.add_row(
            str(row["boundary"]),
            str(row["num_steps"]),
            f"{statistics.median(row['whole_seconds']):.3f}",
            f"{statistics.median(row['reference_seconds']):.3f}",
            f"{statistics.median(row['cached_seconds']):.3f}",
            f"{row['cached_read_seconds']:.3f}",
            f"{row['open_seconds']:.3f}",
            f"{row['set_bytes'] / 1e6:.1f}",
            f"{row['ratio']:.3f}",
            "met" if row["ratio"] <= GOAL else "not met",
            f"{statistics.median(row['least_seconds']):.3f}",
            f"{row['ratio_to_least']:.3f}",
        )
    return found


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Median seconds of all, side by side at each boundary, with every repetition as a point."""
    found = Figure(figsize=(8, 4), layout="constrained")
    axes = found.subplots()
    for offset, name, color in (
        (-0.3, "whole_seconds", "#d8dee9"),
        (-0.1, "reference_seconds", "#5e81ac"),
        (0.1, "least_seconds", "#88c0d0"),
        (0.3, "cached_seconds", "#bf616a"),
    ):
        at = [row["boundary"] + offset for row in rows]
        medians = [statistics.median(row[name]) for row in rows]
        axes.bar(at, medians, width=0.2, color=color, label=name.removesuffix("_seconds"))
        for x, row in zip(at, rows, strict=True):
            axes.scatter([x] * len(row[name]), row[name], color="black", s=8, zorder=3)
    for row in rows:
        above_cached = (row["boundary"] + 0.3, 1.02 * max(row["cached_seconds"]))
        axes.annotate(f"{row['ratio']:.2f}x", above_cached, ha="center", va="bottom")
    axes.set(xlabel="boundary", ylabel="seconds an epoch", title="A cached epoch and its reference")
    axes.set_xticks([row["boundary"] for row in rows])
    axes.margins(y=0.15)
    axes.legend()
    return found


if __name__ == "__main__":
    main()
