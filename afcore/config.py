"""The configuration tree, from YAML: every key with its unit, range and default, in one place.

The section ``freezing`` is the policy itself (:mod:`afcore.freezing`), whose file has its keys.

Core functions take plain arguments; the pipelines and the rooms ``runs``, ``launch``, ``measuring``
and ``peer`` see the tree.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from afcore.data.builtin.names import BUILT_IN
from afcore.data.fold import Fold
from afcore.errors import ConfigError
from afcore.extras import require_package
from afcore.freezing.known_policies import DEFAULT_POLICY, Policy
from afcore.freezing.settling import CYCLE_EPOCHS
from afcore.number_texts import numbers_as_texts
from afcore.search_config import SearchConfig
from afcore.tasks.scores import Score
from afcore.yaml_files import SECRET_MESSAGE, USERINFO, parse, read_mapping

__all__ = [
    "CACHING_MODES",
    "CHOOSING_MODES",
    "FREEZING_MODES",
    "MODES",
    "OWN_MODES",
    "PEER_MODES",
    "AdapterConfig",
    "CacheConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "PricesConfig",
    "RetrainConfig",
    "TrackingConfig",
    "TrainingConfig",
    "WorkersConfig",
    "change_keys",
    "check_extras",
    "load_config",
    "parse_config",
    "parse_overrides",
]

Mode = Literal[
    "full",
    "freeze",
    "cached",
    "performance",
    "efficiency",
    "hf_trainer",
    "hf_trainer_grouped",
    "hf_trainer_early",
    "hf_trainer_lora",
]
MODES: tuple[str, ...] = get_args(Mode)
PEER_MODES = tuple(mode for mode in MODES if mode.startswith("hf_trainer"))
"""Modes that train with Hugging Face's ``Trainer``, for comparison."""
OWN_MODES = tuple(mode for mode in MODES if mode not in PEER_MODES)
CACHING_MODES: tuple[str, ...] = ("cached", "performance", "efficiency")
"""Modes that may read and write activation sets."""
FREEZING_MODES: tuple[str, ...] = ("freeze", *CACHING_MODES)
"""Modes that freeze blocks."""
CHOOSING_MODES: tuple[str, ...] = ("performance", "efficiency")
"""Modes that choose each epoch's number of workers."""


def _without_secret(uri: str) -> str:
    """Configurations are logged, so no URI in them may carry a password."""
    if USERINFO.search(uri):
        raise ValueError(SECRET_MESSAGE)
    return uri


def _absolute(uri: str) -> str:
    """A path without a scheme becomes absolute, so that a change of folder changes nothing."""
    return uri if "://" in uri else str(Path(_expanded(uri)).absolute())


def _expanded(path: str) -> str:
    """A path in somebody's home, ``~/...``, with the home's name."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{path.split('/')[0]!r} is nobody's home on this machine") from error


def _text_encoding(name: str) -> str:
    try:
        "".encode(name)
    except (LookupError, UnicodeError, TypeError, ValueError) as error:
        raise ValueError(
            "no encoding of text has this name; utf-8, utf-16, latin-1 and cp1252 are some"
        ) from error
    return name


def _absolute_sqlite(uri: str) -> str:
    prefix = "sqlite:///"
    return prefix + _absolute(uri.removeprefix(prefix)) if uri.startswith(prefix) else uri


def _ordered_steps(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    starts = [start for start, _ in steps]
    if not steps or starts[0] != 0.0 or starts != sorted(set(starts)) or starts[-1] >= 1.0:
        raise ValueError("shares of the steps must start at 0.0, grow, and stay below 1.0")
    if min(factor for _, factor in steps) < 0:
        raise ValueError("factors must not be negative")
    return steps


def _on_or_off(value: object) -> object:
    """YAML reads a bare `on` as true and `off` as false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _with_commas(names: object) -> object:
    return ", ".join(map(str, names)) if isinstance(names, list) else names


