"""What ``autofreeze search`` resolves before its flow, and shows after it."""

from pathlib import Path
from typing import Any

from rich.console import Console

from afcore.config import Config, change_keys, parse_config, parse_overrides
from afcore.errors import ConfigError
from afcore.search.label_studies import file_of_label, label_configs, names_of_labels
from afcore.search.out_of_fold import PREDICTIONS_OPTION
from afcore.search.search_report import LabelsReport, SearchReport
from afcore.search.space import check_space, parse_over, search_of
from afcore.search.study_figures import study_figures
from afcore.search.winner_file import BEST_OPTION
from afcore.storage.outputs import check_file
from pipelines.cli.consoles import say
from pipelines.cli.options import write_figure
from pipelines.search_table import labels_table, members_table, search_notes, search_table

__all__ = [
    "best_path",
    "check_figures",
    "predictions_path",
    "resolve_search",
    "show_searches",
]


def resolve_search(
    config: Config, over: list[str], proxy: list[str], options: dict[str, Any]
) -> Config:
    """The configuration with the search of the command line, checked.

    Args:
        config: from its file; its section ``search`` is changed.
        over: texts of ``--over``.
        proxy: texts of ``--proxy``.
        options: keys of the section, None where they were not given.

    Raises:
        ConfigError: for a space that cannot be searched.
    """
    tree = config.model_dump()
    changes = {f"search.{key}": value for key, value in options.items() if value is not None}
    search = search_of(config)
    if over:
        changes["search.vary"] = {**search.vary, **parse_over(over)}
    if proxy:
        changes["search.proxy"] = {**search.proxy, **parse_overrides(proxy, "--proxy")}
    change_keys(tree, changes, source="--over")
    resolved = parse_config(tree, source="search")
    for one in label_configs(resolved).values():
        check_space(one)
    return resolved


def best_path(config_file: str, config: Config, given: Path | None) -> Path:
    """Where the best configuration is written: beside nobody else's file, in the current folder."""
    path = (given or Path(f"{Path(config_file).stem}.best.yaml")).expanduser()
    _check_outputs(path, BEST_OPTION, config_file, config)
    return path


def predictions_path(config_file: str, config: Config, given: Path | None) -> str | None:
    """Where the predictions of folds are written; None without folds."""
    if search_of(config).folds is None:
        if given is not None:
            raise ConfigError(f"{PREDICTIONS_OPTION} {given}: is for folds. Give --folds too")
        return None
    path = (given or Path(f"{Path(config_file).stem}.out_of_fold.csv")).expanduser()
    _check_outputs(path, PREDICTIONS_OPTION, config_file, config)
    return str(path.resolve())


def _check_outputs(path: Path, option: str, config_file: str, config: Config) -> None:
    """That the file, or that of each label column, can be written, and none is one that is read."""
    data = config.data
    read = {config_file: "the configuration itself"}
    for names in (data.train, data.validation, data.test):
        if not isinstance(names, float | None):
            listed = [names] if isinstance(names, str) else names
            read |= dict.fromkeys(listed, "a file that is read")
    for label in names_of_labels(search_of(config).labels or [""]).values():
        file = check_file(file_of_label(str(path), label), option)
        for name, what in read.items():
            if file == Path(name).expanduser().resolve():
                raise ConfigError(f"{option} {path}: is {what}. Give another file")


def check_figures(folder: Path | None) -> None:
    """Before hours of work, not after."""
    if folder is not None:
        check_file(str(folder / "x.png"), "--figures")


def write_figures(report: SearchReport, folder: Path) -> list[Path]:
    """The pictures, as PNG.

    Raises:
        ConfigError: when they cannot be written.
    """
    paths = []
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--figures {folder}: cannot be written: {error.strerror}") from error
    for name, figure in study_figures(report).items():
        paths.append(folder / f"{name}.png")
        write_figure(paths[-1], figure, "--figures")
    return paths


def show_searches(
    result: dict[str, Any], figures: Path | None, wide: Console, console: Console
) -> None:
    """What came out: of one study, or of one for each label column; and the pictures."""
    if "labels" not in result:
        _show_one(SearchReport.model_validate(result), figures, wide, console)
        return
    whole = LabelsReport.model_validate(result)
    names = names_of_labels(whole.labels)
    for label, report in whole.labels.items():
        console.print(f"\nLabel column {label}", markup=False)
        folder = figures and figures / names[label]
        _show_one(report, folder, wide, console)
    wide.print(labels_table(whole))


def _show_one(report: SearchReport, figures: Path | None, wide: Console, console: Console) -> None:
    show_search(report, wide, console)
    wanted = figures is not None and report.best is not None
    for picture in write_figures(report, figures) if wanted else ():
        say(f"Picture: {picture}", console)


def show_search(report: SearchReport, wide: Console, console: Console) -> None:
    """The table, what stands below it, and where the best configuration is."""
    console.print()
    wide.print(search_table(report))
    members = members_table(report)
    if members is not None:
        console.print(members)
    for note in search_notes(report):
        console.print(note, markup=False)
    if report.config_file is not None:
        found = f"`autofreeze run {report.config_file}` finds its run."
        say(f"Best configuration: {report.config_file}; {found}", console)
    if report.predictions_file is not None:
        say(f"Predictions of the folds: {report.predictions_file}", console)
