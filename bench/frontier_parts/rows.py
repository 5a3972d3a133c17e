"""The rows of the frontier: ways of training, as settings. Which rows there are is said here alone.

A row's learning rate is that of its kind, chosen once for a data set (:data:`RATE_PROBES`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

__all__ = [
    "CONFIGURED_EPOCHS",
    "FULL_ROWS",
    "LONG_ROW",
    "OWN_ROWS",
    "RATE_FACTORS",
    "RATE_PROBES",
    "ROWS",
    "TRAINER_ROWS",
    "Row",
    "chosen_rows",
    "settings_of",
]

CONFIGURED_EPOCHS = 4
"""What rules and policies are given, and what full training would be without a thought."""
RATE_FACTORS = (0.5, 1.0, 2.0)
"""The grid, in units of the base rate."""


@dataclass(frozen=True)
class Row:
    """A way of training.

    Attributes:
        name: in files and options.
        label: in pictures.
        group: rows that belong together: ``full``, ``trainer``, ``static``, ``rule``, ``ours``.
        rate: kind of row whose rate it takes, a key of :data:`RATE_PROBES`.
        epochs: at most.
        passes: predicted cost in epochs of full training, to budget with.
        settings: besides epochs and rate.
        depth_share: of the blocks that are frozen, where that is fixed.
    """

    name: str
    label: str
    group: str
    rate: str
    epochs: float
    passes: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    depth_share: Fraction | None = None


def _full(epochs: float) -> Row:
    return Row(f"full-{epochs:g}", f"{epochs:g}", "full", "full", epochs, epochs, {"mode": "full"})


def _static(share: Fraction, epochs: int) -> Row:
    passes = float(epochs * (1 - share) + share / 2)
    return Row(
        f"static-{share.numerator}of{share.denominator}-{epochs}",
        f"static {share}, {epochs}",
        "static",
        "static",
        epochs,
        passes,
        {"mode": "cached", "freezing.policy": "static", "cache.mode": "on"},
        share,
    )


def _ours(tolerance: float) -> Row:
    return Row(
        f"ours-{tolerance:g}",
        f"ours, {tolerance:g}",
        "ours",
        "ours",
        CONFIGURED_EPOCHS,
        1.5,
        {"mode": "cached", "freezing.tolerance": tolerance},
    )


FULL_ROWS = [_full(epochs) for epochs in (0.5, 1, 2, 4)]
"""The curve; ``full-4`` is also full training as configured."""
LONG_ROW = _full(8)
"""Only where 4 epochs are still better than 2."""
TRAINER_ROWS = [
    # The Trainer's batches of random order cost up to twice those of like lengths.
    Row("hf_trainer", "Trainer", "trainer", "trainer", 3, 6.0, {"mode": "hf_trainer"}),
    Row("hf_early", "Trainer, early", "trainer", "trainer", 8, 6.0, {"mode": "hf_trainer_early"}),
    Row("hf_lora", "LoRA", "trainer", "lora", 3, 5.0, {"mode": "hf_trainer_lora"}),
]
_THIRDS = (Fraction(1, 3), Fraction(2, 3))
_RULE = {"mode": "cached"}
_RULES = [
    Row(
        "paper",
        "paper's rule",
        "rule",
        "full",
        CONFIGURED_EPOCHS,
        2.5,
        {**_RULE, "freezing.policy": "gradient_norm"},
    ),
    Row(
        "guarded",
        "guarded",
        "rule",
        "full",
        CONFIGURED_EPOCHS,
        4.2,
        {**_RULE, "freezing.policy": "guarded"},
    ),
]
OWN_ROWS = [_ours(tolerance) for tolerance in (0, 0.5, 2)]
"""The default policy, by what the user would give up."""
ROWS = [
    *FULL_ROWS,
    *OWN_ROWS,
    *TRAINER_ROWS,
    *(_static(share, epochs) for share in _THIRDS for epochs in (2, 4)),
    *_RULES,
    LONG_ROW,
]
"""In the order in which they are trained for a seed."""


def _probe(
    kind: str,
    passes: float,
    settings: dict[str, Any],
    share: Fraction | None = None,
    epochs: int = 2,
) -> Row:
    return Row(f"rate-{kind}", kind, "rate", kind, epochs, passes, settings, share)


RATE_PROBES = {
    "full": (1.0, _probe("full", 2.0, {"mode": "full"})),
    # As long as its rows: what freezes after an epoch depends on how many there are.
    "ours": (1.0, _probe("ours", 1.2, {"mode": "cached"}, epochs=CONFIGURED_EPOCHS)),
    "static": (
        1.0,
        _probe(
            "static",
            1.3,
            {"mode": "cached", "freezing.policy": "static", "cache.mode": "on"},
            Fraction(1, 2),
        ),
    ),
    "trainer": (1.0, _probe("trainer", 2.4, {"mode": "hf_trainer_grouped"})),
    "lora": (10.0, _probe("lora", 3.5, {"mode": "hf_trainer_lora"})),
}
"""By kind: the factor of its base rate, and the training that its rate is chosen with."""


def chosen_rows(names: Sequence[str] | None) -> list[Row]:
    """Rows of these names or groups, and always those of the curve.

    Raises:
        ValueError: for a name that is neither.
    """
    known = {row.name for row in ROWS} | {row.group for row in ROWS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return [
        row
        for row in ROWS
        if names is None or row.group == "full" or {row.name, row.group} & set(names)
    ]


def settings_of(row: Row, rate: float, num_blocks: int) -> dict[str, Any]:
    """Settings of a row for a model of so many blocks."""
    epochs = int(row.epochs) if row.epochs == int(row.epochs) else row.epochs
    settings = {**row.settings, "training.epochs": epochs, "training.learning_rate": rate}
    if row.depth_share is not None:
        settings["freezing.depth"] = max(1, round(row.depth_share * num_blocks))
    return settings
