"""What ``afcore.fit`` returns: scores, epochs and time, the trained model, and a picture."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from afcore.config import Config
from afcore.data.held_rows import HeldRows, hold_rows
from afcore.errors import DataError
from afcore.model.finetuned import FinetunedModel
from afcore.model.processors import processor_of
from afcore.model_settings import MODEL_MARK, ModelSettings
from afcore.notebook.argument_names import as_arguments
from afcore.predict import predict_rows
from afcore.results.figures import course_figure
from afcore.results.report import RunReport
from afcore.runs.model_folder import check_output, write_model_folder
from afcore.runs.publish import described, published_model
from afcore.runs.run import Run

__all__ = ["FitResult"]

_DPI = 100


class FitResult:
    """A finished training.

    Attributes:
        report: all that is recorded of it, as ``autofreeze run --report`` writes it.
        config: the resolved configuration.
    """

    def __init__(self, run: Run, report: RunReport, config: Config) -> None:
        self._run = run
        self.report = report
        self.config = config

    @property
    def scores(self) -> dict[str, float]:
        """On the test set; where there is none, on validation. The best epoch's."""
        return dict(self.report.totals.test or self.report.totals.validation)

    @property
    def validation(self) -> dict[str, float]:
        """The best epoch's scores on validation."""
        return dict(self.report.totals.validation)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """A row an epoch, ready for a ``DataFrame``; seconds include the cache and evaluation."""
        return [
            {
                "epoch": epoch.epoch,
                "read_from": epoch.read_from,
                "boundary": epoch.boundary_end,
                "train_loss": epoch.train_loss,
                **{f"validation_{name}": value for name, value in epoch.validation.items()},
                "seconds": epoch.seconds,
            }
            for epoch in self.report.epochs
        ]

    @property
    def boundaries(self) -> list[int]:
        """Blocks frozen before the first step, and after each epoch."""
        epochs = self.report.epochs
        return [epochs[0].boundary_start, *(epoch.boundary_end for epoch in epochs)]

    @property
    def seconds(self) -> float:
        """From the first call to the last test, all attempts together."""
        return self.report.totals.wall_seconds

    @property
    def model(self) -> Any:
        """The best epoch's model, in eval mode; of Transformers."""
        return self._finetuned.model

    @property
    def tokenizer(self) -> Any:
        """Of the model; cuts texts where the training did. Of pictures, what prepares those."""
        return self._finetuned.processor

    def predict(self, rows: Any) -> list[Any]:
        """A label, or a number, for each row, as ``autofreeze predict`` would write it.

        Args:
            rows: texts, or pictures (pairs as tuples, where the task is on pairs), in a list, a
                ``Series``, an array or anything else that hands them out in order; or a
                ``datasets.Dataset``, a ``DataFrame`` or a list of dicts with the columns of the
                training.

        Raises:
            DataError: for rows that cannot be read.
        """
        return predict_rows(self._finetuned, self._as_held(rows))

    def save(self, folder: str | Path) -> Path:
        """Write model, tokenizer and a model card, as ``autofreeze run --output`` does.

        Raises:
            ConfigError: for a folder that cannot be written, or holds anything else.
        """
        with as_arguments(output="folder", fresh="fresh=True"):
            path = check_output(str(folder), self.config)
            write_model_folder(self.config, self.report.run_id, path)
        return path

    def figure(self) -> Figure:
        """Boundary and validation score after each epoch, over the seconds."""
        return course_figure(self.report)

    def __repr__(self) -> str:
        split = "test" if self.report.totals.test is not None else "validation"
        main = self.report.main
        scores = ", ".join(
            f"{name} {main.shown(value) if name == main.name else f'{value:.4f}'}"
            for name, value in self.scores.items()
        )
        end = f"boundary {self.boundaries[-1]} of {self.report.num_blocks}"
        return (
            f"FitResult({split}: {scores}; {len(self.report.epochs)} epochs, {end}, "
            f"{self.seconds:.1f} s; run {self.report.run_id})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: a table of the epochs, what happened, and the picture."""
        rows = self.epochs
        head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in rows[0])
        cells = [
            [f"<td>{html.escape(_shown(value))}</td>" for value in row.values()] for row in rows
        ]
        body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        said = html.escape(repr(self)), html.escape(self.report.happened)
        picture = base64.b64encode(self._repr_png_()).decode()
        return (
            f"<p>{said[0]}</p><p>{said[1]}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f'<img alt="boundary and validation score" src="data:image/png;base64,{picture}"/>'
        )

    def _repr_png_(self) -> bytes:
        """For what shows pictures alone."""
        content = io.BytesIO()
        self.figure().savefig(content, format="png", dpi=_DPI)
        return content.getvalue()

    @cached_property
    def _finetuned(self) -> FinetunedModel:
        """Opened when it is asked for: a recorded result is returned at once."""
        run, config = self._run, self.config
        with as_arguments(fresh="fresh=True"):
            split = published_model(run, self.report.totals.best_epoch)
        model = described(run, split.model.cpu()).eval()
        settings = ModelSettings.model_validate(getattr(model.config, MODEL_MARK))
        settings = settings.model_copy(update={"columns": config.data.columns})
        task, processor = run.record.task, processor_of(config)
        return FinetunedModel(model, processor, task, settings, split.logits)

    def _as_held(self, rows: Any) -> HeldRows:
        if isinstance(rows, str | bytes):
            rows = [rows]
        # Tables are handed out by columns, or read as they are asked for.
        is_table = isinstance(rows, Mapping) or any(
            hasattr(rows, name) for name in ("columns", "column_names")
        )
        if not is_table:
            is_one = getattr(rows, "ndim", 1) != 1 or isinstance(rows, io.IOBase)
            if not isinstance(rows, Iterable) or isinstance(rows, Set) or is_one:
                raise DataError(
                    f"rows: got {type(rows).__name__}. Give a list of texts, a datasets.Dataset, a "
                    "pandas DataFrame, or a list of dicts"
                )
            rows = list(rows)
        if isinstance(rows, list) and rows and not isinstance(rows[0], Mapping):
            task = self._run.record.task
            fields = task.fields(task.named_columns(self.config.data.columns))
            columns = [one.column for one in fields if not one.is_target]
            values = [row if isinstance(row, tuple) else (row,) for row in rows]
            for number, row in enumerate(values):
                if len(row) != len(columns):
                    raise DataError(
                        f"row {number}, counted from 0, has {len(row)} values; the model was "
                        f"trained on {', '.join(columns)}"
                    )
            rows = [dict(zip(columns, row, strict=True)) for row in values]
        return hold_rows("rows", rows)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
