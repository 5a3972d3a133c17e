"""``autofreeze predict``."""

from typing import Annotated

import typer

from pipelines.cli.consoles import console, errors
from pipelines.cli.exit_codes import exit_codes

__all__ = ["predict_command"]


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
        from pipelines.cli.predict_shown import predict_and_show

        options = {"text": text, "text_pair": text_pair, "label": label, "encoding": encoding}
        predict_and_show(model, file, output, options, probabilities, (console, errors))
