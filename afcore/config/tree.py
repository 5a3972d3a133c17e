"""The configuration tree: every key with its unit, range and default, a file a section.

The section ``freezing`` is the policy itself (:mod:`afcore.freezing`), whose file has its keys.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from afcore.config.cache_section import CacheConfig
from afcore.config.changes import change_keys, named_policy
from afcore.config.data_section import DataConfig
from afcore.config.model_section import AdapterConfig, ModelConfig, Quantization
from afcore.config.modes import (
    CACHING_MODES,
    CHOOSING_MODES,
    FREEZING_MODES,
    PEER_MODES,
    Mode,
)
from afcore.config.prices_section import PricesConfig
from afcore.config.search_section import SearchConfig
from afcore.config.section import Section, Uri, absolute
from afcore.config.tracking_section import RetrainConfig, TrackingConfig
from afcore.config.training_section import TrainingConfig
from afcore.config.workers_section import WorkersConfig
from afcore.errors import ConfigError
from afcore.freezing.known_policies import DEFAULT_POLICY, Policy
from afcore.freezing.settling import CYCLE_EPOCHS
from afcore.tasks.scores import Score
from afcore.yaml_files import parse

__all__ = ["Config"]


def _any_policy(schema: dict[str, Any]) -> None:
    """Keys that all policies have fit each of them, so not one alone; Prefect checks by this."""
    schema["anyOf"] = schema.pop("oneOf")


class Config(Section):
    """One training, completely described."""

    mode: Mode = Field(
        "cached",
        description="`full`: nothing frozen; `freeze`: freezing alone; `cached`: frozen "
        "prefix read from activation sets; `performance`, `efficiency`: that, on the number of "
        "workers with the least time, or cost, before each epoch. For comparison, Hugging Face's "
        "Trainer instead: `hf_trainer` with its default order (random), `hf_trainer_grouped` "
        "grouped by length, `hf_trainer_early` that and stopped after an epoch without a lower "
        "validation loss (a better score, where `training.score` is `f1_macro` or `matthews`), "
        "`hf_trainer_lora` with LoRA (PEFT) on all linear layers, or as `adapter` says",
    )
    task: str = Field(
        "text-classification",
        description="what is learned: one of the [tasks](#tasks)",
    )
    task_settings: dict[str, Any] = Field(
        default_factory=dict,
        description="settings that only this task has, by their names; see [Tasks](#tasks)",
    )
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    freezing: Annotated[Policy, Field(discriminator="policy"), BeforeValidator(named_policy)] = (
        Field(default_factory=DEFAULT_POLICY, json_schema_extra=_any_policy)
    )
    adapter: AdapterConfig | None = Field(
        None,
        description="train adapters on the blocks instead of their weights, in the modes `full`, "
        "`freeze`, `cached` and `hf_trainer_lora`; see [`adapter`](#adapter)",
    )
    cache: CacheConfig = Field(default_factory=CacheConfig)
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    store: Annotated[Uri, AfterValidator(absolute)] = Field(
        ".autofreeze/store", description="root of everything stored: a folder, `s3://...`"
    )
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    prices: PricesConfig = Field(default_factory=PricesConfig)
    retrain: RetrainConfig = Field(default_factory=RetrainConfig)
    search: SearchConfig | None = Field(
        None, description="for the command `search` alone; see [`search`](#search)"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "Config":
        size, most = self.training.batch_size, self.workers.max
        if size % most:
            fewer = next(count for count in range(most, 0, -1) if size % count == 0)
            raise ValueError(
                f"workers.max {most} does not divide training.batch_size {size}, and every worker "
                f"takes an equal share of each batch. Take {fewer} workers, or "
                f"a batch size that is a multiple of {most}"
            )
        if self.data.fold is not None and self.mode in PEER_MODES:
            raise ValueError(
                f"data.fold: mode {self.mode} trains on whole files. Leave it out, or use another "
                "mode"
            )
        if self.adapter is not None and self.mode in CHOOSING_MODES:
            raise ValueError(
                f"adapter: mode {self.mode} chooses workers from measurements that know no "
                "adapters. Use full, freeze or cached"
            )
        if self.quantization is None:
            return self
        if self.mode in CHOOSING_MODES or self.workers.max > 1:
            raise ValueError(
                "model.quantization: a quantized prefix is for one worker, in mode freeze or "
                f"cached, and this is mode {self.mode} with {self.workers.max} workers at most. "
                "Set mode and workers.max, or leave it out"
            )
        if not self.freezing.starts_frozen:
            raise ValueError(
                "model.quantization: only blocks that are frozen from the start can be quantized, "
                f"and with freezing.policy {self.freezing.policy} none are. Use frozen_start or "
                "static, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _task_knows(self) -> "Config":
        from afcore.tasks.known_tasks import TASKS  # torch, which --help needs not

        try:
            self.main_score  # noqa: B018
            task, kind = TASKS[self.task], self.training.augmentation
            if kind is not None and kind not in task.augmentations:
                raise ValueError(
                    f"training.augmentation {kind!r} is not for task {self.task}. Leave it out"
                )
            if self.task_settings:
                task.check_settings(self.task_settings)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def main_score(self) -> Score:
        """The score that chooses the published epoch."""
        from afcore.tasks.known_tasks import find_score, task_class  # torch, which --help needs not

        return find_score(self.task, self.training.score or task_class(self.task).scores[0].name)

    @property
    def registered_model(self) -> str:
        """Name of the model in MLflow's registry, which allows no ``/`` and ``:``."""
        return self.retrain.model or re.sub("[/:]", "-", self.tracking.experiment)

    @property
    def freezes(self) -> bool:
        """Whether the mode freezes blocks."""
        return self.mode in FREEZING_MODES

    @property
    def quantization(self) -> Quantization | None:
        """Of the frozen prefix, where the mode freezes; None: its weights are whole."""
        return self.model.quantization if self.freezes else None

    @property
    def stops(self) -> bool:
        """Whether training ends when it has settled."""
        if self.mode in PEER_MODES:
            return False  # early stopping is a mode of its own there
        if self.training.stop is not None:
            return self.training.stop == "settled"
        return self.freezes and self.freezing.stops

    @property
    def cycle_epochs(self) -> int | None:
        """Epochs after which training may stop, again and again; None: it does not."""
        if not self.stops:
            return None
        return self.freezing.cycle_epochs if self.freezes else CYCLE_EPOCHS

    @property
    def caches(self) -> bool:
        """Whether the mode may read and write activation sets."""
        return self.mode in CACHING_MODES

    def replace(self, **changes: Any) -> "Config":
        """Copy with dotted keys changed, e.g. ``replace(**{"training.seed": 1})``.

        With another ``freezing.policy`` the keys that it does not have are left behind.

        Raises:
            ConfigError: for an unknown key or a value that is not allowed.
        """
        tree = self.model_dump()
        change_keys(tree, changes, source="replace")
        return parse(Config, tree, "replace")
