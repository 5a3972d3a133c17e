"""What a search says about itself: a row a trial, what each shared, and the best."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from afcore.freezing.policy import RecordedNumber
from afcore.tasks.scores import shown_score

__all__ = ["EpochRow", "LabelsReport", "MemberRow", "SearchReport", "TrialRow"]

State = Literal["finished", "pruned", "failed", "running"]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings", populate_by_name=True)


class EpochRow(_Row):
    """An epoch of a trial.

    Attributes:
        epoch: from 1.
        source: ``found``: another run had trained it; ``copied``: one with the same beginning had;
            ``continued``: it, or the one before, was stopped; ``trained``: here, from its start.
        read_from: tokens or a set.
        built: boundaries of sets that were built in it.
        seconds: of it, training, sets, evaluation and checkpoints; also where found.
        cost_usd: likewise.
        validation: the task's scores.
        finished: when, in seconds since 1970 (UTC); 0: not recorded.
    """

    epoch: int
    source: Literal["found", "copied", "continued", "trained"]
    read_from: str
    built: list[int]
    seconds: float
    cost_usd: float
    validation: dict[str, RecordedNumber]
    finished: float = 0.0

    @property
    def is_own(self) -> bool:
        """Whether the trial spent its seconds."""
        return self.source in ("continued", "trained")


class MemberRow(_Row):
    """One training of a trial, which has several with ``seeds`` or ``folds``.

    Attributes:
        seed: of it.
        fold: which one it was scored on, from 1; None without folds.
        run_id: of it.
        num_found: epochs that were trained before the trial began.
        num_copied: epochs after these that were taken over from a trial with the same beginning.
        score: of the epoch that would be published; None while it is not done.
        epochs: so far.
        done: whether all of it is trained.
    """

    seed: int
    fold: int | None = None
    run_id: str
    num_found: int = 0
    num_copied: int = 0
    score: float | None = None
    epochs: list[EpochRow] = []
    done: bool = False

    @property
    def name(self) -> str:
        """What it is told from the others of its trial by."""
        return f"seed {self.seed}" if self.fold is None else f"fold {self.fold}"


class TrialRow(_Row):
    """A trial.

    Attributes:
        number: from 0, as Optuna counts.
        state: of it.
        values: of what is varied.
        score: of all members; None where none is done.
        interval: half of the 95 % interval over the members; None of one.
        members: its trainings.
        seconds: spent on it by all processes, loading and checking included.
        why: it failed.
    """

    number: int
    state: State
    values: dict[str, Any]
    score: float | None = None
    interval: float | None = None
    members: list[MemberRow] = []
    seconds: float = 0.0
    why: str | None = None

    @property
    def epochs(self) -> list[EpochRow]:
        """Of all members."""
        return [epoch for member in self.members for epoch in member.epochs]

    @property
    def cost_usd(self) -> float:
        """Of the epochs that were trained for it."""
        return sum(epoch.cost_usd for epoch in self.epochs if epoch.is_own)

    def shared(self) -> str:
        """Which parts were read, continued or computed, in words."""
        epochs = self.epochs
        counts = {
            source: sum(epoch.source == source for epoch in epochs)
            for source in ("found", "copied", "continued", "trained")
        }
        told = [f"{count} {source}" for source, count in counts.items() if count]
        own = [epoch for epoch in epochs if epoch.is_own]
        built = sorted({boundary for epoch in own for boundary in epoch.built})
        read = {e.read_from for e in own if e.read_from.startswith("activations@")}
        found = sorted({int(name.partition("@")[2]) for name in read} - set(built))
        parts = [f"epochs: {', '.join(told)}"] if told else []
        parts += [f"set built: {', '.join(map(str, built))}"] if built else []
        parts += [f"set read: {', '.join(map(str, found))}"] if found else []
        return "; ".join(parts)


class SearchReport(_Row):
    """A study.

    Attributes:
        study_id: names it, and its trials in Optuna's storage.
        score: what was sought to be best.
        higher_is_better: its direction.
        trials: in the order in which they were begun.
        best: number of the best one; None where none finished.
        tokens: whether the tokens were found or made.
        stopped: why no more trials were begun, where a limit said so.
        importance: of each key for the score, by Optuna; together 1.
        proxy: keys that trials had in place of the configuration's, to cost less.
        winner: the best trial's published run, as ``report.json`` has it, tested once.
        config_file: where the best configuration was written.
        predictions_file: likewise, of folds, what each predicts of its rows.
    """

    schema_version: int = Field(1, alias="schema")
    study_id: str
    score: str
    score_title: str
    in_percent: bool
    higher_is_better: bool
    trials: list[TrialRow]
    best: int | None = None
    tokens: Literal["found", "made"] = "found"
    stopped: str | None = None
    importance: dict[str, float] = {}
    proxy: dict[str, Any] = {}
    winner: dict[str, Any] | None = None
    config_file: str | None = None
    predictions_file: str | None = None

    @property
    def best_row(self) -> TrialRow | None:
        """The best trial."""
        return next((row for row in self.trials if row.number == self.best), None)

    def shown(self, score: float | None) -> str:
        """A score as people read it."""
        return "-" if score is None else shown_score(score, in_percent=self.in_percent)


class LabelsReport(_Row):
    """Studies of several label columns, by column."""

    schema_version: int = Field(1, alias="schema")
    labels: dict[str, SearchReport]


def best_number(rows: Sequence[TrialRow], higher_is_better: bool) -> int | None:
    """Of the finished trial with the best score; among equals the first."""
    done = [row for row in rows if row.state == "finished" and row.score is not None]
    sign = 1.0 if higher_is_better else -1.0
    best = max(done, key=lambda row: (sign * (row.score or 0.0), -row.number), default=None)
    return None if best is None else best.number
