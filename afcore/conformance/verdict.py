"""The verdict on a model, the reason, and what it stands on.

* **cached**: its blocks can be frozen, and what the frozen ones put out can be stored and read:
  outputs, loss and gradients of the suffix on it are those of the whole.
* **freeze only**: they can be frozen, but what they put out is no function of the example alone.
* **unsupported**: no row of blocks is found, or the model cannot be run apart. Most of these still
  train in mode ``full``.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from afcore.activations.codec import STORED_AS, RowFormat
from afcore.conformance.chance import drawn_in_training, kept_between_batches
from afcore.conformance.opened_model import (
    OpenedModel,
    UnsupportedModelError,
    one_line,
    open_model,
)
from afcore.conformance.trials import (
    as_precise_as_can_be,
    check_repeats,
    try_boundary,
    try_training,
)
from afcore.errors import ModelError, UserError, in_one_line
from afcore.model.checks import verify_finite
from afcore.model.own_settings import changed_setting, own_settings
from afcore.model.probing import varied_batch
from afcore.model.split_model import EMBEDDINGS, HEAD, SplitModel
from afcore.model.trial import Differences

__all__ = ["Blocks", "Conformance", "Verdict", "check_model", "check_opened"]

Verdict = Literal["cached", "freeze only", "unsupported"]
_MOST_BOUNDARIES = 16
_LENGTH = 15  # no multiple of what a model may pad to by itself
_LONGEST = 127
"""Tokens of a text at most where positions change with a text's length."""


class Blocks(BaseModel):
    """The parts of a model.

    Attributes:
        embeddings: names of the parameters below block 0.
        count: L.
        names: of the blocks, bottom first.
        kind: their class.
        head: names of the parameters above them.
        last_block: at which position it is computed, or why at all.
    """

    model_config = ConfigDict(frozen=True)

    embeddings: list[str]
    count: int
    names: list[str]
    kind: str
    head: list[str]
    last_block: str


class Compared(BaseModel):
    """Of one boundary: the suffix on fresh hidden states, and on those of a set."""

    model_config = ConfigDict(frozen=True)

    boundary: int
    split: Differences
    stored: Differences | None


