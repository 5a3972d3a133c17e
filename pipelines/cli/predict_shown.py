"""What ``autofreeze predict`` shows: progress while it works, then what came of it."""

import time

from rich.console import Console

from afcore.predict import Predicted, predict_file
from afcore.tasks.task import Task
from pipelines.cli.consoles import say

__all__ = ["predict_and_show"]

_PROGRESS_SECONDS = 10.0
_NUM_SHOWN = 3


def predict_and_show(
    model: str,
    file: str,
    output: str | None,
    options: dict[str, str | None],
    probabilities: bool,
    consoles: tuple[Console, Console],
) -> None:
    """Predict, with progress on the second console, and what came of it on the first.

    Where the predictions themselves go to standard output, all goes to the second.
    """
    out, err = consoles
    with err.status("Loading the model") as status:
        shown = began = time.monotonic()

        def progress(done: int) -> None:
            nonlocal shown
            now = time.monotonic()
            line = f"{done:,} rows predicted, {done / (now - began):,.0f} a second"
            status.update(line)
            if not err.is_terminal and now - shown > _PROGRESS_SECONDS:
                shown = now
                err.print(line)

        predicted = predict_file(
            model,
            file,
            output=output,
            given=options,
            probabilities=probabilities,
            progress=progress,
        )
    told = out if output is not None else err
    say(_summary(predicted, output, probabilities), told)


def _summary(predicted: Predicted, output: str | None, probabilities: bool) -> str:
    lines = [f"{predicted.num_rows:,} rows predicted{f', in {output}' if output else ''}"]
    if probabilities and type(predicted.task).probabilities is Task.probabilities:
        lines.append(f"no probabilities: answers of {predicted.task.name} have none")
    first, value = predicted.task.scores[0], predicted.score
    if value is not None:
        rows = "rows with a label" if predicted.labelled else "rows"
        lines.append(f"{first.title} {first.shown(value)} ({predicted.num_labelled:,} {rows})")
    elif predicted.labelled:
        lines.append(f"no {first.title}: the column of labels is empty")
    if predicted.unknown:
        names = ", ".join(repr(label) for label, _ in predicted.unknown.most_common(_NUM_SHOWN))
        lines.append(
            f"{predicted.unknown.total():,} rows have labels that the model does not know ({names})"
            ", which count as wrong"
        )
    return "\n".join(lines)
