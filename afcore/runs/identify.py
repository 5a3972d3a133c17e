"""What names a run: data, model and settings are looked at, and nothing is written."""

import contextlib
import importlib.metadata
import logging
import uuid
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from afcore.compute import Compute, choose_compute
from afcore.config import FREEZING_MODES, PEER_MODES, Config, PricesConfig
from afcore.data.fold import Fold
from afcore.data.held_rows import HeldRows
from afcore.digest import RecipeDigest, recipe_digest
from afcore.errors import ConfigError, ModelError
from afcore.freezing.policy import FreezeState
from afcore.model.adapters import add_adapters
from afcore.model.checks import (
    num_pretrained_blocks,
    unused_parameters,
    verify_finite,
    verify_pooled,
    verify_split,
)
from afcore.model.compile import check_compiler
from afcore.model.own_settings import changed_setting, own_settings
from afcore.model.pretrained import architecture_of, forward_settings
from afcore.model.processors import load_processor
from afcore.model.quantization import check_quantization
from afcore.model.split_model import Batch, SplitModel
from afcore.numerics import NUMERICS, numerics_of
from afcore.prices import resolve_prices
from afcore.runs.checkpoint import weight_digests
from afcore.runs.common_inputs import CommonInputs, LookedAt, spare_copy
from afcore.runs.fit import check_fit, check_length
from afcore.runs.run import RunRecord, load_model_of, lora_settings
from afcore.storage.objects import Storage
from afcore.tasks.known_tasks import task_class
from afcore.tasks.prepare import DataSources, prepare
from afcore.tasks.stored_tokens import PreparedData
from afcore.tasks.task import Task

__all__ = [
    "data_sources",
    "decisive_numerics",
    "decisive_settings",
    "identify_run",
    "looked_at_digest",
]

_SPLIT_TOLERANCE = 1e-4
# Room differs between machines; what it changes, each epoch's order, is in its plan.
_BUDGETS = {"device_bytes", "host_bytes", "disk_bytes", "max_bytes"}
# Of the training: how fast it learns and how long it lasts.
_RATES = {
    "batch_size",
    "decay_ratio",
    "epochs",
    "learning_rate",
    "max_grad_norm",
    "schedule",
    "steps",
    "stop",
    "warmup_ratio",
    "weight_decay",
}
_WHERE = {"min", "launcher", "ray_address", "autoscaling"}
_VERSIONED = ("torch", "transformers", "autofreeze")
_WITHOUT_ADAPTERS = tuple(mode for mode in PEER_MODES if mode != "hf_trainer_lora")
_PEER_VERSIONED = ("accelerate", "peft")  # what the Trainer stands on
_log = logging.getLogger(__name__)


def identify_run(
    config: Config,
    storage: Storage,
    held: Mapping[str, HeldRows] | None = None,
    common: CommonInputs | None = None,
) -> RunRecord:
    """Prepare the data, look at the model, and name the run; nothing of the run is written yet.

    Args:
        config: of the run.
        storage: where.
        held: rows in memory, of the splits ``train``, ``validation`` and ``test`` that they are of,
            instead of what the configuration names.
        common: what other runs of this process on this store have looked at; without ``held``.

    Raises:
        UserError: for data, a model or settings that cannot be used together.
    """
    prices = resolve_prices(config.prices)  # a price that is missing is said now
    compute = choose_compute(config.training.precision)
    if config.quantization is not None:
        check_quantization(config.quantization, compute.device)
    if config.training.compile:
        check_compiler(compute.device)
    if common is None:
        looked = _look(config, storage, held, keeps_model=False)
    else:
        assert held is None, "rows in memory have no name"
        look = partial(_look, config, storage, keeps_model=True)
        looked = common.look(looked_at_digest(config), look)
    freeze = _first_freeze(config, looked.num_blocks, looked.num_pretrained)
    if config.model.quantization is not None and not (config.freezes and freeze.boundary):
        why = "no block is frozen from the start" if config.freezes else f"mode {config.mode}"
        _log.warning("model.quantization: nothing is quantized (%s)", why)
    return RunRecord(
        run_id=_run_id(config, looked, compute),
        training_id=uuid.uuid4().hex[:16],
        # In dollars: workers elsewhere have no table of the user's.
        config=config.model_copy(update={"prices": PricesConfig(**vars(prices))}),
        data=looked.data.digest,
        task=looked.task,
        architecture=looked.architecture,
        num_blocks=looked.num_blocks,
        num_pretrained=looked.num_pretrained,
        weights=looked.weights,
        precision=compute.precision,
        versions=_versions(config),
        uncacheable=looked.uncacheable,
        structure=looked.structure,
        num_states=looked.data.train.fixed_length,
        revisions=dict(looked.data.revisions),
    )


