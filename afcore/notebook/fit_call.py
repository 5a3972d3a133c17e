"""``afcore.fit``: a training in one call, without Prefect, MLflow or a file of settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afcore.config import Config
from afcore.notebook.argument_names import as_arguments
from afcore.notebook.fit_result import FitResult
from afcore.notebook.given_settings import resolve_settings
from afcore.notebook.progress_bar import ProgressBar
from afcore.runs.model_folder import check_output, write_model_folder
from afcore.runs.whole_run import complete_run

__all__ = ["fit"]


def fit(
    model: Any = None,
    train: Any = None,
    test: Any = None,
    *,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    output: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    **settings: Any,
) -> FitResult:
    """Fine-tune a pre-trained transformer, freezing and caching as ``autofreeze run`` does.

    The same call again returns at once what is recorded; after an interruption, or a kill, it goes
    on from the last commit. Records lie in ``store``, by default ``.autofreeze/store`` in the
    working folder, where the command line finds them too.

    Args:
        model: a hub id, a folder, or ``package:NAME/FOLDER``.
        train: a file, URL or hub data set; or rows in memory: a ``datasets.Dataset``, a pandas
            ``DataFrame``, a list of dicts, or a dict of columns. ``validation``, a setting, may be
            any of them too.
        test: the same; scored once, at the end.
        config: what the others change: a YAML file's path, or its content as a dict.
        output: a folder to write the model to, as :meth:`FitResult.save` does.
        fresh: train anew, even what is recorded as done.
        progress: show a bar.
        settings: keys of the configuration: by their last part (``epochs=2``), as sections
            (``training={"epochs": 2}``), or whole (``**{"cache.mode": "off"}``).

    Raises:
        AutoFreezeError: for settings, data or a model that cannot be used, in one message; and for
            a training that diverged.
        KeyboardInterrupt: when interrupted: after the step, with all committed that was done; a
            second interrupt ends at once, and what was committed before still stands.
    """
    given = {"model": model, "data.train": train, "data.test": test}
    given = {key: value for key, value in given.items() if value is not None}
    resolved, held = resolve_settings(config, {**given, **settings}, "fit")
    with as_arguments(fresh="fresh=True"):
        folder = check_output(str(output), resolved) if output is not None else None
        bar = ProgressBar() if progress else None
        done = False
        try:
            run, report = complete_run(resolved, held, fresh=fresh, onlooker=bar)
            done = True
        finally:
            if bar is not None:
                bar.close(done)
        if folder is not None:
            write_model_folder(resolved, report.run_id, folder)
    return FitResult(run, report, resolved)
