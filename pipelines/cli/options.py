"""Options that several commands have, and what is checked of them before hours of work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_json

from afcore.config import MODES
from afcore.errors import ConfigError
from afcore.storage.outputs import check_file, new_file

__all__ = [
    "DEFAULT_STORE",
    "ConfigPath",
    "FigurePath",
    "Fresh",
    "Overrides",
    "ReportPath",
    "StoreUri",
    "check_writable",
    "parse_modes",
    "write_figure",
    "write_report",
]

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a value of the configuration"),
]
ReportPath = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the report as JSON")
]
FigurePath = Annotated[
    Path | None, typer.Option("--figure", metavar="FILE", help="Draw time against cost, as PNG")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Train anew, even what is recorded as done")]
StoreUri = Annotated[str, typer.Option("--store", help="Root of the store: a folder or s3://...")]
DEFAULT_STORE = ".autofreeze/store"


def parse_modes(modes: str, known: Sequence[str] = MODES) -> list[str]:
    """Modes of a comma-separated text, each once.

    Raises:
        ConfigError: for one that is not known, and for none.
    """
    wanted = [mode.strip() for mode in modes.split(",") if mode.strip()]
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise ConfigError(f"--modes: got {modes!r}; known are {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def check_writable(path: Path | None, option: str = "--report") -> None:
    """Before hours of work, not after."""
    if path is not None:
        check_file(str(path), option)


def write_report(report: Path | None, result: dict[str, Any]) -> None:
    """As JSON, where a file was asked for; what is no number, or infinite, is ``null`` there."""
    if report is None:
        return
    text = to_json(result, indent=1, inf_nan_mode="null").decode() + "\n"
    if report.exists() and not report.is_file():  # a pipe, or a terminal
        report.write_text(text, encoding="utf-8")
        return
    with new_file(report, "--report") as draft:
        draft.write_text(text, encoding="utf-8")


def write_figure(path: Path, figure: Any, option: str = "--figure") -> None:
    """As a picture of the kind that the file's ending names; without one, as PNG.

    Raises:
        ConfigError: when it cannot be written, or the ending is of no picture.
    """
    with new_file(path, option) as draft:
        try:
            figure.savefig(draft, format=path.suffix[1:] or "png", dpi=150)
        except ValueError as error:
            raise ConfigError(f"{option} {path}: cannot be written: {error}") from error