def _run_id(config: Config, looked: LookedAt, compute: Compute) -> str:
    """Of all that decides the weights a run ends with."""
    return recipe_digest(
        {
            "schema": 3,
            "numerics": decisive_numerics(config),
            "config": decisive_settings(config),
            "architecture": forward_settings(looked.architecture),
            "data": looked.data.digest,
            "task": looked.task.model_dump(),
            "weights": looked.weights,
            "precision": compute.precision,
            "device": compute.device.type,
            "versions": _versions(config),
        }
    )[:16]


def looked_at_digest(config: Config) -> RecipeDigest:
    """Of the settings, all but those that say nothing of data and model."""
    sections = {"cache", "prices", "tracking", "search"}
    if config.adapter is None:
        sections |= {"freezing"}
    left_out: dict[str, Any] = {section: True for section in sections}
    return recipe_digest(config.model_dump(mode="json", exclude=left_out | {"training": _RATES}))


def _look(
    config: Config,
    storage: Storage,
    held: Mapping[str, HeldRows] | None = None,
    *,
    keeps_model: bool,
) -> LookedAt:
    """At data and model: that they can be used together, and what they are."""
    processor = load_processor(task_class(config.task).processor, config.model.name)
    data = prepare(
        storage, processor, config.task, data_sources(config, held), config.data.max_length
    )
    for warning in data.task.warnings(data.validation, config.main_score):
        _log.warning("%s.", warning)
    model = _load_with_padding(config, data.task, processor)
    untouched = spare_copy(model) if keeps_model else None
    data = replace(data, task=data.task.fitted(model))
    settings = own_settings(model)
    if data.task.processor == "tokenizer":
        check_length(config.data.max_length, config.model.name, model, processor)
    check_fit(config.model.name, model, processor, data)
    split = SplitModel(model, pool=config.training.pooled_last_block)
    _first_freeze(config, split.num_blocks)  # said before the model is tried
    data = data.of_length(_num_states(split, data))
    batch = _few_examples(split, data)
    _check_model(config, split, batch)
    uncacheable = _uncacheable(config, split, batch)
    if config.mode in FREEZING_MODES:
        uncacheable = uncacheable or changed_setting(settings, own_settings(model))
    if config.workers.max > 1:
        _check_averaging(split, batch)
    weights, num_pretrained = weight_digests(split), num_pretrained_blocks(split)
    _check_adapters(config, split, batch, num_pretrained)
    return LookedAt(
        data=data,
        architecture=architecture_of(model),
        structure=split.structure,
        num_blocks=split.num_blocks,
        num_pretrained=num_pretrained,
        weights=weights,
        uncacheable=uncacheable,
        model=untouched,
    )


def _first_freeze(
    config: Config, num_blocks: int, num_pretrained: int | None = None
) -> FreezeState:
    try:
        return config.freezing.begin(num_blocks, num_pretrained)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def data_sources(config: Config, held: Mapping[str, HeldRows] | None = None) -> DataSources:
    """What is prepared, as the configuration says; instead of it what is in memory."""
    names = {field.name for field in fields(DataSources)}
    given: dict[str, Any] = config.data.model_dump(include=names - {"columns", "settings"})
    given |= {"columns": config.data.columns, "settings": config.task_settings}
    if config.data.fold is not None:
        given |= {"fold": Fold.parse(config.data.fold)}
    return DataSources(**given | dict(held or {}))


def decisive_settings(config: Config) -> dict[str, Any]:
    """The settings that decide the weights a run ends with, or what it is charged for."""
    sections = {"mode", "training"}
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"score": config.main_score.name})}
    )
    if config.adapter is not None and config.mode not in _WITHOUT_ADAPTERS:
        sections |= {"adapter"}
    if config.mode in PEER_MODES:
        decisive = config.model_dump(include=sections)
        _leave_out_decay(config, decisive)
        return decisive
    if config.mode in FREEZING_MODES:
        sections |= {"freezing"}
    if config.caches:
        sections |= {"cache"}
    decisive = config.model_dump(
        include=sections | {"workers"}, exclude={"cache": _BUDGETS, "workers": _WHERE}
    )
    _leave_out_decay(config, decisive)
    if config.quantization is not None:  # without it, runs keep the names that they had before
        decisive["quantization"] = config.quantization
    return {**decisive, "batching": config.data.batching, "dtype": config.cache.dtype}


