"""What rows that come cost: a set that is extended by them, beside one that is built anew.

In each round, in one process, a set is built of 95 % of the rows; then that of all rows in the same
store, which keeps what is there; then that of all rows in another store, anew. Both of the last two
hold the same examples. Medians over the rounds; nothing is trained.

    python bench/retrain.py --limit 2000 --share 0.05 --rounds 3
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from afcore.config import Config, load_config
from afcore.runs.cache import RunCache
from afcore.runs.identify import identify_run
from afcore.runs.run import begin_run
from afcore.storage.objects import Storage

HERE = Path(__file__).parent


def build(config: Config) -> tuple[float, int]:
    """Seconds and bytes of the set that the first epoch would read."""
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage))
    split = run.pretrained()
    cache = RunCache(run, run.trainee(split, run.data().train))
    reference = cache.first_epoch(run.first_freeze.boundary).read_from
    assert reference is not None
    cache.open_or_build(reference, run.record.weights)
    return cache.seconds, cache.bytes_written


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="docstrings", help="as data.train")
    parser.add_argument("--limit", type=int, default=2000, help="rows, validation included")
    parser.add_argument("--share", type=float, default=0.05, help="of the rows that come")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="further settings")
    arguments = parser.parse_args()
    common = [f"data.train={arguments.train}", "data.test=null", "cache.mode=on"]
    common += ["freezing.policy=static", "freezing.depth=3", *arguments.set]
    before = round(arguments.limit * (1 - arguments.share))
    rounds = []
    for _ in range(arguments.rounds):
        work = Path(tempfile.mkdtemp(prefix="autofreeze-retrain-"))
        try:
            extended, anew = (
                load_config(
                    str(HERE / "speed.yaml"),
                    [*common, f"store={work / name}", f"data.limit={arguments.limit}"],
                )
                for name in ("extended", "anew")
            )
            # The sample of fewer rows is a part of that of more.
            build(extended.replace(**{"data.limit": before}))
            rounds.append((build(extended), build(anew)))
        finally:
            shutil.rmtree(work)
    show(arguments.limit, before, rounds)


def show(
    limit: int, before: int, rounds: list[tuple[tuple[float, int], tuple[float, int]]]
) -> None:
    """The table."""
    table = Table("set", "seconds", "MB", title=f"{limit - before} rows come to {before}")
    seconds = [statistics.median(pair[side][0] for pair in rounds) for side in (0, 1)]
    sizes = [rounds[0][side][1] for side in (0, 1)]
    for name, took, size in zip(("extended", "anew"), seconds, sizes, strict=True):
        table.add_row(name, f"{took:.2f}", f"{size / 1e6:.2f}")
    ratio = statistics.median(one[0] / other[0] for one, other in rounds)
    table.add_row("extended / anew", f"{ratio:.1%}", f"{sizes[0] / sizes[1]:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
