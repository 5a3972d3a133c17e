"""Classify the texts of a file with a trained model, as the test of its training did.

The file is read, its texts are cut, and numbers are rounded as there; up to :data:`CHUNK_ROWS` rows
the batches are the same too, so that not a bit differs. A longer file is read, classified and
written in pieces of so many rows, and never held as a whole.
"""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from afcore.compute import Compute, choose_compute
from afcore.data.files import FORMATS, file_format, stream_file
from afcore.data.order import inference_batches
from afcore.data.prepare import Examples, tokenize
from afcore.data.sources import Rows, innermost_reason, read_texts, refuse_blank
from afcore.data.table import Table
from afcore.data.writing import Column, TableWriter, open_writer, text_writer
from afcore.errors import ConfigError, DataError
from afcore.model.finetuned import FinetunedModel, load_finetuned
from afcore.model_settings import ModelSettings
from afcore.runs.fit import check_tokens, longest_example
from afcore.storage.outputs import check_file, new_file
from afcore.tasks.text_classification import TextClassification

__all__ = ["CHUNK_ROWS", "Predicted", "predict_file"]

CHUNK_ROWS = 10_000
PREDICTION = "prediction"
# Settings of a training's data, which are options here.
_SETTING = re.compile(r"\bdata\.(text|label|encoding)\b")


@dataclass
class Predicted:
    """What was predicted of a file.

    Attributes:
        num_rows: all.
        labelled: whether it has a column of labels.
        num_labelled: rows with a label in that column.
        num_right: of these, those whose prediction is the label.
        unknown: labels that the model does not have, with their rows.
    """

    num_rows: int = 0
    labelled: bool = False
    num_labelled: int = 0
    num_right: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def accuracy(self) -> float | None:
        """0 to 1; None without labels."""
        return self.num_right / self.num_labelled if self.num_labelled else None

    def add(self, labels: list[str] | None, predictions: list[str], known: set[str]) -> None:
        """Count some rows."""
        self.num_rows += len(predictions)
        if labels is None:
            return
        self.labelled = True
        self.num_labelled += sum(label != "" for label in labels)
        self.num_right += sum(a == b for a, b in zip(labels, predictions, strict=True))
        self.unknown.update(label for label in labels if label and label not in known)


