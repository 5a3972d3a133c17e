"""Predict for rows, of a file or in memory, with a trained model as the test of its training did.

The file is read, its texts are cut, and numbers are rounded as there; up to :data:`CHUNK_ROWS` rows
the batches are the same too, so that not a bit differs. A longer file is read, predicted and
written in pieces of so many rows, and never held as a whole.
"""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from afcore.compute import Compute, choose_compute
from afcore.data.examples import Examples
from afcore.data.files import FORMATS, file_format, stream_file
from afcore.data.held_rows import HeldRows
from afcore.data.named_sources import innermost_reason
from afcore.data.order import group_lengths, inference_batches, of_groups
from afcore.data.sources import Field, Rows, is_blank, read_rows, refuse_blank
from afcore.data.table import Table
from afcore.data.writing import Column, TableWriter, open_writer, text_writer
from afcore.errors import ConfigError, DataError, StorageFullError
from afcore.model.finetuned import FinetunedModel, load_finetuned
from afcore.model.split_model import Batch
from afcore.runs.fit import check_tokens, longest_example
from afcore.storage.outputs import check_file, new_file
from afcore.tasks.answers import Answers, together
from afcore.tasks.scores import RowValues
from afcore.tasks.task import Task

__all__ = [
    "CHUNK_ROWS",
    "Asked",
    "Predicted",
    "answer_columns",
    "asked_about",
    "predict_file",
    "predict_rows",
]

CHUNK_ROWS = 10_000
PREDICTION = "prediction"
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float32()}
# Settings of a training's data, which are options here.
_SETTING = re.compile(r"\bdata\.(text_pair|text|label|encoding)\b")
NO_COLUMNS: Mapping[str, str | None] = {}


@dataclass
class Predicted:
    """What was predicted of a file.

    Attributes:
        task: of the model.
        num_rows: all.
        labelled: whether it has a column of labels.
        num_labelled: rows with a label in that column.
        unknown: labels that the model does not have, with their rows.
    """

    task: Task
    num_rows: int = 0
    labelled: bool = False
    num_labelled: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    _values: list[RowValues] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        """The task's first one, of the rows with a label; None without any."""
        if not self.num_labelled:
            return None
        first = self.task.scores[0]
        whole = {name: np.concatenate([v[name] for v in self._values]) for name in first.rows}
        return first.compute(whole)

    def add(self, rows: Rows, examples: Examples, answers: npt.NDArray[Any]) -> None:
        """Count rows with labels.

        Args:
            rows: with their targets.
            examples: of these.
            answers: to each.
        """
        self.num_labelled += len(rows)
        for labels in rows.targets.values():
            self.unknown.update(self.task.unknown_labels(labels))
        values = Answers.of(self.task, examples, answers)
        self._values.append(values.rows_of(self.task.scores[0]))