def _at_least_one(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not names:
        raise ValueError("a list of files must name one or more")
    return names


def _named_policy(section: object) -> object:
    """A section that names no policy is the default one's."""
    if not isinstance(section, dict):
        return section
    return {"policy": DEFAULT_POLICY.model_fields["policy"].default, **section}


def _sound_fold(text: str) -> str:
    Fold.parse(text)
    return text


Uri = Annotated[str, AfterValidator(_without_secret)]
Source = Annotated[Uri, AfterValidator(_expanded), Field(min_length=1)]
Sources = Annotated[Source | tuple[Source, ...], AfterValidator(_at_least_one)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        json_schema_extra=numbers_as_texts,
    )


class ModelConfig(_Section):
    """The pre-trained model."""

    name: str = Field(
        min_length=1,
        description="hub id, folder, or `package:NAME/FOLDER` inside an installed package",
    )
    allow_new_weights: bool = Field(
        False,
        description="train a model some of whose embeddings or blocks have no weights, or weights "
        "of another size: they are drawn at random; a new head, or pooler, is always allowed",
    )


class DataConfig(_Section):
    """Where the examples come from and how they are tokenized and batched."""

    train: Sources = Field(
        description="CSV, JSON lines, Parquet or Arrow file (path or any fsspec URL, packed or "
        "not), a pattern (`s3://bucket/part-*.csv.gz`) or a list of such files, a folder of them "
        "or of `save_to_disk`, a hub data set as `NAME[CONFIGURATION]@REVISION:SPLIT` "
        "(`ag_news`, `nyu-mll/glue[mrpc]:train`; without a revision, the one that the store saw "
        f"first), or one that is built in (`{'`, `'.join(BUILT_IN)}`)",
    )
    test: Sources | None = Field(None, description="the same; read for scoring once, at the end")
    validation: Sources | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1,
        description="the same, or the fraction of the training set held out: the rows whose text "
        "has a hash below it, so that no other row and no seed changes a row's side",
    )
    text: str | None = Field(
        None, min_length=1, description="column with the text; default: the task's, mostly `text`"
    )
    text_pair: str | None = Field(
        None, min_length=1, description="column with a second text, where a row is a pair of texts"
    )
    choices: Annotated[str, BeforeValidator(_with_commas)] | None = Field(
        None,
        min_length=1,
        description="column with a list of choices, or the columns of the choices (a list, or "
        "with commas between them); default: the task's",
    )
    image: str | None = Field(
        None, min_length=1, description="column with the picture; default: the task's"
    )
    label: str | None = Field(
        None,
        min_length=1,
        description="column with what is to be answered; default: the task's, mostly `label`. "
        "Labels are text (`0.0` is not `0`), without the white space around them; what else a "
        "task reads stands with it",
    )
    encoding: Annotated[str, AfterValidator(_text_encoding)] = Field(
        "utf-8", description="of CSV and JSON files: `utf-8`, `latin-1`, `cp1252`, ..."
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="column of the training set with what a row is a part of (author, source, "
        "file): rows of one group are held out together, by the hash of the group",
    )
    fold: Annotated[str, AfterValidator(_sound_fold)] | None = Field(
        None,
        description="instead of `validation`: `1/5` validates on the first of five folds of the "
        "training rows and trains on the others, by the hash of their text or group; one set of "
        "all rows serves all folds, see `search.folds`",
    )
    max_length: int = Field(128, ge=2, description="longest example, in tokens; cut beyond")
    limit: int | None = Field(
        None,
        ge=2,
        description="training examples used, validation included (a sample by hash, the same "
        "for every seed)",
    )
    test_limit: int | None = Field(None, ge=1, description="test examples used (such a sample)")
    batching: Literal["grouped", "random"] = Field(
        "grouped",
        description="`grouped`: similar lengths share a batch, within shuffled windows; "
        "`random`: a plain shuffle",
    )

    @property
    def columns(self) -> dict[str, str | None]:
        """Those that are named here, by their keys."""
        keys = ("text", "text_pair", "choices", "image", "label")
        return {key: getattr(self, key) for key in keys}

    @model_validator(mode="after")
    def _group_decides(self) -> "DataConfig":
        if self.group is not None and isinstance(self.validation, str | tuple):
            raise ValueError(
                f"group {self.group!r} decides which rows are held out, and none are where "
                f"validation is {self.validation!r}. Leave one of them out"
            )
        return self


