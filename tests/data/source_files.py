"""Files of rows as tests write and read them."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from afcore.data.named_sources import Names
from afcore.data.sources import Rows
from afcore.data.sources import load_rows as load_fields
from afcore.tasks.text import TextTask

ROWS = [{"text": "None", "label": "a"}, {"text": "two, with comma", "label": "b"}]


def load_rows(source: Names, split: str, text: str, label: str, **given: Any) -> Rows:
    return load_fields(source, split, TextTask.fields({"text": text, "label": label}), **given)


def texts_and_labels(rows: Rows) -> list[tuple[str, str]]:
    return list(zip(rows.inputs["text"], rows.targets["label"], strict=True))


def load(source: str | Path, limit: int | None = None, text: str = "text") -> list[tuple[str, str]]:
    return texts_and_labels(load_rows(str(source), "train", text, "label", limit=limit))


def packed(suffix: str, content: bytes) -> bytes:
    if suffix == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return bytes(sink.getvalue())
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "": lambda content: content,
    }
    return packers[suffix](content)


def write(path: Path, rows: list[dict[str, str]], compression: str = "") -> Path:
    """Rows in the format that the name says; CSV and TSV without quotes."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        content = path.read_bytes()
    elif path.suffix == ".feather":
        feather.write_feather(pa.Table.from_pylist(rows), path)
        content = path.read_bytes()
    elif path.suffix in (".csv", ".tsv"):
        delimiter = "," if path.suffix == ".csv" else "\t"
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        content = "".join(delimiter.join(line) + "\n" for line in lines).encode()
    elif path.suffix == ".json":
        content = json.dumps(rows, indent=1).encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if compression:
        path = path.with_name(f"{path.name}.{compression}")
    path.write_bytes(packed(compression, content))
    return path


FORMATS = ["csv", "tsv", "json", "jsonl", "parquet", "feather"]


OTHERS = [{"text": "other", "label": "no"}]


WANTED = [{"text": "wanted", "label": "yes"}]


SAVED = {"train": WANTED, "test": OTHERS}
