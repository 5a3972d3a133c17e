"""The application that commands belong to."""

import typer

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune transformers faster: blocks that have converged are frozen, and what they put "
    "out is cached. Runs can be killed and started again; results are recorded in MLflow.",
)