def predict_file(
    model_name: str,
    source: str,
    *,
    output: str | None = None,
    text: str | None = None,
    label: str | None = None,
    encoding: str | None = None,
    probabilities: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Predicted:
    """Write the rows of a file with a column more, the predicted label.

    Args:
        model_name: a folder, a hub id, or ``package:...``.
        source: a file (path or fsspec URL) that ends in one of :data:`FORMATS`, perhaps packed.
        output: a file that ends in one of these; replaced when all is done. None: standard output,
            as CSV, or as JSON lines where the source is JSON.
        text: column of the texts; None: the one that the model was trained on.
        label: column of the labels; None: the same, where the file has it.
        encoding: of a CSV or JSON file; None: the same.
        probabilities: a column for each class too, from 0 to 1.
        progress: told how many rows are done, after each batch.

    Raises:
        UserError: for a model, a file or an output that cannot be used. Nothing is written then.
    """
    kind = _checked_format(source, output)
    model = load_finetuned(model_name)
    settings = model.settings.model_copy(
        update={
            name: value
            for name, value in (("text", text), ("label", label), ("encoding", encoding))
            if value is not None
        }
    )
    compute = choose_compute(settings.precision)
    model.model.to(compute.device)
    predicted = Predicted()
    with _as_options(), _writer(output, kind) as writer:
        for table in _tables(source, settings.encoding):
            rows, labels = _rows(source, table, settings, label_needed=label is not None)
            logits = _logits(model, model_name, rows, compute, predicted.num_rows, progress)
            answers = [model.label_names[i] for i in logits.argmax(-1)]
            predicted.add(labels, answers, set(model.label_names))
            writer.write(_columns(source, table, answers, logits, probabilities, model.label_names))
    return predicted


def _checked_format(source: str, output: str | None) -> str:
    """Of the output."""
    allowed = f".{', .'.join(FORMATS)}"
    kind = file_format(source)
    if kind is None:
        raise DataError(f"cannot tell the format of {source!r}: its name must end in {allowed}")
    if output is None:
        return "jsonl" if kind in ("json", "jsonl") else "csv"
    written = file_format(output)
    if written is None or not output.endswith(written):
        raise ConfigError(f"--output {output}: its name must end in {allowed}")
    path = check_file(output)
    if "://" not in source and path == Path(source).expanduser().resolve():
        raise ConfigError(f"--output {output}: is the file that is read. Give another name")
    return written


@contextlib.contextmanager
def _writer(output: str | None, kind: str) -> Iterator[TableWriter]:
    if output is None:
        yield text_writer(sys.stdout, kind)
        sys.stdout.flush()
        return
    with (
        new_file(check_file(output)) as draft,
        contextlib.closing(open_writer(draft, kind)) as writer,
    ):
        yield writer


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """What the reading of a training's data says, in the words of this command."""
    try:
        yield
    except DataError as error:
        raise DataError(_SETTING.sub(r"--\1", str(error))) from error


def _tables(source: str, encoding: str) -> Iterator[Table]:
    try:
        yield from stream_file(source, encoding, CHUNK_ROWS)
    except DataError:
        raise
    except Exception as error:  # as of a training's data: of any file system, or format
        raise DataError(f"cannot load the data {source!r}: {innermost_reason(error)}") from error


def _rows(
    source: str, table: Table, settings: ModelSettings, *, label_needed: bool
) -> tuple[Rows, list[str] | None]:
    """Texts, and their labels where there are any: blank ones in rows without."""
    if not len(table):
        raise DataError(f"data {source!r} has no rows")
    wanted = [("text", settings.text)] + ([("label", settings.label)] if label_needed else [])
    for key, column in wanted:
        if column not in table.columns:
            raise DataError(
                f"data {source!r} has no column {column!r}, only {', '.join(table.names)}. Name "
                f"the column with --{key}."
            )
    texts = read_texts(source, "text", settings.text, table)
    labels = None
    if settings.label in table.columns and settings.label != settings.text:
        labels = read_texts(source, "label", settings.label, table)
    rows = Rows(source, texts, labels or [""] * len(texts), places=table.places)
    refuse_blank(rows, settings.text, texts)
    return rows, labels


def _logits(
    model: FinetunedModel,
    name: str,
    rows: Rows,
    compute: Compute,
    num_before: int,
    progress: Callable[[int], None],
) -> npt.NDArray[np.float32]:
    """[n, c] of each row, in batches like those of the test."""
    max_length = longest_example(model.model, model.tokenizer)
    examples: Examples = tokenize(model.tokenizer, rows, model.label_names, max_length)
    check_tokens(name, model.model, model.tokenizer, examples, rows.source)
    found = np.empty((len(examples), len(model.label_names)), dtype=np.float32)
    task = TextClassification(model.label_names, model.tokenizer.pad_token_id)
    done = 0
    with torch.no_grad(), compute.autocast():
        for ids in inference_batches(examples.lengths):
            batch, _ = task.collate(examples, ids, compute.device)
            found[ids] = model.logits(batch).float().cpu().numpy()
            done += len(ids)
            progress(num_before + done)
    return found


def _columns(
    source: str,
    table: Table,
    answers: list[str],
    logits: npt.NDArray[np.float32],
    probabilities: bool,
    label_names: list[str],
) -> dict[str, Column]:
    """The file's own, and those that are new."""
    new: dict[str, Column] = {PREDICTION: (list(answers), pa.string())}
    if probabilities:
        shares = torch.from_numpy(logits).softmax(-1).numpy()
        for i, label in enumerate(label_names):
            # The shortest text that is this number, not all digits of a wider type.
            values = [float(str(share)) for share in shares[:, i]]
            new[f"probability_{label}"] = (values, pa.float32())
    taken = [name for name in new if name in table.columns]
    if taken:
        raise DataError(
            f"data {source!r} has a column {taken[0]!r} already. Rename it, so that the new one "
            "can be told from it"
        )
    types = table.types or {}
    own = {name: (values, types.get(name)) for name, values in table.columns.items()}
    return own | new
