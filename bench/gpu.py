"""What freezing and cached activations are worth on a GPU: tokens per second of BERT-base.

On a bare GPU machine with torch, transformers, numpy and zarr, about 5 minutes; nothing is
downloaded (weights are random, lengths and count like AG News):

    python bench/gpu.py --out gpu.json              # also --compile; picture if matplotlib is there
    python bench/gpu.py --plot gpu.json             # elsewhere: draws gpu.png
    python bench/gpu.py --tiny                      # a tiny model, under a minute; also on a CPU

Rows, each for every batch size:

* ``hf random``, ``hf grouped``: the loop of Hugging Face's Trainer (eager, bf16, fused AdamW,
  clipping, its look at every loss), with batches in random order (its default) or by length.
* ``full``: this package's step, nothing frozen, batches grouped by length as in all rows below.
* ``freeze``: blocks below the boundary frozen and run again at each step, gradients summed.
* ``cached``: their output read from a tier instead (see ``bench/gpu_tiers.py``).
* ``limit``: the suffix alone on padded batches that wait in device memory: no reading, no sums.

A row is the median of some repeats over the same batches, timed on the device after a warm-up;
each repeat starts the reading anew. One activation set serves every boundary, as only its size
matters here. Page cache warm: the set was just written.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # on a bare machine the package is not installed

from gpu_rows import HEADER, Row, line, plot  # noqa: E402
from gpu_tiers import (  # noqa: E402
    TIERS,
    Feed,
    Ids,
    device_feed,
    disk_feed,
    host_feed,
    row_numbers,
    store_feed,
)

from afcore.activations.codec import round_hidden  # noqa: E402
from afcore.compute import Compute, choose_compute, to_device  # noqa: E402
from afcore.data.order import epoch_batches, inference_batches  # noqa: E402
from afcore.model.compile import SuffixCompiler, check_compiler  # noqa: E402
from afcore.model.split_model import SplitModel  # noqa: E402
from afcore.model.stacks import HIDDEN_STATES  # noqa: E402
from afcore.training.gradients import (  # noqa: E402
    GradientSums,
    clip_gradients,
    norms_of_gradients,
)
from afcore.training.optimizer import SuffixOptimizer  # noqa: E402
from afcore.training.stopwatch import Stopwatch  # noqa: E402

NUM_CLASSES = 4
LONGEST = 128
LEARNING_RATE = 2e-5

Steps = Callable[[list[Ids]], Iterator[int]]
"""Trains on batches; gives the tokens of each, without padding."""


@dataclass(frozen=True)
class Data:
    """Examples of random tokens."""

    tokens: Ids
    lengths: Ids
    labels: Ids

    @property
    def starts(self) -> Ids:
        """First token of each example."""
        return np.cumsum(self.lengths) - self.lengths

    def collate(self, ids: Ids, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """``input_ids`` and ``attention_mask`` [b, s], labels [b]."""
        lengths = self.lengths[ids]
        mask = np.arange(lengths.max()) < lengths[:, None]
        input_ids = np.zeros(mask.shape, dtype=np.int64)
        input_ids[mask] = self.tokens[row_numbers(self.starts[ids], lengths)]
        arrays = {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}
        batch = {k: to_device(torch.from_numpy(v), device) for k, v in arrays.items()}
        return batch, to_device(torch.from_numpy(self.labels[ids]), device)


class Bench:
    """The model, the data and the clock that all rows share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.compute: Compute = choose_compute("auto")
        self.device = self.compute.device
        torch.manual_seed(0)
        config = transformers.BertConfig(num_labels=NUM_CLASSES, **_sizes(arguments.tiny))
        model = transformers.BertForSequenceClassification(config).to(self.device)
        self.split = SplitModel(model)
        self.data = make_data(arguments.examples, config.vocab_size)
        self.rows: list[Row] = []
        self.set_bytes = 0

    def batches(self, batch_size: int, batching: str = "grouped") -> list[Ids]:
        """Enough whole batches for a repeat."""
        made = epoch_batches(
            self.data.lengths, batch_size=batch_size, seed=0, epoch=1, batching=batching
        )
        whole = [ids for ids in made if len(ids) == batch_size]
        return (whole * -(-self.arguments.steps // len(whole)))[: self.arguments.steps]

    def windows(self, batch_size: int) -> int:
        """How often to take :meth:`batches` so that a repeat reads several windows of shards."""
        examples = batch_size * self.arguments.steps
        return max(1, round(self.arguments.store_examples / examples))

    def add(self, steps: Steps, batches: list[Ids], mode: str, **labels: Any) -> None:
        """Measure one row and print it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        for _ in steps(batches[: self.arguments.warmup]):
            pass
        timings = []
        for _ in range(self.arguments.repeats):
            watch = Stopwatch(self.device)
            watch.start()
            tokens = sum(steps(batches))
            watch.lap("steps")
            timings.append((watch.seconds()["steps"], tokens))
        seconds = sorted(seconds / len(batches) * 1000 for seconds, _ in timings)
        rate = statistics.median(tokens / seconds for seconds, tokens in timings)
        row = Row(
            batch_size=len(batches[0]),
            mode=mode,
            boundary=labels.get("boundary", 0),
            tier=labels.get("tier", ""),
            compiled=labels.get("compiled", False),
            step_ms=statistics.median(seconds),
            fastest_ms=seconds[0],
            slowest_ms=seconds[-1],
            tokens_per_second=rate,
            epoch_seconds=float(self.data.lengths.sum()) / rate,
            peak_device_bytes=self.peak_bytes(labels.get("tier")),
        )
        self.rows.append(row)
        print(line(row, self.rows), flush=True)

    def peak_bytes(self, tier: str | None) -> int:
        """Device memory of the row; the set in device memory counts for its own tier alone."""
        if self.device.type != "cuda":
            return 0
        return torch.cuda.max_memory_allocated() - (0 if tier == "device" else self.set_bytes)

    def trainer_loop(self) -> Steps:
        """What Hugging Face's Trainer does in a step."""
        model, device = self.split.model, self.device
        self.split.set_training(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 1e6)
        total = torch.zeros((), device=device)

        def steps(batches: list[Ids]) -> Iterator[int]:
            for ids in batches:
                batch, labels = self.data.collate(ids, device)
                with self.compute.autocast():
                    loss = model(**batch, labels=labels).loss
                loss.backward()
                loss = loss.detach()
                if not (torch.isnan(loss) or torch.isinf(loss)):  # logging_nan_inf_filter
                    total.add_(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                model.zero_grad()
                yield int(self.data.lengths[ids].sum())

        return steps

    def our_loop(self, boundary: int, feed: Feed | None = None) -> Steps:
        """A step of this package; ``full`` at boundary 0, ``freeze`` without a feed."""
        split = self.split
        optimizer, sums = self.prepare(boundary), GradientSums(split, 1)

        def steps(batches: list[Ids]) -> Iterator[int]:
            sums.begin(len(batches))
            fed = feed(batches) if feed else ((ids, None) for ids in batches)
            for ids, hidden in fed:
                batch, labels = self.data.collate(ids, self.device)
                if boundary and hidden is None:
                    with torch.no_grad(), self.compute.autocast():
                        hidden = round_hidden(split.hidden(batch, boundary)[HIDDEN_STATES], "bf16")
                self.backward(batch, labels, boundary, hidden)
                self.update(optimizer, sums if boundary else None)
                yield int(self.data.lengths[ids].sum())

        return steps

    def limit_loop(self, boundary: int, batches: list[Ids], feed: Feed) -> Steps:
        """The suffix alone; padded batches and their hidden states are on the device before."""
        optimizer = self.prepare(boundary)
        held = [(self.data.collate(ids, self.device), hidden) for ids, hidden in feed(batches)]
        tokens = [int(self.data.lengths[ids].sum()) for ids in batches]

        def steps(batches: list[Ids]) -> Iterator[int]:
            for ((batch, labels), hidden), count, _ in zip(held, tokens, batches, strict=False):
                self.backward(batch, labels, boundary, hidden)
                self.update(optimizer)
                yield count

        return steps

    def prepare(self, boundary: int) -> SuffixOptimizer:
        """Freeze below the boundary; a new optimizer for the rest."""
        self.split.set_training(boundary)
        return SuffixOptimizer(self.split, learning_rate=LEARNING_RATE, weight_decay=0.0)

    def backward(
        self, batch: dict[str, Tensor], labels: Tensor, boundary: int, hidden: Tensor | None
    ) -> None:
        """Forward and backward through the suffix."""
        with self.compute.autocast():
            named = None if hidden is None else {HIDDEN_STATES: hidden}
            logits = self.split.logits(batch, boundary, named)
        torch.nn.functional.cross_entropy(logits, labels).backward()

    def update(self, optimizer: SuffixOptimizer, sums: GradientSums | None = None) -> None:
        """Statistics, clip and step."""
        norms = norms_of_gradients(optimizer.parameters)
        if sums is not None:
            sums.add(norms)
        clip_gradients(norms, 1.0)
        optimizer.step(1.0)

    def materialize(self, boundary: int) -> Tensor:
        """Hidden states of all examples, [t, h] bfloat16 on the host."""
        data, hidden_size = self.data, self.split.model.config.hidden_size
        rows = torch.empty(int(data.lengths.sum()), hidden_size, dtype=torch.bfloat16)
        self.split.model.eval()
        max_tokens = 65536 if self.device.type == "cuda" else 4096
        with torch.no_grad(), self.compute.autocast():
            for ids in inference_batches(data.lengths, max_tokens=max_tokens):
                batch, _ = data.collate(ids, self.device)
                hidden = self.split.hidden(batch, boundary)[HIDDEN_STATES].to(torch.bfloat16).cpu()
                mask = torch.arange(hidden.shape[1]) < torch.from_numpy(data.lengths[ids])[:, None]
                at = torch.from_numpy(row_numbers(data.starts[ids], data.lengths[ids]))
                rows[at] = hidden[mask]
        return rows


def main() -> None:
    arguments = parse()
    if arguments.plot:
        plot(arguments.plot)
        return
    began = time.monotonic()
    bench = Bench(arguments)
    if arguments.compile:
        check_compiler(bench.device)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        seconds, apart = run(bench, Path(folder))
    report = {
        "machine": machine(bench),
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "seconds": {**seconds, "all": time.monotonic() - began},
        "cached_minus_recomputed": apart,
        "num_tokens": int(bench.data.lengths.sum()),
        "rows": [asdict(row) for row in bench.rows],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1))
    print(f"{arguments.out}; {report['seconds']['all']:.0f} s in all")
    if importlib.util.find_spec("matplotlib"):
        plot(arguments.out)
    else:
        print(f"no matplotlib here; draw with: python bench/gpu.py --plot {arguments.out.name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, help="default 120000; 400 with --tiny")
    parser.add_argument("--batch-sizes", type=numbers, help="default 32,256; 8,32 with --tiny")
    parser.add_argument("--boundaries", type=numbers, default=[3, 6, 9, 11])
    parser.add_argument("--steps", type=int, help="in a repeat; default 40; 3 with --tiny")
    parser.add_argument("--warmup", type=int, help="steps before; default 10; 1 with --tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a tiny model; always without CUDA")
    parser.add_argument("--folder", type=Path, help="local disk for the tiers; default: temporary")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "gpu.json")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="draw an earlier run")
    arguments = parser.parse_args()
    arguments.tiny |= not torch.cuda.is_available()
    arguments.store_examples = 0 if arguments.tiny else 6000
    large = {"examples": 120_000, "batch_sizes": [32, 256], "steps": 40, "warmup": 10}
    small = {"examples": 400, "batch_sizes": [8, 32], "steps": 3, "warmup": 1}
    for name, value in (small if arguments.tiny else large).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def run(bench: Bench, folder: Path) -> tuple[dict[str, float], float]:
    """Measure all rows; seconds of building the tiers, and how far cached is from recomputed."""
    sizes = bench.arguments.batch_sizes
    print(f"{machine(bench)}\n{HEADER}", flush=True)
    loop = bench.trainer_loop()
    for size in sizes:
        bench.add(loop, bench.batches(size, "random"), "hf random")
        bench.add(loop, bench.batches(size), "hf grouped")
    del loop
    for size in sizes:
        bench.add(bench.our_loop(0), bench.batches(size), "full")
    compiling(bench, 0, lambda size: (("full", "", bench.our_loop(0)),))
    feeds, seconds, apart = build_tiers(bench, folder)
    for boundary in bench.arguments.boundaries:
        for size in sizes:
            for mode, tier, loop in loops(bench, boundary, size, feeds, TIERS):
                batches = bench.batches(size) * (bench.windows(size) if tier == "store" else 1)
                bench.add(loop, batches, mode, boundary=boundary, tier=tier)
        compiling(
            bench,
            boundary,
            lambda size, k=boundary: loops(bench, k, size, feeds, ("device",)),
        )
    return seconds, apart


def loops(
    bench: Bench, boundary: int, size: int, feeds: dict[str, Feed], tiers: tuple[str, ...]
) -> Iterator[tuple[str, str, Steps]]:
    """Mode, tier and loop of every row at a boundary."""
    yield "freeze", "", bench.our_loop(boundary)
    for tier in tiers:
        yield "cached", tier, bench.our_loop(boundary, feeds[tier])
    yield "limit", "", bench.limit_loop(boundary, bench.batches(size), feeds["device"])


def compiling(bench: Bench, boundary: int, made: Callable[[int], Any]) -> None:
    """Rows again with the suffix compiled, when that is wanted."""
    if not bench.arguments.compile:
        return
    bench.split.set_training(boundary)
    compiler = SuffixCompiler(bench.split, "inductor")
    compiler.compile(boundary)
    for size in bench.arguments.batch_sizes:
        for mode, tier, loop in made(size):
            labels = {"boundary": boundary, "tier": tier, "compiled": True}
            bench.add(loop, bench.batches(size), mode, **labels)
    compiler.release()


def build_tiers(bench: Bench, folder: Path) -> tuple[dict[str, Feed], dict[str, float], float]:
    """The feeds, the seconds that each took to build, and cached minus recomputed, at most."""
    lengths, device = bench.data.lengths, bench.device
    boundary = bench.arguments.boundaries[len(bench.arguments.boundaries) // 2]
    clock = time.perf_counter()
    rows = bench.materialize(boundary)
    seconds = {"materialize": time.perf_counter() - clock}
    builders = {
        "device": lambda: device_feed(rows, lengths, device),
        "host": lambda: host_feed(rows, lengths, device),
        "disk": lambda: disk_feed(rows, lengths, device, folder),
        "store": lambda: store_feed(rows, lengths, device, folder),
    }
    feeds = {}
    bench.set_bytes = rows.nbytes
    for tier in TIERS:
        clock = time.perf_counter()
        feeds[tier] = builders[tier]()
        seconds[tier] = time.perf_counter() - clock
    print(f"activations: {rows.nbytes / 1e9:.2f} GB; seconds: " + told(seconds), flush=True)
    apart = max(cached_minus_recomputed(bench, boundary, feed) for feed in feeds.values())
    print(f"cached differs from recomputed by {apart:.2g} at most", flush=True)
    return feeds, seconds, apart


def cached_minus_recomputed(bench: Bench, boundary: int, feed: Feed) -> float:
    """Largest difference on real tokens, over the largest magnitude."""
    ((ids, cached),) = feed([bench.batches(bench.arguments.batch_sizes[0])[0]])
    batch, _ = bench.data.collate(ids, bench.device)
    bench.split.model.eval()
    with torch.no_grad(), bench.compute.autocast():
        again = round_hidden(bench.split.hidden(batch, boundary)[HIDDEN_STATES], "bf16")
    real = batch["attention_mask"].bool()
    return float((cached - again)[real].abs().max() / again[real].abs().max())


def make_data(count: int, vocab_size: int) -> Data:
    """Lengths like AG News's: mean about 50 tokens, at most 128."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(47.5), 0.33, count).astype(np.int64), 8, LONGEST)
    tokens = rng.integers(1000 % vocab_size, vocab_size, int(lengths.sum()))
    return Data(tokens, lengths, rng.integers(0, NUM_CLASSES, count))


def _sizes(tiny: bool) -> dict[str, int]:
    """Of BERT-base, or of a model with as many blocks, each tiny."""
    if not tiny:
        return {}
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    return {**small, "vocab_size": 1500}


def machine(bench: Bench) -> str:
    cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    attention = bench.split.model.config._attn_implementation
    return (
        f"{'a tiny model' if bench.arguments.tiny else 'BERT-base'} on {name}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{bench.compute.precision}, {attention} attention"
    )


def told(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())


if __name__ == "__main__":
    main()