class TrainingConfig(_Section):
    """Optimization (AdamW)."""

    epochs: float = Field(
        4,
        gt=0,
        description="passes over the training set, the schedule compressed to them; the last may "
        "be a part of one (`0.5`: half of the examples, once)",
    )
    batch_size: int = Field(16, ge=1, description="examples per step, over all workers")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate")
    schedule: Literal["linear", "constant", "steps", "wsd"] = Field(
        "linear",
        description="how the learning rate goes on after the warm-up; `wsd` (warm-up, stable, "
        "decay) stays at the peak and falls in the last `decay_ratio` of the steps, so that "
        "trainings of different lengths have their first epochs in common, which a search trains "
        "once",
    )
    steps: Annotated[list[tuple[float, float]], AfterValidator(_ordered_steps)] = Field(
        [(0.0, 1.0), (0.3, 0.7), (0.6, 0.4)],
        description="for `schedule: steps`: pairs (share of all steps, factor); the default is "
        "the paper's",
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="for `schedule: wsd`: share of all steps in which it falls"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, not on biases and norms")
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of all steps with a rising learning rate"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradient clipping; 0 turns it off")
    seed: int = Field(0, ge=0, lt=2**31, description="of the head, the order and the dropout")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: bf16 autocast where the device computes in it, else fp32"
    )
    compile: bool = Field(
        False,
        description="`torch.compile` the blocks that train, anew at every boundary; needs a C++ "
        "compiler, and draws other dropout than without",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep of each block that trains only what goes into it, and compute the block "
        "again in the backward pass: the same numbers, less memory, about a third more time; for "
        "models that Transformers can do it with",
    )
    pooled_last_block: bool = Field(
        True,
        description="compute the last block only at the position that the head reads, where the "
        "model allows it: the same outputs and gradients for less work; false computes it whole, "
        "and draws other dropout",
    )
    augmentation: Literal["flip", "shift"] | None = Field(
        None,
        description="of pictures, drawn anew whenever one is trained on: `flip` (mirrored or not) "
        "or `shift` (that, and moved by up to an eighth); nothing is cached then, as the frozen "
        "blocks put out something else in every epoch",
    )
    stop: Literal["settled", "never"] | None = Field(
        None,
        description="`settled`: the learning rate falls to the end of its schedule every two "
        "epochs (three at `freezing.tolerance: 0`), and training stops there once more would gain "
        "too little: `epochs` is the most; "
        "`never`: all of `epochs` in one schedule; default: `settled` where blocks freeze by a "
        "policy that says when (`frozen_start`), else `never`",
    )
    score: str | None = Field(
        None,
        description="the main score, on validation: it chooses the epoch that is published, and "
        "`compare` shows and ranks by it; default: the first of the task's, see [Tasks](#tasks). "
        "For classes of very different sizes `f1_macro` or `matthews`; with F1 and `matthews` a "
        "training that may stop goes on while the loss or the score gains, else the loss alone "
        "decides",
    )

    @property
    def num_epochs(self) -> int:
        """Epochs that are begun."""
        return math.ceil(self.epochs)


class AdapterConfig(_Section):
    """LoRA (PEFT) on the blocks that train, instead of their own weights; none without the section.

    The head trains whole. Blocks below the boundary have no adapters, those that freeze keep
    theirs. `training.learning_rate` is used as it is given: for LoRA ten times the rate of whole
    weights is usual (5e-4).
    """

    kind: Literal["lora"] = Field("lora", description="of the adapters")
    rank: int = Field(8, ge=1, description="of the addition to a layer's weights")
    alpha: int = Field(16, ge=1, description="the addition is scaled by `alpha / rank`")
    dropout: float = Field(0.0, ge=0, lt=1, description="on what the addition reads")
    target_modules: list[str] | None = Field(
        None,
        min_length=1,
        description="ends of the names of the linear layers that get one, as `query`; default: "
        "all of the blocks",
    )


