"""Recorded runs, read back for the boundaries that they had."""

from pathlib import Path

from pydantic import ValidationError

from afcore.errors import ConfigError
from afcore.report import CompareReport, RunReport

__all__ = ["load_recorded"]


def load_recorded(path: Path) -> RunReport:
    """The recorded run: of a comparison's, the first that froze.

    Raises:
        ConfigError: when the file is no report, or nothing in it froze.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--trace {path}: cannot be read: {error}") from error
    try:
        runs = [RunReport.model_validate_json(text)]
    except ValidationError:
        try:
            runs = CompareReport.model_validate_json(text).runs
        except ValidationError as error:
            raise ConfigError(
                f"--trace {path}: is no report of autofreeze run or compare"
            ) from error
    frozen = [run for run in runs if run.mode != "full"]
    if not frozen:
        raise ConfigError(f"--trace {path}: holds runs in mode full only, which freeze nothing")
    return frozen[0]
