"""The main score: what chooses the published epoch, may stop a training, and ranks runs. No torch.

Scores are named as in the reports. Of all but the loss, the higher is the better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["MAIN_SCORES", "MainScore", "ScoreName", "remaining_errors"]

ScoreName = Literal["accuracy", "f1_macro", "matthews", "loss"]


@dataclass(frozen=True)
class MainScore:
    """One of the scores that may be the main one.

    Attributes:
        name: in reports and in the configuration.
        title: in tables and messages.
        higher_is_better: its direction.
        in_percent: shown as a percentage; else as a number.
        stops: whether a training that may stop goes on while it gets better, beside the loss.
            Accuracy does not: in one epoch of a small validation set it says less than the loss.
    """

    name: str
    title: str
    higher_is_better: bool = True
    in_percent: bool = False
    stops: bool = False

    def quality(self, scores: Mapping[str, float]) -> float:
        """The score so that more is better; ``-inf`` where it, or the loss, is no number."""
        value = scores[self.name]
        if not math.isfinite(value) or not math.isfinite(scores.get("loss", 0.0)):
            return -math.inf
        return value if self.higher_is_better else -value

    def shown(self, value: float) -> str:
        """A score as people read it."""
        return f"{100 * value:.2f} %" if self.in_percent else f"{value:.4f}"


MAIN_SCORES: dict[str, MainScore] = {
    score.name: score
    for score in (
        MainScore("accuracy", "accuracy", in_percent=True),
        MainScore("f1_macro", "macro-F1", in_percent=True, stops=True),
        MainScore("matthews", "Matthews correlation", stops=True),
        MainScore("loss", "log loss", higher_is_better=False),
    )
}


def remaining_errors(score: str, validations: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """What is left to gain, ``1 - score`` after each epoch, where the score has a say in stopping.

    Args:
        score: the main one.
        validations: scores on the validation split after each epoch.

    Returns:
        Nothing where the loss alone says when to stop.
    """
    main = MAIN_SCORES[score]
    return tuple(1.0 - scores[main.name] for scores in validations) if main.stops else ()