class CacheConfig(_Section):
    """Activation sets of the frozen prefix; for the modes `cached`, `performance`, `efficiency`.

    `cache.dtype` also rounds what the prefix puts out in mode `freeze`, so that both train on the
    same numbers.
    """

    dtype: Literal["bf16", "fp32", "int8"] = Field(
        "bf16",
        description="type in which hidden states at the boundary are kept; `int8` with one scale "
        "a token",
    )
    mode: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = Field(
        "auto", description="write a set: when an estimate says that it pays, always, or never"
    )
    device_bytes: int | None = Field(
        None,
        ge=0,
        description="most bytes of activations held in GPU memory; default: half of what is free "
        "and not needed for training",
    )
    host_bytes: int | None = Field(
        None,
        ge=0,
        description="most bytes of activations held in host memory; default: half of what is free",
    )
    disk_bytes: int | None = Field(
        None,
        ge=0,
        description="most bytes of activations held in a temporary local file when the store is "
        "elsewhere; default: half of what is free",
    )
    share: bool = Field(
        True, description="use and leave sets for other runs; else this run pays for its own"
    )
    max_bytes: int | None = Field(
        None,
        ge=0,
        description="largest total of all sets in the store (without `share`: of this run): for a "
        "new one the least recently used go that no live run reads; one that still would go beyond "
        "it is not written, and the blocks below run in every epoch",
    )


