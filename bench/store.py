"""How fast are activation sets read and written, next to the best that the machine can do?

Every figure is a median over rounds; in each round ours and its peers take turns, page cache warm,
so that a busy machine slows all of them. The peers:

* a shard read whole (checksum and all) into memory that is there, against ``readinto`` of a plain
  file with the same bytes;
* random batches of 32 ragged examples from the host tier against numpy's fancy indexing of the same
  rows in one array (neither padded nor converted), and the same from a memory map of a file: once
  as float32, padded, as they go into a model on the CPU ("as many bytes copied" is the like of it,
  several times the bytes of the rows, copied in one piece from memory to memory), and once as they
  are stored, padded, as they go to a GPU;
* a shard written (checksum, atomic, Zarr metadata) against a plain file;
* with ``--s3``: shards got from an S3 server that is started for it (moto's; Python, so it is the
  bottleneck), against boto3 and, when it is installed, obstore, getting the same objects.

    python bench/store.py --gb 1 --s3 --out bench/out
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from afcore.activations.codec import RowFormat
from afcore.activations.feed import HiddenFeed
from afcore.activations.gather import gather_rows
from afcore.activations.manifest import NewSet
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet
from afcore.activations.tiers import Budgets
from afcore.activations.writer import ActivationWriter
from afcore.digest import RecipeDigest
from afcore.model.stacks import HIDDEN_STATES
from afcore.storage.objects import Storage

HERE = Path(__file__).parent
HIDDEN = 384
FORMAT = RowFormat("bf16", {HIDDEN_STATES: HIDDEN})
MEAN_TOKENS = 50
BATCH = 32
BUCKET = "autofreeze-bench"


@dataclass(frozen=True)
class Measurement:
    """Seconds of ours, of the peer it is measured by, and of others; medians."""

    name: str
    num_bytes: int
    seconds: dict[str, float]
    goal: float | None

    @property
    def ratio(self) -> float:
        """How fast ours is, as a share of the first peer."""
        ours, peer, *_ = self.seconds.values()
        return peer / ours

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        if self.goal is None:
            return "-"
        return "met" if self.ratio >= self.goal else "missed"


def new_set(folder: str) -> NewSet:
    return NewSet(folder, RecipeDigest("bench"), {}, [1], "bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0, help="size of the set")
    parser.add_argument("--store", help="a folder or URL to write the set to; default: temporary")
    parser.add_argument("--s3", action="store_true", help="also over S3, on a server started here")
    parser.add_argument("--s3-gb", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    work = arguments.out.absolute() / time.strftime("store-%Y%m%d-%H%M%S")
    work.mkdir(parents=True)
    scratch = Path(tempfile.mkdtemp(prefix="autofreeze-bench-"))
    try:
        store = arguments.store or str(scratch / "store")
        found = write_set(Storage(store), arguments.gb)
        measured = local(found, scratch, arguments.rounds)
        if arguments.s3:
            with s3_server():
                remote = write_set(Storage(f"s3://{BUCKET}/set"), arguments.s3_gb)
                measured += over_s3(remote, arguments.rounds)
    finally:
        shutil.rmtree(scratch)
    console = Console(width=150)
    console.print(table(measured))
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    figure(measured).savefig(work / "store.png", dpi=150)
    tree = [asdict(m) | {"ratio": m.ratio, "verdict": m.verdict} for m in measured]
    (work / "store.json").write_text(json.dumps(tree, indent=1))
    console.print(f"{work}/store.json, store.png")


def write_set(storage: Storage, gigabytes: float) -> ActivationSet:
    """A synthetic set of bf16 rows: as many tokens per example as AG News has."""
    rng = np.random.default_rng(0)
    num_examples = max(BATCH, int(gigabytes * 1e9 / (MEAN_TOKENS * HIDDEN * 2)))
    lengths = np.clip(rng.normal(MEAN_TOKENS, 15, num_examples).astype(np.int64), 8, 128)
    folder = f"bench-{time.time_ns()}"
    writer = ActivationWriter(storage, new_set(folder), lengths, FORMAT)
    for shard in range(writer.layout.num_shards):
        writer.write_shard(shard, normal_rows(writer.layout.num_rows(shard)))
    return writer.commit()


def normal_rows(count: int) -> np.ndarray:
    return torch.randn(count, HIDDEN).to(torch.bfloat16).view(torch.uint16).numpy()


def local(found: ActivationSet, scratch: Path, rounds: int) -> list[Measurement]:
    """Whole shards, random batches, writes."""
    shards = [found.read_shard(i) for i in range(found.layout.num_shards)]
    files = [scratch / f"raw-{i}" for i in range(len(shards))]
    for path, rows in zip(files, shards, strict=True):
        path.write_bytes(rows.data)
    return [
        whole_shards(found, shards, files, rounds),
        *random_batches(found, shards, scratch, rounds),
        writes(found, shards[:8], scratch, rounds),
    ]


def whole_shards(
    found: ActivationSet, shards: list[np.ndarray], files: list[Path], rounds: int
) -> Measurement:
    out = [np.empty(rows.shape, rows.dtype) for rows in shards[:2]]

    def into(number: int) -> np.ndarray:
        room = out[number % 2]
        need = len(shards[number])
        return room[:need] if len(room) >= need else np.empty(shards[number].shape, room.dtype)

    def ours() -> None:
        for number in range(len(shards)):
            found.read_shard(number, into(number))

    def raw() -> None:
        for number, path in enumerate(files):
            with path.open("rb", buffering=0) as file:
                file.readinto(into(number).data.cast("B"))

    def anew() -> None:
        for number in range(len(shards)):
            found.read_shard(number)

    def memory_map() -> None:
        for number, path in enumerate(files):
            np.copyto(into(number), np.memmap(path, np.uint16, "r", shape=shards[number].shape))

    seconds = interleaved(
        {"ours": ours, "raw readinto": raw, "ours, new memory": anew, "memmap": memory_map}, rounds
    )
    return Measurement("whole-shard read", sum(r.nbytes for r in shards), seconds, 0.6)


def random_batches(
    found: ActivationSet, shards: list[np.ndarray], scratch: Path, rounds: int
) -> list[Measurement]:
    held = ResidentShards(Budgets(0, 2 * found.manifest.num_bytes, 0))
    feed = HiddenFeed(found, None, held)  # type: ignore[arg-type]  # nothing is damaged
    memory = np.concatenate(shards)
    memory.tofile(scratch / "all")
    on_disk = np.memmap(scratch / "all", np.uint16, "r", shape=memory.shape)
    layout = found.layout
    before = np.concatenate([[0], np.cumsum([len(rows) for rows in shards])])
    starts = before[layout.shard] + layout.start
    rng = np.random.default_rng(1)
    batches = [rng.choice(len(starts), BATCH, replace=False) for _ in range(200)]

    def ours() -> None:
        for ids in batches:
            feed.batch(ids)

    def as_stored() -> None:
        for ids in batches:
            rows = [held.host[shard] for shard in layout.shard[ids].tolist()]
            lengths = layout.lengths[ids]
            out = np.empty((BATCH, lengths.max(), HIDDEN), np.uint16)
            gather_rows(rows, layout.start[ids], lengths, out)

    def fancy(rows: np.ndarray) -> Callable[[], None]:
        def read() -> None:
            for ids in batches:
                spans = zip(starts[ids], layout.lengths[ids], strict=True)
                rows[np.concatenate([np.arange(a, a + n) for a, n in spans])]

        return read

    def same_work() -> None:
        for ids in batches:
            lengths = layout.lengths[ids]
            spans = zip(starts[ids], lengths, strict=True)
            batch = np.zeros((BATCH, lengths.max(), HIDDEN), np.uint16)
            index = np.concatenate([np.arange(a, a + n) for a, n in spans])
            batch[np.arange(lengths.max()) < lengths[:, None]] = memory[index]
            torch.from_numpy(batch).view(torch.bfloat16).float()

    sizes = [BATCH * int(layout.lengths[ids].max()) * HIDDEN for ids in batches]
    there, here = np.ones(max(sizes), np.float32), np.ones(max(sizes), np.float32)

    def copied() -> None:
        for size in sizes:
            here[:size] = there[:size]

    def ahead() -> None:
        for _ in feed.batches(batches):
            pass

    num_bytes = sum(feed.batch_bytes(ids) for ids in batches)
    peers = {"numpy fancy indexing": fancy(memory), "memmap": fancy(on_disk)}
    like = {"numpy, padded and float32 too": same_work, "as many bytes copied": copied}
    return [
        Measurement(
            f"random batches of {BATCH}, {form}",
            num_bytes,
            interleaved({"ours": way, **peers, **others}, rounds),
            0.8,
        )
        for form, way, others in (
            ("float32", ours, {**like, "ours, in turn": ahead}),
            ("as stored", as_stored, {}),
        )
    ]


def writes(
    found: ActivationSet, shards: list[np.ndarray], scratch: Path, rounds: int
) -> Measurement:
    storage, lengths = Storage(str(scratch / "written")), found.layout.lengths
    writer = ActivationWriter(storage, new_set("set"), lengths, FORMAT)

    def ours() -> None:
        for shard, rows in enumerate(shards):
            writer.write_shard(shard, rows)

    def raw() -> None:
        folder = scratch / "written" / "raw"
        folder.mkdir(parents=True)
        for number, rows in enumerate(shards):
            with (folder / str(number)).open("wb", buffering=0) as file:
                file.write(rows.data)

    def clear() -> None:
        shutil.rmtree(scratch / "written", ignore_errors=True)

    seconds = interleaved({"ours": ours, "raw write": raw}, rounds, between=clear)
    return Measurement("write", sum(rows.nbytes for rows in shards), seconds, 0.8)


def over_s3(found: ActivationSet, rounds: int) -> list[Measurement]:
    import boto3
    import s3fs

    names = [shard.name for shard in found.manifest.shards]
    keys = [f"set/{found.folder}/{name}/c/0/0" for name in names]
    client = boto3.client("s3")
    files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def ours() -> None:
        for number in range(len(names)):
            found.read_shard(number)

    def with_boto3() -> None:
        for key in keys:
            client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def with_s3fs() -> None:
        for key in keys:
            files.cat_file(f"{BUCKET}/{key}")

    peers = {"ours": ours, "boto3": with_boto3, "s3fs": with_s3fs}
    try:
        import obstore
    except ImportError:
        pass
    else:
        store = obstore.store.S3Store(
            BUCKET,
            endpoint=os.environ["AWS_ENDPOINT_URL"],
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )

        def with_obstore() -> None:
            for key in keys:
                obstore.get(store, key).bytes()

        peers["obstore"] = with_obstore
    seconds = interleaved(peers, rounds)
    return [Measurement("whole-shard get over S3", found.manifest.num_bytes, seconds, 0.8)]


def interleaved(
    peers: dict[str, Callable[[], None]], rounds: int, between: Callable[[], None] | None = None
) -> dict[str, float]:
    """Median seconds of each, taking turns; a first round warms up and does not count."""
    taken: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(rounds + 1):
        for name, work in peers.items():
            if between is not None:
                between()
            began = time.perf_counter()
            work()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@contextmanager
def s3_server() -> Iterator[None]:
    """A server (moto's) in a process of its own, so that it shares no interpreter lock with us."""
    import subprocess
    import sys

    import boto3

    code = (
        "from moto.server import ThreadedMotoServer as S\n"
        "s = S(ip_address='127.0.0.1', port=0, verbose=False); s.start()\n"
        "print(s.get_host_and_port()[1], flush=True)\n"
        "input()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line a request
        text=True,
    )
    assert server.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def table(measured: list[Measurement]) -> Table:
    found = Table(title="Activation store, page cache warm", title_justify="left")
    for column in ("what", "who", "GB/s", "ours is", "goal", ""):
        found.add_column(column)
    for measurement in measured:
        ours = next(iter(measurement.seconds.values()))
        for number, (name, seconds) in enumerate(measurement.seconds.items()):
            goal = f"{measurement.goal:.1f}x" if number == 1 and measurement.goal else ""
            found.add_row(
                "" if number else measurement.name,
                name,
                f"{measurement.num_bytes / seconds / 1e9:.2f}",
                f"{seconds / ours:.2f}x" if number else "",
                goal,
                measurement.verdict if goal else "",
            )
    return found


def figure(measured: list[Measurement]) -> Figure:
    found = Figure(figsize=(3.2 * len(measured), 3.6), layout="constrained")
    for axes, measurement in zip(
        np.atleast_1d(found.subplots(1, len(measured))), measured, strict=True
    ):
        speeds: dict[str, Any] = {
            name: measurement.num_bytes / seconds / 1e9
            for name, seconds in measurement.seconds.items()
        }
        colors = ["#bf616a" if name.startswith("ours") else "#5e81ac" for name in speeds]
        axes.bar(range(len(speeds)), list(speeds.values()), color=colors)
        axes.set_xticks(range(len(speeds)), list(speeds), rotation=30, ha="right", fontsize=7)
        axes.set_title(measurement.name, fontsize=9)
        axes.set_ylabel("GB/s")
    return found


if __name__ == "__main__":
    main()
