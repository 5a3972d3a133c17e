"""Which of the trials that are already asked for should be started one after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from afcore.config import Config
from afcore.digest import canonical_json
from afcore.errors import ConfigError
from afcore.runs.identify import decisive_settings
from afcore.search.common_epochs import LATE_KEYS
from afcore.search.space import trial_config

__all__ = ["Sharing", "in_sharing_order", "sharing_of"]

Sharing = Callable[[Mapping[str, Any]], tuple[bytes, int, bytes, float]]
"""Of the values of a trial: names of data and model, boundary, name of the settings, epochs."""


def sharing_of(config: Config, num_blocks: int, num_pretrained: int) -> Sharing:
    """By data and model, then by the boundary, the lowest first, then by how long they last.

    A deeper set is built from a shallower one, and a longer training may begin as a shorter one.

    Args:
        config: of the search.
        num_blocks: of the model.
        num_pretrained: of these, with weights.
    """

    def key(values: Mapping[str, Any]) -> tuple[bytes, int, bytes, float]:
        try:
            trial = trial_config(config, values)
        except ConfigError:
            return b"", num_blocks, b"", 0.0  # it will fail, at the end
        tokens = canonical_json(trial.model_dump(mode="json", include={"model", "data", "task"}))
        boundary = 0
        if trial.freezes:
            try:
                boundary = trial.freezing.begin(num_blocks, num_pretrained).boundary
            except ValueError:  # of another model, which may have more blocks
                boundary = num_blocks
        decisive = decisive_settings(trial)
        decisive["training"] = {
            name: value for name, value in decisive["training"].items() if name not in LATE_KEYS
        }
        return tokens, boundary, canonical_json(decisive), trial.training.epochs

    return key


def in_sharing_order(proposals: Sequence[dict[str, Any]], sharing: Sharing) -> list[dict[str, Any]]:
    """Those that share most one after the other; otherwise as they were proposed."""
    keys = [sharing(one) for one in proposals]
    # Settings have no order of their own: the first that was proposed comes first.
    first = {part: number for number, key in reversed(list(enumerate(keys))) for part in key[::2]}

    def place(number: int) -> tuple[float, ...]:
        tokens, boundary, settings, epochs = keys[number]
        return first[tokens], boundary, first[settings], epochs

    return [proposals[number] for number in sorted(range(len(proposals)), key=place)]