class WorkersConfig(_Section):
    """On how many devices an epoch is trained: GPUs, or CPU cores."""

    max: int = Field(
        1,
        ge=1,
        description="most workers; modes `full`, `freeze` and `cached` use all of them, "
        "`performance` and `efficiency` choose before each epoch; must divide "
        "`training.batch_size`",
    )
    min: int = Field(
        1, ge=1, description="fewest with which an epoch that lost workers is tried again"
    )
    launcher: Literal["auto", "torchrun", "ray"] = Field(
        "auto",
        description="`torchrun`: processes on this machine; `ray`: Ray Train, on one or many "
        "machines; `auto`: one worker in this process, several by torchrun",
    )
    ray_address: str | None = Field(
        None, description="of a running Ray cluster; without one a local cluster is started"
    )
    autoscaling: bool = Field(
        False,
        description="whether the cluster at `ray_address` starts machines when workers are wanted: "
        "they are waited for, up to ten minutes; else it must have a device for each of `max`",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of a worker; default: one where `max` is more than one, else all",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="most examples of a worker in one backward pass; a larger share of a batch is "
        "accumulated",
    )
    deadline_seconds: float | None = Field(
        None,
        gt=0,
        description="for `performance` and `efficiency`: the cheapest plan that takes no longer",
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="for `performance` and `efficiency`: the fastest plan that costs no more",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "WorkersConfig":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not be more than max ({self.max})")
        if self.deadline_seconds is not None and self.budget_usd is not None:
            raise ValueError("give deadline_seconds or budget_usd, not both")
        return self


class TrackingConfig(_Section):
    """MLflow."""

    uri: Annotated[Uri, AfterValidator(_absolute_sqlite)] = Field(
        "sqlite:///.autofreeze/mlflow.db", description="tracking URI"
    )
    experiment: str = Field("autofreeze", min_length=1, description="experiment name")


class RetrainConfig(_Section):
    """`autofreeze retrain`: train again when the data has changed, and keep the better model."""

    model: str | None = Field(
        None,
        min_length=1,
        pattern=r"^[^/:]+$",
        description="registered model in MLflow; default: `tracking.experiment`",
    )
    start: Literal["base", "champion"] = Field(
        "base",
        description="begin with the weights of `model.name`, or with those of the registered "
        "champion, where there is one",
    )
    margin: float = Field(
        0.01,
        ge=0,
        description="a new version becomes the champion when the lower end of the 95 % interval of "
        "its difference on the test rows is above minus this, in the unit of the score (0.01 is "
        "one point of accuracy)",
    )
    keep_versions: int | None = Field(
        None,
        ge=1,
        description="`autofreeze runs gc` deletes older versions than so many newest ones from "
        "MLflow's registry, but for those with an alias, as the champion; default: none",
    )


class PricesConfig(_Section):
    """What things cost, in US dollars; no price is fetched."""

    gpu: str | None = Field(
        None,
        min_length=1,
        description="take prices from the table: `aws/h100`, ...; a name that is not in it shows "
        "those that are",
    )
    spot: bool = Field(False, description="the spot price of `gpu` instead of the one on demand")
    table: Annotated[str, AfterValidator(_absolute)] | None = Field(
        None,
        description="YAML file like the `prices.yaml` of `autofreeze examples`, whose entries "
        "win over those there",
    )
    gpu_hour_usd: float | None = Field(
        None, ge=0, description="one worker for one hour; default: of `gpu`, else 1.0"
    )
    storage_gb_month_usd: float | None = Field(
        None,
        ge=0,
        description="one GB (1e9 bytes) of activations kept for a month; default: of the cloud of "
        "`gpu`, else 0.023",
    )
    put_usd_per_1000: float | None = Field(
        None, ge=0, description="a thousand writes to the store; default: the same, else 0.005"
    )
    get_usd_per_1000: float | None = Field(
        None, ge=0, description="a thousand reads from the store; default: the same, else 0.0004"
    )
    egress_usd_per_gb: float | None = Field(
        None,
        ge=0,
        description="one GB read by workers that are not in the store's cloud; default: 0, as for "
        "workers beside it; the table has the clouds' prices",
    )


def _any_policy(schema: dict[str, Any]) -> None:
    """Keys that all policies have fit each of them, so not one alone; Prefect checks by this."""
    schema["anyOf"] = schema.pop("oneOf")


class Config(_Section):
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
    freezing: Annotated[Policy, Field(discriminator="policy"), BeforeValidator(_named_policy)] = (
        Field(default_factory=DEFAULT_POLICY, json_schema_extra=_any_policy)
    )
    adapter: AdapterConfig | None = Field(
        None,
        description="train adapters on the blocks instead of their weights, in the modes `full`, "
        "`freeze`, `cached` and `hf_trainer_lora`; see [`adapter`](#adapter)",
    )
    cache: CacheConfig = Field(default_factory=CacheConfig)
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    store: Annotated[Uri, AfterValidator(_absolute)] = Field(
        ".autofreeze/store", description="root of everything stored: a folder, `s3://...`"
    )
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    prices: PricesConfig = Field(default_factory=PricesConfig)
    retrain: RetrainConfig = Field(default_factory=RetrainConfig)
    search: SearchConfig | None = Field(
        None, description="for the command `search` alone; see [`search`](#search)"
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> "Config":
        size, most = self.training.batch_size, self.workers.max
        if size % most:
            fewer = next(count for count in range(most, 0, -1) if size % count == 0)
            raise ValueError(
                f"workers.max {most} does not divide training.batch_size {size}, and every worker "
                f"takes an equal share of each batch. Take {fewer} workers, or "
                f"a batch size that is a multiple of {most}"
            )
        return self

    @model_validator(mode="after")
    def _can_fold(self) -> "Config":
        if self.data.fold is not None and self.mode in PEER_MODES:
            raise ValueError(
                f"data.fold: mode {self.mode} trains on whole files. Leave it out, or use another "
                "mode"
            )
        return self

    @model_validator(mode="after")
    def _can_adapt(self) -> "Config":
        if self.adapter is not None and self.mode in CHOOSING_MODES:
            raise ValueError(
                f"adapter: mode {self.mode} chooses workers from measurements that know no "
                "adapters. Use full, freeze or cached"
            )
        return self

    @model_validator(mode="after")
    def _known_score(self) -> "Config":
        try:
            self.main_score  # noqa: B018
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _can_augment(self) -> "Config":
        from afcore.tasks.known_tasks import TASKS

        kind, known = self.training.augmentation, TASKS[self.task].augmentations
        if kind is not None and kind not in known:
            raise ValueError(
                f"training.augmentation {kind!r} is not for task {self.task}. Leave it out"
            )
        return self

    @model_validator(mode="after")
    def _known_settings(self) -> "Config":
        if self.task_settings:
            from afcore.tasks.known_tasks import task_class  # torch, which --help needs not

            try:
                task_class(self.task).check_settings(self.task_settings)
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
        return parse_config(tree, source="replace")


def load_config(path: str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply ``key.path=value`` overrides (values are YAML too).

    With another ``freezing.policy`` the file's keys that it does not have are left behind.

    Raises:
        ConfigError: when the file cannot be read or anything in it is not allowed.
    """
    tree = read_mapping(
        Path(path),
        "the configuration",
        "Give the path of a YAML file; `autofreeze examples` writes some.",
    )
    change_keys(tree, parse_overrides(overrides, "--set"), source="--set")
    return parse_config(tree, source=path)


def parse_overrides(overrides: Iterable[str], source: str) -> dict[str, Any]:
    """``key.path=value`` each, as values by their keys; values are YAML.

    Args:
        overrides: of the user.
        source: what the user wrote them behind, in messages.

    Raises:
        ConfigError: for one of another form.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{source} {override!r} is not of the form key.path=value")
        try:
            changes[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{source} {override!r}: the value is not YAML") from error
    return changes


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Validate a tree of plain values.

    Raises:
        ConfigError: naming each offending key, what was got and what is allowed.
    """
    return parse(Config, tree, source)


def check_extras(config: Config) -> None:
    """Make sure that the optional packages that a training needs are installed.

    Raises:
        ConfigError: when not.
    """
    if config.mode == "hf_trainer_lora":
        require_package("peft", "mode hf_trainer_lora")
    if config.adapter is not None and config.mode not in PEER_MODES:
        require_package("peft", f"adapter.kind: {config.adapter.kind}")
    if config.workers.launcher == "ray" and config.mode not in PEER_MODES:
        require_package("ray", "workers.launcher: ray")


def change_keys(tree: dict[str, Any], changes: Mapping[str, Any], source: str) -> None:
    """Change a tree of plain values by dotted keys, in place.

    With another ``freezing.policy`` the keys that it does not have are left behind.

    Raises:
        ConfigError: where a key goes through a value that is no section.
    """
    if "freezing.policy" in changes:
        _leave_behind(tree, changes["freezing.policy"])
    for key, value in changes.items():
        _set(tree, key, value, source)


def _leave_behind(tree: dict[str, Any], policy: object) -> None:
    """Drop what another policy than ``policy`` was configured with.

    A key that neither of them has stays, and is refused.
    """
    kinds = {kind.model_fields["policy"].default: kind for kind in get_args(Policy)}
    section = _named_policy(tree.get("freezing"))
    if not isinstance(section, dict) or not isinstance(policy, str):
        return
    before, after = kinds.get(section["policy"]), kinds.get(policy)
    if before and after:
        left = before.model_fields.keys() - after.model_fields
        tree["freezing"] = {key: value for key, value in section.items() if key not in left}


def _set(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    *parents, leaf = key.split(".")
    for name in parents:
        if tree.get(name) is None:
            tree[name] = {}
        child = tree[name]
        if not isinstance(child, dict):
            raise ConfigError(f"{source}: {key}: {name!r} is a value, not a section")
        tree = child
    tree[leaf] = value
