"""An S3 server of a store that does not exist: pages of a listing are made up when asked for.

It speaks as much of the protocol as listing, reading and deleting need. A tenth of the sets was
never committed; the others are: their manifests name all of their shards. What is written, leases
for one, is kept; what is deleted is gone, but for shards, whose deletion is only acknowledged.

    python bench/load_parts/generated_s3.py 1000000      # prints its port; ends with its input
"""

import datetime
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parents[2]))

from afcore.activations.manifest import ActivationManifest
from afcore.activations.shards import Shard
from afcore.digest import RecipeDigest

BUCKET, ROOT = "autofreeze-load", "store/"
NUM_SETS, NUM_RUNS = 40, 100
_OLD = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)
_WHEN = _OLD.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class Segment:
    """Keys that follow each other: ``folder`` and, for each number, one of ``names``."""

    folder: str
    names: tuple[str, ...]
    count: int = 1

    def keys(self, start: int = 0) -> Iterator[str]:
        """From the one at ``start`` on."""
        for at in range(start, self.count * len(self.names)):
            number, name = divmod(at, len(self.names))
            yield self.folder + self.names[name].format(number)


class GeneratedStore:
    """A store of about so many objects: six tenths in sets, four in checkpoints of runs.

    Sets and runs are as many whatever the number of objects.
    """

    def __init__(self, num_objects: int) -> None:
        shards = num_objects * 6 // 10 // NUM_SETS // 2
        parts = num_objects * 4 // 10 // NUM_RUNS
        self.segments: list[Segment] = []
        self.objects: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.segments.append(Segment("empty/data/", ("nothing",)))
        for number in range(NUM_SETS):
            self._add_set(number, shards)
        for number in range(NUM_RUNS):
            run = f"{ROOT}runs/{_run_id(number)}/"
            record = {"training_id": "t1", "weights": {"embeddings": "e", "block.000": "b"}}
            self.objects[f"{run}run.json"] = json.dumps(record).encode()
            self.objects[f"{run}t1/result.json"] = b"{}"
            self.segments.append(Segment(run, ("run.json",)))
            self.segments.append(Segment(f"{run}t1/parts/", ("{:08d}.safetensors",), parts))
            self.segments.append(Segment(f"{run}t1/", ("result.json",)))

    def _add_set(self, number: int, shards: int) -> None:
        folder = f"activations/{number:032x}"
        path, user = f"{ROOT}{folder}/", f"{_run_id(number)}.json"
        if number % 10:
            names = [Shard(f"shards/{i:08d}-g", 1000, "0" * 16) for i in range(shards)]
            manifest = ActivationManifest(
                schema=1,
                key=RecipeDigest(f"{number:064x}"),
                boundary=3,
                lineage=[3],
                dtype="bf16",
                hidden_size=384,
                num_examples=1000,
                num_rows=1000 * shards,
                index="index-g",
                index_checksum="0" * 16,
                shards=names,
                recipe={"weights": {"embeddings": "e", "block.000": "b"}},
                producer=_run_id(number),
                created=_OLD.timestamp(),
            )
            self.objects[f"{path}manifest.json"] = manifest.to_json()
            self.objects[f"{path}users/{user}"] = b"{}"
            self.segments.append(Segment(path, ("index-g/c/0/0", "index-g/zarr.json")))
            self.segments.append(Segment(path, ("manifest.json",)))
        chunk = Segment(f"{path}shards/", ("{:08d}-g/c/0/0", "{:08d}-g/zarr.json"), shards)
        self.segments.append(chunk)
        if number % 10:
            self.segments.append(Segment(f"{path}users/", (user,)))

    def page(self, prefix: str, token: str, size: int) -> tuple[list[str], str]:
        """Keys below ``prefix``, and from where to go on; empty at the end."""
        segment, start = (int(word) for word in (token or "0:0").split(":"))
        keys: list[str] = []
        while segment < len(self.segments):
            found = self.segments[segment]
            if found.folder.startswith(prefix) or prefix.startswith(found.folder):
                for key in islice(found.keys(start), size - len(keys)):
                    start += 1
                    if key.startswith(prefix) and key not in self.deleted:
                        keys.append(key)
                if start < found.count * len(found.names):
                    return keys, f"{segment}:{start}"
            segment, start = segment + 1, 0
        written = sorted(k for k in self.objects if k.startswith(prefix) and "/build/" in k)
        return keys + written, ""

    def folders(self, prefix: str) -> list[str]:
        """Common prefixes up to the next slash."""
        below = (s.folder[len(prefix) :] for s in self.segments if s.folder.startswith(prefix))
        return sorted({f"{prefix}{rest.partition('/')[0]}/" for rest in below if rest})


def _run_id(number: int) -> str:
    return f"{number:032x}"


class Handler(BaseHTTPRequestHandler):
    """The requests of S3 that a store needs."""

    protocol_version = "HTTP/1.1"
    store: GeneratedStore
    lock = threading.Lock()

    def do_GET(self) -> None:
        """List, or read an object."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" in query:
            return self._list(query)
        data = self.store.objects.get(unquote(parts.path).removeprefix(f"/{BUCKET}/"))
        if data is None:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self._answer(200, data)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        """Keep an object."""
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size.partition(b";")[0], 16)]
        with self.lock:
            self.store.objects[key] = data
        self._answer(200, b"")

    def do_DELETE(self) -> None:
        """Forget an object."""
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        with self.lock:
            self.store.objects.pop(key, None)
            self.store.deleted.add(key)
        self._answer(204, b"")

    def do_POST(self) -> None:
        """Acknowledge that many were deleted."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _list(self, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        keys, token = [], ""
        folders = self.store.folders(prefix) if "delimiter" in query else []
        if "delimiter" not in query:
            size = int(query.get("max-keys", "1000"))
            keys, token = self.store.page(prefix, query.get("continuation-token", ""), size)
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_WHEN}</LastModified>"
            "<ETag>&quot;0&quot;</ETag><Size>768000</Size></Contents>"
            for key in keys
        )
        common = "".join(f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in folders)
        more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        body = (
            f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{str(bool(token)).lower()}"
            f"</IsTruncated>{more}{entries}{common}</ListBucketResult>"
        )
        self._answer(200, body.encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", _OLD.strftime("%a, %d %b %Y %H:%M:%S GMT"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A line a request would be too many."""


if __name__ == "__main__":
    Handler.store = GeneratedStore(int(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
