"""The command line ``autofreeze``.

Exit codes: 0; 2 for a user's mistake; 143 or 130 when told to stop (SIGTERM, Ctrl-C); 1 for
anything else.
"""

import contextlib
import importlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from afcore.config import MODES, OWN_MODES, Config, load_config
from afcore.disk_space import temporary_files_full
from afcore.errors import (
    AutoFreezeError,
    ConfigError,
    OrchestrationError,
    StoppedError,
    UserError,
    in_one_line,
)
from afcore.storage.outputs import new_file
from pipelines.cli_stack import stack_app
from pipelines.environment import from_prefect, proxy_for, set_defaults
from pipelines.ephemeral import ephemeral_server

__all__ = ["app", "exit_codes", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune transformers faster: blocks that have converged are frozen, and what they put "
    "out is cached. Runs can be killed and started again; results are recorded in MLflow.",
)
cache_app = typer.Typer(no_args_is_help=True, help="Look at, check and clean the activation cache.")
app.add_typer(cache_app, name="cache")
runs_app = typer.Typer(no_args_is_help=True, help="Look at runs, and delete what is old.")
app.add_typer(runs_app, name="runs")
app.add_typer(stack_app, name="stack")
_console = Console()
_errors = Console(stderr=True, soft_wrap=True)

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


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    report: ReportPath = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write the model to this folder: weights, tokenizer, labels, model card. A model "
            "that --output wrote before is replaced; a folder with anything else is refused",
        ),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Fine-tune a model as CONFIG says.

    Killed and started again, the same command goes on from the last epoch that was done. A
    finished run returns its recorded result, unless --fresh; with --output it writes its model.
    """
    with exit_codes():
        resolved = load_config(config, overrides or [])
        _check_writable(report)
        folder = None
        if output is not None:
            from afcore.runs.model_folder import check_output

            folder = check_output(output, resolved)
        result = _run_flow("finetune", resolved, fresh=fresh)
        recorded = result.pop("recorded", False)
        _write(report, result)
        if folder is not None:
            from afcore.runs.model_folder import write_model_folder

            write_model_folder(resolved, result["run_id"], folder)
        alone = {"schema": 1, "runs": [result], "score": result["score"]}
        _show_comparison(alone | {"speedup": {}, "wall_speedup": {}})
        if recorded:
            _console.print(
                "This run was finished before; the result is the recorded one. --fresh trains anew."
            )
        if folder is not None:
            _console.print(f"Model: {folder}", markup=False, soft_wrap=True)
        _show_uis(resolved, recorded)


@app.command("predict")
def predict_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder that run --output wrote, or another",
        ),
    ],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet, here or at a URL")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="CSV, JSON lines or Parquet, by its ending; replaced when all is done. Default: "
            "standard output",
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A column with the probability of each class")
    ] = False,
    text: Annotated[
        str | None, typer.Option(help="Column with the text. Default: as in the training")
    ] = None,
    text_pair: Annotated[
        str | None, typer.Option(help="Column with the second text of a pair. Default: likewise")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with the label, if there is one. Default: likewise")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Of a CSV or JSON file. Default: likewise")
    ] = None,
) -> None:
    """Predict for the texts of FILE: its rows, with the column 'prediction' more.

    Texts are read, cut and computed as in the test of the training. Where FILE has the labels too,
    the score is printed. A long file is never held in memory (but for JSON that is one list).
    """
    with exit_codes():
        set_defaults()
        from pipelines.cli_predict import predict_and_show

        options = {"text": text, "text_pair": text_pair, "label": label, "encoding": encoding}
        predict_and_show(model, file, output, options, probabilities, (_console, _errors))


@app.command()
def compare(
    config: ConfigPath,
    modes: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated, of: {', '.join(MODES)}. The last four are Hugging Face's own "
            "Trainer on the same model and data: with its default order of examples (random), with "
            "its fastest (grouped by length), with that and early stopping, and with LoRA"
        ),
    ] = "full,cached",
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds, counted up from training.seed")
    ] = 1,
    overrides: Overrides = None,
    report: ReportPath = None,
    share: Annotated[
        bool,
        typer.Option("--share", help="Use activation sets of other runs instead of paying anew"),
    ] = False,
    fresh: Fresh = False,
) -> None:
    """Run the same training in several modes and put accuracy, time and cost side by side.

    All modes but those of the Trainer see the same batches. Every run pays for its own activation
    sets, unless --share is given or CONFIG says cache.share: true. With two seeds or more, a column
    says whether a mode's difference to full in test accuracy is within noise.
    """
    with exit_codes():
        resolved = load_config(config, overrides or [])
        wanted = _parse_modes(modes)
        _check_writable(report)
        result = _run_flow(
            "compare",
            resolved,
            modes=wanted,
            seeds=seeds,
            share=share or _shares(resolved),
            fresh=fresh,
        )
        recorded = result.pop("recorded")
        _write(report, result)
        _show_comparison(result)
        if any(recorded):
            _console.print(
                f"{sum(recorded)} of {len(recorded)} runs were finished before; their results are "
                "the recorded ones. --fresh trains anew."
            )
        _show_uis(resolved, all(recorded))


@app.command("search")
def search_command(
    config: ConfigPath,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="Vary a key: 1,2,3 or LOW..HIGH, with :log or :step=S behind it; may be given "
            "several times, beside search.vary in CONFIG",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many. Default: 20, or the whole grid")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe (the default), random, grid, qmc or gp")
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(help="none (the default), median, successive_halving or hyperband"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each trial with so many seeds; take the mean")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate each trial on so many folds")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Search for the best of each of these label columns"),
    ] = None,
    overrides: Overrides = None,
    best: Annotated[
        Path | None,
        typer.Option(
            "--best",
            metavar="FILE",
            help="Write the best configuration there. Default: CONFIG's name with .best.yaml, in "
            "the current folder",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="With --folds, write what each predicts of its rows there, as CSV. Default: "
            "CONFIG's name with .out_of_fold.csv, in the current folder",
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Write the pictures there too")
    ] = None,
    report: ReportPath = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Forget this study's trials; what they trained is found"),
    ] = False,
) -> None:
    """Try many settings, share what their trainings have in common, publish the best.

    Killed and started again, the same command goes on: finished trials stay, running ones resume
    from their last epoch. Several processes with the same CONFIG work on one study. The test set
    is read for the best trial alone, at the end.
    """
    with exit_codes():
        set_defaults()
        from pipelines.cli_search import (
            best_path,
            predictions_path,
            resolve_search,
            show_searches,
        )

        options = {"trials": trials, "sampler": sampler, "pruner": pruner, "seeds": seeds}
        options |= {"folds": folds, "labels": labels}
        resolved = resolve_search(load_config(config, overrides or []), over or [], options)
        _check_writable(report)
        path = best_path(config, best)
        files = {
            "best_file": str(path),
            "predictions_file": predictions_path(config, resolved, predictions),
        }
        result = _run_flow("search", resolved, **files, fresh=fresh)
        _write(report, result)
        show_searches(result, figures, _wide(), _console)
        _show_uis(resolved)


@app.command()
def retrain(
    config: ConfigPath,
    overrides: Overrides = None,
    report: ReportPath = None,
    fresh: Fresh = False,
) -> None:
    """Train again if the data has changed since the last time, and keep the better model.

    Unchanged rows end it in seconds. A new model becomes a version in MLflow's model registry; the
    alias champion moves to it only where it is not worse than the champion on the same test rows,
    by more than retrain.margin allows. For every night, by a deployment or by cron.
    """
    with exit_codes():
        resolved = load_config(config, overrides or [])
        _check_writable(report)
        result = _run_flow("retrain", resolved, fresh=fresh)
        _write(report, result)
        if result["trained"]:
            trained = result["report"]
            alone = {"schema": 1, "runs": [trained], "score": trained["score"]}
            _show_comparison(alone | {"speedup": {}, "wall_speedup": {}})
            _show_uis(resolved)
        for line in result["lines"]:
            _console.print(line, markup=False, soft_wrap=True)


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    modes: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated, of: {', '.join(OWN_MODES)}. Default: full,freeze,cached, and "
            "with several workers performance,efficiency"
        ),
    ] = None,
    report: ReportPath = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Predict for the boundaries of this recorded report too"),
    ] = None,
    figure: FigurePath = None,
) -> None:
    """Predict seconds, bytes and dollars of a training before they are spent.

    A few batches are measured on this machine; nothing is trained. What will freeze is not known
    beforehand, so totals are a band from "nothing freezes" to "all freezes at once".
    """
    with exit_codes():
        resolved = load_config(config, overrides or [])
        several = ",performance,efficiency" if resolved.workers.max > 1 else ""
        wanted = _parse_modes(modes or f"full,freeze,cached{several}", OWN_MODES)
        _check_writable(report)
        set_defaults()
        from afcore.launch.launcher import close_launchers
        from afcore.preview import load_trace, preview_run
        from pipelines.plan_table import boundary_table, run_table, workers_table

        recorded = load_trace(trace) if trace is not None else None
        with _console.status("Measuring a few batches"):
            try:
                found = preview_run(resolved, wanted, recorded)
            finally:
                close_launchers()
        _write(report, found.model_dump(mode="json"))
        _wide().print(boundary_table(found))
        if found.weighs_workers:
            _wide().print(workers_table(found))
        _wide().print(run_table(found))
        if resolved.search is not None:
            from afcore.search.study_forecast import forecast_study
            from pipelines.search_table import forecast_table

            with _console.status("Predicting the trials of its search"):
                study = forecast_study(resolved)
            _wide().print(forecast_table(study))
        if figure is not None:
            _draw_plan(figure, found)
        for note in found.notes:
            _console.print(note, markup=False)


@app.command("replay")
def replay_command(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="JSON of run or compare")],
    policy: Annotated[
        str, typer.Option(help="Freezing policy to replay, as freezing.policy")
    ] = "gradient_norm",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the section freezing"),
    ] = None,
) -> None:
    """Replay a freezing policy on recorded statistics, and show how noisy they are.

    Nothing is trained. A run of mode freeze with --set freezing.policy=none records the statistics
    of all blocks.
    """
    from pipelines.cli_replay import replay_report

    with exit_codes():
        replay_report(report, policy, overrides or [], _wide())


@app.command("show")
def show_command(
    wanted: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN_ID", help="YAML file, or how a run's id begins")
    ],
    store: Annotated[
        str | None,
        typer.Option(help=f"Root of the store. Default: CONFIG's; of a run's id {DEFAULT_STORE}"),
    ] = None,
    overrides: Overrides = None,
    why: Annotated[
        bool, typer.Option("--why", help="From which statistics each decision came")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON")] = False,
) -> None:
    """Show what a run has done, epoch by epoch, what it would do next, and where all of it is.

    The run may be at work, stopped, finished or damaged; nothing is changed, and nothing trained.
    """
    with exit_codes():
        from pipelines.cli_show import find_run_status, print_status

        status = find_run_status(wanted, overrides or [], store, DEFAULT_STORE)
        if as_json:
            _console.print(status.model_dump_json(indent=1), markup=False, soft_wrap=True)
        else:
            print_status(status, _wide(), why)


@app.command("report")
def report_command(
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="JSON that --report wrote, YAML file of a run, or how a run's id begins",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write")] = Path(
        "report.html"
    ),
    store: Annotated[
        str | None,
        typer.Option(help=f"Root of the store. Default: CONFIG's; of a run's id {DEFAULT_STORE}"),
    ] = None,
) -> None:
    """Write runs as one page: scores, seconds, dollars, what froze and why, what was predicted.

    The page needs nothing beside it: it can be mailed, or kept for years.
    """
    with exit_codes():
        from pipelines.cli_report import write_report_page

        count = write_report_page(wanted, output, store, DEFAULT_STORE)
        runs = "1 run" if count == 1 else f"{count} runs"
        _console.print(f"{output}: {runs}", markup=False, soft_wrap=True)


@app.command("check-model")
def check_model_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder or hub id; a folder may hold config.json alone, then weights are random",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="Whose head it gets. Default: that of its architecture, else the first it can have"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON")] = False,
) -> None:
    """Try whether a model can be split, frozen and cached, and say why not.

    The verdict is cached, freeze only or unsupported; whatever it is, the exit code is 0. Nothing
    is trained or written. docs/models.md has the verdicts of many families.
    """
    with exit_codes():
        set_defaults()
        from afcore.conformance.verdict import check_model
        from pipelines.cli_check_model import print_conformance

        # Nothing is committed that a stop could spoil, and a model's own errors are all caught.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        found = check_model(name, task)
        if as_json:
            _console.print(found.model_dump_json(indent=1), markup=False, soft_wrap=True)
        else:
            print_conformance(found, _wide())


@app.command("simulate")
def simulate_command(
    cluster: Annotated[
        str, typer.Option(metavar="FILE", help="YAML, or the name of a shipped one")
    ],
    trace: Annotated[
        Path | None,
        typer.Option(metavar="REPORT", help="JSON of run or compare whose boundaries are followed"),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="YAML, or the name of a shipped one"),
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option(min=1, help="Examples of a step over all workers")
    ] = None,
    report: ReportPath = None,
    figure: FigurePath = None,
) -> None:
    """Predict time and cost of a recorded training on a described cluster, in every mode.

    Nothing is measured or trained. Without --trace the boundaries are those of a recorded run of
    the paper's policy that comes with the package.
    """
    with exit_codes():
        _check_writable(report)
        from pipelines.cli_simulate import simulate_report

        simulate_report(cluster, trace, workload, global_batch, report, figure, _wide())


@app.command("examples")
def examples_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder to write")] = Path(
        "examples"
    ),
) -> None:
    """Write the files that come with the package: to run, to deploy, to simulate, to change.

    Configurations and a Prefect deployment; prices, clusters, workloads and a recorded trace.
    """
    from pipelines.example_configs import write_examples

    with exit_codes():
        for path in write_examples(folder):
            _console.print(str(path), markup=False, soft_wrap=True)


@cache_app.command("ls")
def cache_ls(store: StoreUri = DEFAULT_STORE) -> None:
    """List activation sets: boundary, size, age, last use, and the runs that used them."""
    from afcore.activations.maintenance import describe_sets

    with exit_codes():
        table = Table(
            "key", "boundary", "lineage", "dtype", "examples", "MB", "age", "last use", "users"
        )
        rows = describe_sets(store)
        for row in rows:
            table.add_row(*row)
        _wide().print(table)
        _console.print(f"activation sets in {store}: {len(rows)}")


@cache_app.command("verify")
def cache_verify(store: StoreUri = DEFAULT_STORE) -> None:
    """Read every shard and check its checksum; exit 1 when anything is damaged.

    A run that meets a damaged shard computes it again; nothing needs to be done by hand.
    """
    from afcore.activations.maintenance import verify_sets

    with exit_codes():
        num_sets, problems = verify_sets(store)
        for problem in problems:
            _errors.print(problem, markup=False)
        _console.print(f"{num_sets} activation sets read, {len(problems)} problems")
        if problems:
            raise typer.Exit(1)


@cache_app.command("gc")
def cache_gc(
    store: StoreUri = DEFAULT_STORE,
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Delete sets not used for so many days")
    ] = 30.0,
    max_gb: Annotated[
        float | None,
        typer.Option(min=0, help="Then delete the least recently used until so many GB are left"),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="The same, in bytes")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, but delete nothing")] = False,
) -> None:
    """Delete activation sets that nobody used for long, or can use again, and what writers left.

    What a live run may read is never deleted.
    """
    from afcore.activations.garbage import collect_garbage

    with exit_codes():
        if max_gb is not None and max_bytes is not None:
            raise UserError("--max-gb and --max-bytes say the same; give one of them")
        removals = collect_garbage(
            store,
            max_idle_seconds=older_than_days * 86400,
            max_bytes=max_bytes if max_gb is None else int(max_gb * 1e9),
            dry_run=dry_run,
        )
        from pipelines.cli_runs import print_removals

        print_removals(removals, _console, dry_run)


@runs_app.command("ls")
def runs_ls(store: StoreUri = DEFAULT_STORE) -> None:
    """List runs: whether they are done, and the bytes that they take."""
    with exit_codes():
        set_defaults()
        from pipelines.cli_runs import print_runs

        print_runs(store, _wide())


@runs_app.command("gc")
def runs_gc(
    store: StoreUri = DEFAULT_STORE,
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Delete runs that nobody worked on for so many days")
    ] = 30.0,
    published_days: Annotated[
        float,
        typer.Option(
            min=0, help="Delete checkpoints of runs whose model is in MLflow for so many days"
        ),
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, but delete nothing")] = False,
) -> None:
    """Delete old runs, and checkpoints that a published run no longer needs.

    Models in MLflow stay, and so does what a live run needs. Of registered models, versions go
    where `retrain.keep_versions` says how many to keep. Activation sets: cache gc.
    """
    with exit_codes():
        set_defaults()
        from afcore.retraining.version_retention import collect_versions
        from afcore.runs.retention import collect_runs
        from pipelines.cli_runs import print_removals

        removals = collect_runs(
            store,
            max_idle_seconds=older_than_days * 86400,
            published_idle_seconds=published_days * 86400,
            dry_run=dry_run,
        )
        removals += collect_versions(store, dry_run=dry_run)
        print_removals(removals, _console, dry_run)


def main() -> None:
    """Entry point of the console script."""
    set_defaults()
    app()


def _run_flow(name: str, config: Config, **parameters: Any) -> dict[str, Any]:
    """Run a flow; what Prefect raises while it runs becomes one message.

    Raises:
        OrchestrationError: when somebody deleted or stopped the run there, or the server is gone.
    """
    flow = _import_flow(name)
    from httpx import TransportError
    from prefect.exceptions import ObjectNotFound, PrefectSignal

    try:
        result: dict[str, Any] = flow(config, **parameters)
    except (Exception, PrefectSignal) as error:
        if not from_prefect(error):
            raise
        problem = f"Prefect ended this flow run: {in_one_line(error)}."
        if isinstance(error, ObjectNotFound):
            problem = "Prefect does not know this flow run any more; was it deleted there?"
        elif isinstance(error, TransportError):
            problem = f"the Prefect server does not answer any more: {in_one_line(error)}."
        raise OrchestrationError(
            f"{problem} What is committed stands; the same command goes on from there, or returns "
            "the result."
        ) from error
    return result


def _import_flow(name: str) -> Any:
    """The flow of this name, imported when needed: ``--help`` should not wait for torch."""
    began = time.monotonic()
    set_defaults()
    configured = bool(os.environ.get("PREFECT_API_URL"))
    with ephemeral_server():
        flow = getattr(importlib.import_module(f"pipelines.{name}"), name)
    _check_server(ours=not configured and bool(os.environ.get("PREFECT_API_URL")))
    _console.print(f"Ready in {time.monotonic() - began:.1f} s; starting the flow {name!r}.")
    return flow


def _check_server(ours: bool) -> None:
    """A server that was configured may be down; Prefect would say so in a traceback."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        url, problem = str(client.api_url), client.api_healthcheck()
    if problem is None:
        return
    what = f"the Prefect server at {url} does not answer"
    if proxy := proxy_for(url):
        raise UserError(
            f"{what} through the proxy {proxy}. If it is to be reached directly, add its host to "
            "NO_PROXY; else see that server and proxy run."
        )
    if ours:
        raise UserError(
            f"{what}, though this process has just started it ({in_one_line(problem)}). Does "
            "something keep processes of this machine from connecting to 127.0.0.1? Or set "
            "PREFECT_API_URL to a server that can be reached."
        )
    raise UserError(f"{what}. Start it, or unset PREFECT_API_URL to use a temporary one.")


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Errors of ours as one message and an exit code; SIGTERM as an error."""
    # Training stops by itself, between steps. Prefect's flows mark themselves as crashed first, and
    # then send the signal on.
    signal.signal(signal.SIGTERM, _stop)
    former = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    except AutoFreezeError as error:
        what = "Stopped" if isinstance(error, StoppedError) else "Error"
        _errors.print(f"[bold red]{what}:[/] {escape(str(error))}")
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        if (full := temporary_files_full(error)) is None:
            raise
        _errors.print(f"[bold red]Error:[/] {escape(str(full))}")
        raise typer.Exit(full.exit_code) from None
    finally:
        signal.signal(signal.SIGINT, former)


def _stop(number: int, _frame: Any) -> None:
    stopped = StoppedError()
    stopped.by_ctrl_c = number == signal.SIGINT
    raise stopped


def _parse_modes(modes: str, known: Sequence[str] = MODES) -> list[str]:
    wanted = [mode.strip() for mode in modes.split(",") if mode.strip()]
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise ConfigError(f"--modes: got {modes!r}; known are {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def _shares(config: Config) -> bool:
    """Whether sharing was asked for; that it is the default of single runs does not count."""
    return "share" in config.cache.model_fields_set and config.cache.share


def _check_writable(report: Path | None) -> None:
    """Before hours of work, not after."""
    if report is None:
        return
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        existed = report.exists()
        with report.open("a"):
            pass
        if not existed:
            report.unlink()
    except OSError as error:
        raise ConfigError(f"--report {report}: cannot be written: {error.strerror}") from error


def _write(report: Path | None, result: dict[str, Any]) -> None:
    if report is None:
        return
    place, text = Path(os.path.realpath(report)), json.dumps(result, indent=1) + "\n"
    if place.exists() and not place.is_file():  # a pipe, or a terminal
        place.write_text(text, encoding="utf-8")
        return
    with new_file(place, "--report") as draft:
        draft.write_text(text, encoding="utf-8")


def _draw_plan(path: Path, plan: Any) -> None:
    from pipelines.plan_figures import pareto_figure

    if not plan.weighs_workers:
        raise ConfigError(f"--figure {path}: with one worker there is nothing to choose from")
    try:
        pareto_figure(plan).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--figure {path}: cannot be written: {error}") from error


def _show_comparison(result: dict[str, Any]) -> None:
    from afcore.results.report import CompareReport
    from pipelines.comparison_table import classes_table, comparison_table, stories

    comparison = CompareReport.model_validate(result)
    _console.print()
    _wide().print(comparison_table(comparison))
    for line in stories(comparison):
        _console.print(line, markup=False)
    for line in _notes(comparison.runs):
        _console.print(line, markup=False)
    classes = comparison.runs[0].test_classes
    if len(comparison.runs) == 1 and classes is not None:
        _wide().print(classes_table(classes))
        _console.print(f"The confusion matrix as a picture, in MLflow: {classes.figure}")


def _notes(runs: Sequence[Any]) -> list[str]:
    """What a reader should know; once, where it holds for every run."""
    of_all = [note for note in runs[0].notes if all(note in run.notes for run in runs)]
    of_all = of_all if len(runs) > 1 else []
    return [f"every run: {note}" for note in of_all] + [
        f"{run.mode}, seed {run.seed}: {note}"
        for run in runs
        for note in run.notes
        if note not in of_all
    ]


def _wide() -> Console:
    """For tables, which are better scrolled than cut."""
    return Console(width=max(_console.width, 210))


def _show_uis(config: Config, recorded: bool = False) -> None:
    uri = config.tracking.uri
    if uri.startswith("http") and not recorded:  # what was finished before needs no MLflow
        from afcore.results.tracking import Tracker

        with contextlib.suppress(AutoFreezeError):
            uri = Tracker(uri, config.tracking.experiment).experiment_address() or uri
    name = config.tracking.experiment
    _console.print(f"MLflow, experiment {name!r}: {uri}", markup=False, soft_wrap=True)
    if uri.startswith("sqlite:"):
        _console.print(
            f"Look at it with: mlflow ui --backend-store-uri {uri}\n"
            "and at the Prefect flows with: prefect server start",
            markup=False,
            soft_wrap=True,
        )
