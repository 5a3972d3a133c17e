"""``autofreeze stack``: servers, worker and deployments on this machine's loopback."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.cli.exit_codes import exit_codes
from pipelines.tables import ALL, table

__all__ = ["stack_app"]

stack_app = typer.Typer(
    no_args_is_help=True,
    help="Prefect's server, a worker, MLflow's server and the deployments, on 127.0.0.1.",
)
_Folder = Annotated[
    Path, typer.Option("--folder", help="Of the store, MLflow's database, and the stack's logs")
]
_DEFAULT_FOLDER = Path(".autofreeze")
Say = Callable[[str], None]


def _port(about: str) -> typer.models.OptionInfo:
    return typer.Option(min=1, max=65535, help=about)


@stack_app.command("up")
def stack_up(
    folder: _Folder = _DEFAULT_FOLDER,
    prefect_port: Annotated[int | None, _port("Default: 4200, or as last")] = None,
    mlflow_port: Annotated[int | None, _port("Default: 5000, or as last")] = None,
    s3_port: Annotated[int | None, _port("Of moto. Default: 9000, or as last")] = None,
    s3: Annotated[
        str | None,
        typer.Option(
            metavar="folder|moto|ENDPOINT",
            help="Keep the store in the bucket 'autofreeze' of this S3 server, with credentials "
            "from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; moto: start one that forgets all "
            "when it stops. Default: a folder, or as the stack was last started",
        ),
    ] = None,
) -> None:
    """Start what does not run yet, check that all works, and print the addresses.

    It goes on running until `autofreeze stack down`. What trainings leave outlives it.
    """
    with exit_codes():
        from pipelines.stack.local_stack import LocalStack

        console, say = _console()
        given = {"prefect_port": prefect_port, "mlflow_port": mlflow_port}
        stack = LocalStack(folder, {**given, "s3_port": s3_port, "s3": s3})
        deployments = stack.up(say)
        _show(console, stack)
        say(f"store: {stack.store}" + (", which is lost when the stack stops" * stack.is_volatile))
        say(f"deployments: {', '.join(deployments)}. Run one now:")
        say(
            f"  PREFECT_API_URL={stack.settings.prefect_api} "
            f"{_beside('prefect')} deployment run {deployments[0]} --watch"
        )
        say("Stop with: autofreeze stack down (make stack-down)")


@stack_app.command("down")
def stack_down(folder: _Folder = _DEFAULT_FOLDER) -> None:
    """Stop the stack; a training at work commits first, and goes on when it is started again."""
    with exit_codes():
        from pipelines.stack.local_stack import LocalStack

        _, say = _console()
        if not LocalStack(folder).down(say):
            say(f"nothing of a stack in {folder} runs")


@stack_app.command("status")
def stack_status(folder: _Folder = _DEFAULT_FOLDER) -> None:
    """Show what runs and where; exit code 1 unless all of it works."""
    with exit_codes():
        from pipelines.stack.local_stack import LocalStack

        console, _ = _console()
        if not _show(console, LocalStack(folder)):
            raise typer.Exit(1)


def _show(console: Console, stack: "LocalStack") -> bool:  # type: ignore[name-defined]  # noqa: F821
    """A table of all services; whether all of them work."""
    states, rows = stack.states(), []
    for one in states:
        pid = str(one.pid) if one.pid is not None else "-"
        log = _relative(one.log) if one.log is not None else "-"
        rows.append((one.name, one.state, one.address or "-", pid, log))
    columns = ("service", "state", "address", "process", "log")
    console.print(table(None, columns, rows, left=ALL, wrapped=ALL))
    return all(one.works for one in states)


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _beside(program: str) -> str:
    """A program of this environment, which may not be in PATH."""
    import sys

    return _relative(Path(sys.executable).with_name(program))


def _console() -> tuple[Console, Say]:
    console = Console()
    console = Console(width=max(console.width, 150))
    return console, lambda line: console.print(line, markup=False, soft_wrap=True, highlight=False)