class Conformance(BaseModel):
    """What was found of a model; everything but the verdict may be missing.

    Attributes:
        model: its class.
        task: whose head it has, and why that one.
        weights: where they are from.
        notes: what is not used of its folder, refused by runs, or not tried.
        precision: float64, or float32 where its own code asks for that.
        widths: of what is stored of a token, by name.
        bytes_per_token: of a set, by its dtype.
        drawn: settings of chances above zero; all are off below a boundary.
        kept: modules that keep statistics of batches, by class.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    verdict: Verdict
    reason: str
    model: str | None = None
    task: str | None = None
    weights: str | None = None
    notes: list[str] = []
    blocks: Blocks | None = None
    precision: str | None = None
    compared: list[Compared] = []
    widths: dict[str, int] = {}
    bytes_per_token: dict[str, int] = {}
    drawn: dict[str, float] = {}
    kept: dict[str, int] = {}


def check_model(name: str, task: str | None = None) -> Conformance:
    """Look at a model.

    Args:
        name: a folder, perhaps with ``config.json`` alone, a hub id, or ``package:...``.
        task: whose head; None: as the model was saved.

    Raises:
        UserError: for a model that is not there or damaged, or a task that nobody knows.
    """
    try:
        opened = open_model(name, task)
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with it, the verdict says so
        return Conformance(name=name, verdict="unsupported", reason=_reason(error))
    return check_opened(name, opened)


def check_opened(name: str, opened: OpenedModel) -> Conformance:
    """The same of a model in memory, whose weights end as they were, but in another precision."""
    found: dict[str, Any] = {
        "name": name,
        "model": type(opened.model).__name__,
        "task": f"{opened.head.task} ({opened.head.why})",
        "weights": opened.weights,
        "notes": list(opened.notes),
        "drawn": drawn_in_training(opened.model.config),
    }
    try:
        verdict, reason = _try(opened.model, found)
    except Exception as error:  # whatever a model's own code raises
        verdict, reason = "unsupported", _reason(error)
    return Conformance(**found, verdict=verdict, reason=reason)


def _try(model: Any, found: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict; what is found on the way to it is put into ``found``."""
    settings = own_settings(model)
    split = SplitModel(model)
    found["blocks"] = _blocks(split)
    found["kept"] = kept_between_batches(split)
    if split.unsplittable is not None:
        return "unsupported", f"{split.unsplittable}."
    length, changes_above = _length(model.config), _changes_above(model.config)
    if changes_above is not None and length <= changes_above:
        found["notes"].append(
            f"its positions are others in texts of more than {changes_above} tokens, and it was "
            f"tried with {length}"
        )
    varied = varied_batch(model, length)
    verify_finite(split, {name: values[:1] for name, values in varied.items()})
    batch = as_precise_as_can_be(split, varied)
    found["precision"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    check_repeats(split, batch)
    tried, found["compared"] = [], []
    for boundary in _boundaries(split.num_blocks):
        trial = try_boundary(split, batch, boundary)
        tried.append(trial)
        compared = Compared(boundary=boundary, split=trial.split, stored=trial.stored)
        found["compared"].append(compared)
    obstacle = next((one.obstacle for one in tried if one.obstacle), None)
    obstacle = (
        obstacle or changed_setting(settings, own_settings(model)) or try_training(split, batch)
    )
    if obstacle is not None:
        return "freeze only", obstacle
    found["widths"] = dict(split.widths)
    found["bytes_per_token"] = {
        dtype: RowFormat(dtype, split.widths).row_bytes for dtype in STORED_AS
    }
    return (
        "cached",
        "the suffix on stored hidden states gives the outputs and gradients of the whole.",
    )


def _length(config: Any) -> int:
    """Of the longest text, in tokens."""
    positions, above = getattr(config, "max_position_embeddings", None), _changes_above(config)
    if above is not None:  # such positions have no table that ends
        longer = 2 * above - 1
        return max(_LENGTH, longer) if longer <= _LONGEST else _LENGTH
    return min(_LENGTH, positions - 4) if isinstance(positions, int) and positions > 4 else _LENGTH


def _changes_above(config: Any) -> int | None:
    """Tokens of a text above which rotary positions are scaled otherwise; None: they never are."""
    text = config.get_text_config()
    found = getattr(text, "rope_parameters", None) or {}
    for one in (found, *(inner for inner in found.values() if isinstance(inner, dict))):
        positions = getattr(text, "max_position_embeddings", None)
        if one.get("rope_type") == "longrope":
            positions = one.get("original_max_position_embeddings") or positions
        if one.get("rope_type") in ("dynamic", "longrope") and isinstance(positions, int):
            return positions
    return None


def _boundaries(num_blocks: int) -> list[int]:
    """All, or as many as are tried of a deep model, the lowest and the highest among them."""
    highest = num_blocks - 1
    if highest <= _MOST_BOUNDARIES:
        return list(range(1, num_blocks))
    steps = _MOST_BOUNDARIES - 1
    return sorted({1 + round(i * (highest - 1) / steps) for i in range(_MOST_BOUNDARIES)})


def _blocks(split: SplitModel) -> Blocks:
    return Blocks(
        embeddings=list(split.part_parameters(EMBEDDINGS)),
        count=split.num_blocks,
        names=list(split.structure.stack.blocks),
        kind=type(split.blocks[0]).__name__,
        head=list(split.part_parameters(HEAD)),
        last_block=split.pooled_reason,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ModelError | UnsupportedModelError):
        return in_one_line(error)
    return f"its own code fails: {type(error).__name__}: {one_line(error)}"
