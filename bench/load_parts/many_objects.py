"""What the commands that look after a store cost by the number of its objects.

Each command runs in a process of its own: first on an empty store, so that everything is imported,
then on the one that is measured. Its peak of memory is what the second call added. Requests are
counted as s3fs sends them, tries of its own left out.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["measure_listing", "measure_store"]

ROOT = Path(__file__).parents[2]
BUCKET = "autofreeze-load"
OLD_DAYS = 1e-9  # `--older-than-days`: everything is older
LOOKS = {
    "cache ls": ["cache", "ls"],
    "cache gc, dry": ["cache", "gc", "--dry-run"],
    "runs ls": ["runs", "ls"],
    "runs gc, dry": ["runs", "gc", "--dry-run"],
}
DELETES = {
    "runs gc": ["runs", "gc", "--older-than-days", str(OLD_DAYS)],
    "cache gc": ["cache", "gc", "--older-than-days", str(OLD_DAYS)],
}
MEASURE = """
import json, resource, sys, time
from collections import Counter
import s3fs
counts = Counter()
def counting(send):
    def call(self, method, *arguments, **options):
        counts[method] += 1
        return send(self, method, *arguments, **options)
    return call
for name in ("_call_s3", "call_s3"):
    setattr(s3fs.S3FileSystem, name, counting(getattr(s3fs.S3FileSystem, name)))
from pipelines.cli import app
def run(store):
    try:
        app([*json.loads(sys.argv[1]), "--store", store], standalone_mode=False)
    except SystemExit as stop:
        assert not stop.code, stop
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
run(sys.argv[2])
counts.clear()
before, began = peak(), time.perf_counter()
run(sys.argv[3])
seconds = time.perf_counter() - began
found = {"seconds": seconds, "peak_mib": peak() - before, "requests": counts}
print(json.dumps(found), file=sys.stderr)
"""


def measure_store(sizes: list[int]) -> list[dict[str, Any]]:
    """On moto's server, which keeps all objects: sets, runs and leftovers; then all are deleted."""
    rows = []
    with server(_MOTO):
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="empty/store.json", Body=b'{"schema": 1}')
        for size in sizes:
            fill(client, f"objects-{size}", size)
            for name, command in {**LOOKS, **DELETES}.items():
                rows.append(measured(name, command, f"objects-{size}", size))
            left = client.list_objects_v2(Bucket=BUCKET, Prefix=f"objects-{size}/")
            rows.append({"command": "left", "objects": left["KeyCount"]})
    return [_row(row) for row in rows]


def measure_listing(sizes: list[int]) -> list[dict[str, Any]]:
    """On a server that makes the listing up."""
    rows = []
    commands = {name: LOOKS[name] for name in ("cache ls", "cache gc, dry")}
    for size in sizes:
        with server([str(ROOT / "bench/load_parts/generated_s3.py"), str(size)]):
            for name, command in commands.items():
                rows.append(measured(name, command, "store", size))
    return [_row(row) for row in rows]


def fill(client: Any, prefix: str, num_objects: int) -> None:
    """Ten sets, whose shards are most of the objects; one more that was never committed; a run."""
    from afcore.activations.codec import RowFormat
    from afcore.activations.layout import RaggedLayout
    from afcore.activations.manifest import NewSet
    from afcore.activations.writer import ActivationWriter, SetPlan
    from afcore.digest import RecipeDigest
    from afcore.storage.objects import Storage

    shards = num_objects // 22
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        ones = np.ones(shards, dtype=np.int64)
        layout = RaggedLayout(np.arange(shards), np.zeros_like(ones), ones)
        for number in range(11):
            recipe = {"weights": {"block.000": "b"}}
            new = NewSet(f"activations/{number:032x}", RecipeDigest("k" * 64), recipe, [1], "r")
            row_format = RowFormat("bf16", {"h": 4})
            writer = ActivationWriter(storage, new, ones, row_format, plan=SetPlan(layout))
            for shard in range(shards):
                writer.write_shard(shard, np.zeros((1, 4), np.uint16))
            if number:
                writer.commit().record_use("r1", "runs/r1")
        storage.put("runs/r1/run.json", b'{"training_id": "t1", "weights": {"block.000": "b"}}')
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda key: client.put_object(
                        Bucket=BUCKET, Key=f"{prefix}/{key}", Body=storage.get(key)
                    ),
                    storage.list(""),
                )
            )


def measured(name: str, command: list[str], prefix: str, size: int) -> dict[str, Any]:
    """One command in a process of its own."""
    stores = [f"s3://{BUCKET}/{which}" for which in ("empty", prefix)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(command), *stores],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    said = done.stdout.splitlines()[-1]
    return {"command": name, "objects": size, **found, "said": said}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    counts = Counter(row.get("requests", {}))
    lists, gets = counts.pop("list_objects_v2", 0), counts.pop("get_object", 0)
    bulk = counts.pop("delete_objects", 0)
    return {
        "command": row["command"],
        "objects": row["objects"],
        "pages": lists,
        "gets": gets,
        "bulk deletions": bulk,
        "others": sum(counts.values()),
        "seconds": row.get("seconds", 0.0),
        "peak MiB": row.get("peak_mib", 0.0),
        "said": row.get("said", ""),
    }


_MOTO = [
    "-c",
    "from moto.server import ThreadedMotoServer as S\n"
    "s = S(ip_address='127.0.0.1', port=0, verbose=False); s.start()\n"
    "print(s.get_host_and_port()[1], flush=True)\n"
    "input()",
]


@contextmanager
def server(command: list[str]) -> Iterator[None]:
    """A server in a process of its own, which prints its port and ends with its input."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line a request
        text=True,
    )
    assert process.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(process.stdout.readline())}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield
    finally:
        process.terminate()
        process.wait()