def _leave_out_decay(config: Config, decisive: dict[str, Any]) -> None:
    """It decides nothing with another schedule, and runs from before it was there keep names."""
    if config.training.schedule != "wsd":
        del decisive["training"]["decay_ratio"]


def _check_adapters(config: Config, split: SplitModel, batch: Batch, num_pretrained: int) -> None:
    """Add them once, to see that they can be; the model is looked at no more afterwards."""
    settings = lora_settings(config)
    if settings is None or config.mode in PEER_MODES:
        return
    begins = config.freezing.begin(split.num_blocks, num_pretrained)
    first = begins.boundary if config.freezes else 0
    adapted = add_adapters(split, settings, range(first, split.num_blocks), config.training.seed)
    verify_pooled(adapted, batch, _SPLIT_TOLERANCE)


def _check_model(config: Config, split: SplitModel, batch: Batch) -> None:
    """It gives numbers, and can be run as the settings say."""
    verify_finite(split, batch)
    if config.mode not in PEER_MODES:
        _log.info("last block: %s", _pooling(split))
        verify_pooled(split, batch, _SPLIT_TOLERANCE)
    if config.training.gradient_checkpointing and not split.model.supports_gradient_checkpointing:
        raise ConfigError(
            "training.gradient_checkpointing: Transformers cannot do it with "
            f"{type(split.model).__name__}. Leave it out, or lower workers.micro_batch"
        )


def _uncacheable(config: Config, split: SplitModel, batch: Batch) -> str | None:
    """Why a prefix is no function of the example: then it cannot be cached, but may freeze."""
    if config.training.augmentation is not None:
        return (
            f"training.augmentation: {config.training.augmentation} draws each picture anew in "
            "every epoch, so what frozen blocks put out is another each time"
        )
    if config.mode not in FREEZING_MODES:
        return None
    return verify_split(split, batch, max(1, split.num_blocks // 2), _SPLIT_TOLERANCE)


def _load_with_padding(config: Config, task: Task, tokenizer: Any) -> Any:
    name, padding = config.model.name, task.pad_token_id
    try:
        return load_model_of(config, task)
    except (AssertionError, ModelError) as error:  # torch's, of an index
        if "adding_idx" not in str(error):
            raise
        raise ModelError(
            f"the padding token of {name!r} is {padding} ({tokenizer.pad_token!r}), and the model "
            "has no vector for it. Give the tokenizer that the model was trained with, or resize "
            "the model's embeddings"
        ) from error


def _versions(config: Config) -> dict[str, str]:
    wanted = [*_VERSIONED, *(_PEER_VERSIONED if config.mode in PEER_MODES else ())]
    if config.adapter is not None and config.mode not in PEER_MODES:
        wanted.append("peft")
    if config.quantization is not None:
        wanted.append("bitsandbytes")
    versions = {}
    for name in wanted:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # PEFT is optional
            versions[name] = importlib.metadata.version(name)
    return versions


def decisive_numerics(config: Config) -> dict[str, int]:
    """Of the rooms whose numbers decide the run's result."""
    if config.mode in PEER_MODES:
        return numerics_of("data", "model", "peer")
    # The name of the data knows how pictures were opened.
    left_out = {"peer", "pictures"} | (
        set() if config.mode in FREEZING_MODES else {"freezing", "activations"}
    )
    return numerics_of(*(room for room in NUMERICS if room not in left_out))


def _pooling(split: SplitModel) -> str:
    if split.pooled is None:
        return f"computed at every position ({split.pooled_reason})"
    return f"computed at the position that the head reads ({split.pooled_reason})"


def _check_averaging(split: SplitModel, batch: Batch) -> None:
    unused = unused_parameters(split, batch)
    if unused:
        raise ModelError(
            f"{type(split.model).__name__} has parameters that no gradient reaches "
            f"({', '.join(unused[:3])}), so several workers cannot average them. Set workers.max "
            "to 1."
        )


def _num_states(split: SplitModel, data: PreparedData) -> int | None:
    """Hidden states of an example that is no sequence: all have as many."""
    if data.train.fixed_length is None:
        return None
    device = next(split.model.parameters()).device
    with torch.no_grad():
        hidden = split.hidden(data.task.collate(data.train, np.arange(1), device)[0], 1)
    return int(next(iter(hidden.values())).shape[1])


def _few_examples(split: SplitModel, data: PreparedData) -> Batch:
    lengths = data.train.lengths[:64]
    ids = lengths.argsort()[:: max(1, len(lengths) // 4)][:4]
    device = next(split.model.parameters()).device
    return data.task.collate(data.train, ids, device)[0]