def predict_file(
    model_name: str,
    source: str,
    *,
    output: str | None = None,
    given: Mapping[str, str | None] = NO_COLUMNS,
    probabilities: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Predicted:
    """Write the rows of a file with a column more, the predicted label.

    Args:
        model_name: a folder, a hub id, or ``package:...``.
        source: a file (path or fsspec URL) that ends in one of :data:`FORMATS`, perhaps packed.
        output: a file that ends in one of these; replaced when all is done. None: standard output,
            as CSV, or as JSON lines where the source is JSON.
        given: names of columns by the keys of ``data``, and the ``encoding`` of
            a CSV or JSON file; None, or left out: as of the model's training. Labels are read
            where the file has them.
        probabilities: a column for each class too, from 0 to 1.
        progress: told how many rows are done, after each batch.

    Raises:
        UserError: for a model, a file or an output that cannot be used. Nothing is written then.
    """
    kind = _checked_format(source, output)
    model = load_finetuned(model_name)
    settings = model.settings
    columns = {**settings.columns, **{key: name for key, name in given.items() if name}}
    asked = [key for key, name in given.items() if name is not None]
    encoding = columns.pop("encoding", None) or settings.encoding
    compute = choose_compute(settings.precision)
    model.model.to(compute.device)
    predicted = Predicted(model.task)
    with _as_options(), _writer(output, kind) as writer:
        known = _known_fields(model.task, columns)
        _refuse_unread(model_name, model.task, known, asked)
        for table in _tables(source, encoding):
            fields = _fields(source, table, known, asked)
            rows = _inputs(source, table, fields)
            some, ids = _labelled(source, table, fields, rows)
            if len(ids) == len(rows):
                rows = some  # all of them, with what they should be answered with
            examples = _examples(model, model_name, rows)
            told = partial(_tell, progress, predicted.num_rows)
            answers = asked_about(model.task, model, examples, compute, told)
            predicted.num_rows += len(rows)
            predicted.labelled |= any(one.is_target for one in fields)
            if rows is some or not any(one.is_target for one in known):
                predicted.add(rows, examples, answers)
            elif ids:
                theirs = answers[examples.of_rows(np.asarray(ids))]
                predicted.add(some, _examples(model, model_name, some), theirs)
            writer.write(_columns(source, table, model.task, examples, answers, probabilities))
    return predicted


def predict_rows(model: FinetunedModel, rows: HeldRows) -> list[Any]:
    """What is predicted of rows in memory, in their order.

    Args:
        model: goes to the device that computes.
        rows: with the columns that the model was trained on; others are not looked at.

    Raises:
        DataError: for rows that cannot be read.
    """
    compute = choose_compute(model.settings.precision)
    known = _known_fields(model.task, model.settings.columns)
    table = rows.table([one.column for one in known if not one.is_target])
    found = _inputs(rows.name, table, _fields(rows.name, table, known, None))
    examples = _examples(model, "the model", found)
    model.model.to(compute.device)
    answers = asked_about(model.task, model, examples, compute)
    return model.task.predictions(examples, answers)


def _checked_format(source: str, output: str | None) -> str:
    """Of the output."""
    allowed = f".{', .'.join(FORMATS)}"
    kind = file_format(source)
    if kind is None:
        raise DataError(f"cannot tell the format of {source!r}: its name must end in {allowed}")
    if output is None:
        return "jsonl" if kind in ("json", "jsonl") else "csv"
    written = file_format(output)
    if written is None or not output.lower().endswith(written):
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


def _option(found: re.Match[str]) -> str:
    return f"--{found[1].replace('_', '-')}"


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """What the reading of a training's data says, in the words of this command."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(_SETTING.sub(_option, str(error))) from error


def _tables(source: str, encoding: str) -> Iterator[Table]:
    try:
        yield from stream_file(source, encoding, CHUNK_ROWS)
    except (DataError, StorageFullError):
        raise
    except Exception as error:  # as of a training's data: of any file system, or format
        raise DataError(f"cannot load the data {source!r}: {innermost_reason(error)}") from error


def _known_fields(task: Task, columns: Mapping[str, str | None]) -> list[Field]:
    """All of the task; without a target among them, all rows are scored."""
    return task.fields(task.named_columns(columns))


def _refuse_unread(model_name: str, task: Task, known: list[Field], asked: Collection[str]) -> None:
    """Refuse a name that is given to a column of which nothing would be read."""
    keys = {"encoding", *(one.key for one in known)}
    for key in asked:
        if key not in keys:
            raise ConfigError(
                f"--{key.replace('_', '-')}: the model {model_name!r} is for {task.name}, which "
                f"reads no such column, but {', '.join(repr(one.column) for one in known)}. Leave "
                "it out"
            )


def _fields(
    source: str, table: Table, known: list[Field], asked: Collection[str] | None
) -> list[Field]:
    """Those that the table has; it must have the inputs, and what is ``asked`` for.

    Of rows in memory nothing is (None): their columns can be given no other names.
    """
    if not len(table):
        raise DataError(f"data {source!r} has no rows")
    for one in known:
        if one.column not in table.columns and (one.key in (asked or ()) or not one.is_target):
            name_it = f"Name the column with --{one.key.replace('_', '-')}."
            raise DataError(
                f"data {source!r} has no column {one.column!r}, only {', '.join(table.names)}. "
                f"{'Rename the one that holds it.' if asked is None else name_it}"
            )
    inputs = {one.column for one in known if not one.is_target}
    return [
        one
        for one in known
        if not one.is_target or (one.column in table.columns and one.column not in inputs)
    ]


def _inputs(source: str, table: Table, fields: list[Field]) -> Rows:
    """What the model gets of the rows, none of it blank."""
    given = [one for one in fields if not one.is_target]
    rows = read_rows(source, table, given)
    for one in given:
        refuse_blank(rows, one.column, rows.inputs[one.key])
    return rows


def _labelled(source: str, table: Table, fields: list[Field], rows: Rows) -> tuple[Rows, list[int]]:
    """Rows with a label, and their numbers; a blank one is none, where the task has no such."""
    label = next((one for one in fields if one.is_target), None)
    if label is None:
        return rows.pick([]), []
    values = list(table.columns[label.column])
    ids = list(range(len(rows)))
    if not label.may_be_blank:
        ids = [i for i in ids if not is_blank(values[i])]
    some = Table([label.column], {label.column: [values[i] for i in ids]}, table.places.pick(ids))
    found = label.read(source, label.key, label.column, some)
    return replace(rows.pick(ids), targets={label.key: found}), ids


def _examples(model: FinetunedModel, name: str, rows: Rows) -> Examples:
    max_length = longest_example(model.model, model.processor)
    examples = model.task.examples(model.processor, rows, max_length)
    check_tokens(name, model.model, model.processor, examples, rows.source)
    return examples


class Asked(Protocol):
    """A model, or one in two parts, in eval mode."""

    @property
    def model(self) -> Any:
        """The whole one."""

    def logits(self, batch: Batch) -> Tensor:
        """[b, ...] outputs of the head."""


def asked_about(
    task: Task,
    model: Asked,
    examples: Examples,
    compute: Compute,
    progress: Callable[[int], None] = lambda _: None,
) -> npt.NDArray[Any]:
    """[n, ...], what a model answers on each example, in batches like those of a test.

    Args:
        task: says what an answer is.
        model: on the device.
        examples: to ask it about.
        compute: device and precision.
        progress: told how many rows are done, after each batch.
    """
    found, done = [], 0
    with torch.no_grad(), compute.autocast():
        size = task.group_size
        for groups in inference_batches(group_lengths(examples.lengths, size)):
            ids = of_groups(groups, size)
            batch, targets = task.collate(examples, ids, compute.device)
            outputs = model.logits(batch).float()
            kept = task.answers(outputs, {**batch, **targets}, model.model)
            found.append((ids, kept.cpu().numpy()))
            done += len(ids)
            progress(done * examples.num_rows // len(examples))
    return together(found, len(examples))


def _tell(progress: Callable[[int], None], num_before: int, count: int) -> None:
    progress(num_before + count)


def _columns(
    source: str,
    table: Table,
    task: Task,
    examples: Examples,
    outputs: npt.NDArray[Any],
    probabilities: bool,
) -> dict[str, Column]:
    """The file's own, and those that are new."""
    new = answer_columns(task, examples, outputs, probabilities)
    taken = [name for name in new if name in table.columns]
    if taken:
        raise DataError(
            f"data {source!r} has a column {taken[0]!r} already. Rename it, so that the new one "
            "can be told from it"
        )
    types = table.types or {}
    own = {name: (list(values), types.get(name)) for name, values in table.columns.items()}
    return own | new


def answer_columns(
    task: Task, examples: Examples, outputs: npt.NDArray[Any], probabilities: bool
) -> dict[str, Column]:
    """What was predicted of rows, as columns of a file.

    Args:
        task: that was asked.
        examples: that it was asked about.
        outputs: [n, ...], as :func:`asked_about` gives them.
        probabilities: a column for each class too, where the task has some.
    """
    answers = task.predictions(examples, outputs)
    kind = next(kind for of, kind in _TYPES.items() if isinstance(answers[0], of))
    new: dict[str, Column] = {PREDICTION: (list(answers), kind)}
    if probabilities:
        for name, shares in task.probabilities(outputs).items():
            # The shortest text that is this number, not all digits of a wider type.
            values = [float(str(share)) for share in shares]
            new[f"probability_{name}"] = (values, pa.float32())
    return new
