"""What a run is named by, and where everything of it lies in the store.

::

    hub/<name>                      commit that a hub data set's name stands for in this store
    data/<digest>/                  tokens (shared by all runs)
    activations/<key>/              activation sets (shared by all runs)
    runs/<run id>/lease/            who works or worked on it
                  run.json          what it is; which training counts
                  <training id>/epochs/001/started.json     in which order
                                           partial.json     where it was stopped
                                           lost.json        tries that workers were lost in
                                           checkpoint.json  after training: how to go on
                                           report.json      it is done
                                       000/next.json        how to begin
                                profile.json  what was measured before epoch 1
                                parts/      checkpoint parts by content
                                activations/  sets of this run alone (cache.share: false)
                                tracked.json  where MLflow has it
                                result.json   the run is done

The run id is the digest of all that decides the weights it ends with, so the same command finds
the same run. Training anew is one write: ``run.json`` then names another training id.
"""

import contextlib
import importlib.metadata
import logging
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from afcore.compute import Compute, choose_compute
from afcore.config import FREEZING_MODES, PEER_MODES, Config, PricesConfig
from afcore.data.examples import Examples
from afcore.data.held_rows import HeldRows
from afcore.digest import ContentDigest, RecipeDigest, recipe_digest
from afcore.distributed import ALONE, WorkerGroup
from afcore.errors import ConfigError, IntegrityError, ModelError, StoreError
from afcore.freezing.policy import FreezeState
from afcore.model.adapters import LoraSettings, add_adapters
from afcore.model.checks import (
    num_pretrained_blocks,
    unused_parameters,
    verify_finite,
    verify_pooled,
    verify_split,
)
from afcore.model.compile import check_compiler
from afcore.model.own_settings import changed_setting, own_settings
from afcore.model.pretrained import build_model, forward_settings, load_model
from afcore.model.processors import load_processor
from afcore.model.split_model import Batch, SplitModel, adapter_part
from afcore.model.stacks import ModelStructure
from afcore.numerics import NUMERICS, numerics_of
from afcore.prices import resolve_prices
from afcore.runs.checkpoint import weight_digests
from afcore.runs.fit import check_fit, check_length
from afcore.storage.lease import Lease, check_holder
from afcore.storage.objects import Storage
from afcore.tasks.known_tasks import parse_task, task_class
from afcore.tasks.prepare import DataSources, PreparedData, open_prepared, prepare
from afcore.tasks.task import Task
from afcore.trainee import Trainee

__all__ = [
    "Run",
    "RunRecord",
    "TrackedAs",
    "begin_run",
    "check_lease",
    "decisive_settings",
    "find_run",
    "identify_run",
    "lease_folder",
    "lora_settings",
    "open_run",
    "read_record",
    "record_key",
    "result_key",
    "run_folder",
    "run_lease",
    "trainings_of",
]

_SPLIT_TOLERANCE = 1e-4
_log = logging.getLogger(__name__)
# Room differs between machines; what it changes, each epoch's order, is in its plan.
_BUDGETS = {"device_bytes", "host_bytes", "disk_bytes", "max_bytes"}
_WHERE = {"min", "launcher", "ray_address", "autoscaling"}
_VERSIONED = ("torch", "transformers", "autofreeze")
_WITHOUT_ADAPTERS = tuple(mode for mode in PEER_MODES if mode != "hf_trainer_lora")
_PEER_VERSIONED = ("accelerate", "peft")  # what the Trainer stands on
_Record = TypeVar("_Record", bound=BaseModel)


def _as_task(value: object) -> object:
    return parse_task(value) if isinstance(value, dict) else value


class RunRecord(BaseModel):
    """``run.json``. ``training_id`` is new whenever the run is trained anew.

    ``num_states`` are the hidden states of an example that is no sequence; ``revisions`` the
    commits of the splits that are hub data sets.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    training_id: str
    config: Config
    data: RecipeDigest
    task: Annotated[SerializeAsAny[Task], BeforeValidator(_as_task)]
    architecture: dict[str, Any]
    num_blocks: int
    num_pretrained: int
    weights: dict[str, ContentDigest]
    precision: str
    versions: dict[str, str]
    uncacheable: str | None
    structure: ModelStructure
    num_states: int | None = None
    revisions: dict[str, str] = {}


class TrackedAs(BaseModel):
    """``tracked.json``: where MLflow has a training."""

    model_config = ConfigDict(frozen=True)

    uri: str
    experiment: str
    mlflow_run_id: str


@dataclass(frozen=True)
class Run:
    """A run, open: its record and its store."""

    storage: Storage
    record: RunRecord

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.record.config

    @property
    def folder(self) -> str:
        """Of everything that is this training's alone."""
        return f"{run_folder(self.record.run_id)}/{self.record.training_id}"

    @property
    def parts_folder(self) -> str:
        """Of checkpoint parts."""
        return f"{self.folder}/parts"

    @property
    def activations_folder(self) -> str:
        """Of activation sets this run may read and write."""
        return "activations" if self.config.cache.share else f"{self.folder}/activations"

    @property
    def tracked_key(self) -> str:
        """Key of :class:`TrackedAs`."""
        return f"{self.folder}/tracked.json"

    def note_tracking(self, mlflow_run_id: str) -> None:
        """Record where MLflow has this training; the caller holds the lease."""
        tracking = self.config.tracking
        tracked = TrackedAs(
            uri=tracking.uri, experiment=tracking.experiment, mlflow_run_id=mlflow_run_id
        )
        self.storage.put(self.tracked_key, tracked.model_dump_json().encode())

    def epoch_key(self, epoch: int, name: str) -> str:
        """Key of an epoch's record, by its name."""
        return f"{self.folder}/epochs/{epoch:03d}/{name}.json"

    @property
    def compute(self) -> Compute:
        """Device and precision."""
        return choose_compute(self.config.training.precision)

    def trainee(self, split: SplitModel, examples: Examples, group: WorkerGroup = ALONE) -> Trainee:
        """The model on examples, as this run trains it."""
        dtype = self.config.cache.dtype
        return Trainee(split, self.task, examples, self.compute, dtype, group)

    @cached_property
    def task(self) -> Task:
        """What is learned, with the tokenizer at hand."""
        return self.record.task.bound_to(
            partial(load_processor, self.record.task.processor, self.config.model.name)
        )

    def data(self) -> PreparedData:
        """The tokens."""
        data = open_prepared(self.storage, self.record.data).of_length(self.record.num_states)
        return replace(data, task=self.task)

    def pretrained(self) -> SplitModel:
        """The model before the first step.

        Raises:
            ModelError: when the pre-trained weights are no longer those the run began with.
        """
        record = self.record
        model = _load_model(self.config, record.task)
        split = self._split(model)
        if weight_digests(split) != record.weights:
            raise ModelError(
                f"the weights of {self.config.model.name!r} have changed since run "
                f"{record.run_id} began"
            )
        model.to(self.compute.device)
        return self.adapted(split, self.first_freeze.boundary)

    def architecture(self, parts: Collection[str] = ()) -> SplitModel:
        """The model without its weights; with adapters as ``parts`` of a checkpoint have them."""
        model = build_model(self.record.architecture, self.record.task.auto_class)
        split = self._split(model.to(self.compute.device))
        blocks = [i for i in range(split.num_blocks) if adapter_part(i) in parts]
        return self._with_adapters(split, blocks) if blocks else split

    @property
    def first_freeze(self) -> FreezeState:
        """The state before the first step."""
        if not self.config.freezes:
            return FreezeState()
        return self.config.freezing.begin(self.record.num_blocks, self.record.num_pretrained)

    @property
    def lora(self) -> LoraSettings | None:
        """Of the adapters that are trained instead of the blocks' own weights."""
        return lora_settings(self.config)

    def adapted(self, split: SplitModel, boundary: int) -> SplitModel:
        """The model, whose blocks above the boundary have adapters where the run trains some."""
        if self.lora is None or self.config.mode in PEER_MODES:
            return split
        return self._with_adapters(split, range(boundary, split.num_blocks))

    def _with_adapters(self, split: SplitModel, blocks: Collection[int]) -> SplitModel:
        assert self.lora is not None
        return add_adapters(split, self.lora, blocks, self.config.training.seed)

    def _split(self, model: Any) -> SplitModel:
        """Parts as they were found when the run was named: trying anew may find others."""
        self.record.task.configure(model)
        return SplitModel(model, structure=self.record.structure)


def lora_settings(config: Config) -> LoraSettings | None:
    """Of the section ``adapter``; None without it."""
    if config.adapter is None:
        return None
    return LoraSettings(**config.adapter.model_dump(exclude={"kind"}))


def run_folder(run_id: str) -> str:
    """Folder of a run in the store."""
    return f"runs/{run_id}"


def lease_folder(run_id: str) -> str:
    """Folder of the log of who worked on a run, and how long."""
    return f"{run_folder(run_id)}/lease"


def record_key(run_id: str) -> str:
    """Key of :class:`RunRecord`."""
    return f"{run_folder(run_id)}/run.json"


def identify_run(
    config: Config, storage: Storage, held: Mapping[str, HeldRows] | None = None
) -> RunRecord:
    """Prepare the data, look at the model, and name the run; nothing of the run is written yet.

    Args:
        config: of the run.
        storage: where.
        held: rows in memory, of the splits ``train``, ``validation`` and ``test`` that they are of,
            instead of what the configuration names.

    Raises:
        UserError: for data, a model or settings that cannot be used together.
    """
    prices = resolve_prices(config.prices)  # a price that is missing is said now
    compute = choose_compute(config.training.precision)
    if config.training.compile:
        check_compiler(compute.device)
    processor = load_processor(task_class(config.task).processor, config.model.name)
    data = prepare(
        storage, processor, config.task, data_sources(config, held), config.data.max_length
    )
    task = data.task
    for warning in task.warnings(data.validation, config.main_score):
        _log.warning("%s.", warning)
    model = _load_with_padding(config, task, processor)
    task = task.fitted(model)
    data = replace(data, task=task)
    settings = own_settings(model)
    if task.processor == "tokenizer":
        check_length(config.data.max_length, config.model.name, model, processor)
    check_fit(config.model.name, model, processor, data)
    split = SplitModel(model, pool=config.training.pooled_last_block)
    try:
        config.freezing.begin(split.num_blocks)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data = data.of_length(_num_states(split, data))
    uncacheable = _drawn_anew(config)
    batch = _few_examples(split, data)
    verify_finite(split, batch)
    if config.mode not in PEER_MODES:
        _log.info("last block: %s", _pooling(split))
        verify_pooled(split, batch, _SPLIT_TOLERANCE)
    if config.training.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(
            "training.gradient_checkpointing: Transformers cannot do it with "
            f"{type(model).__name__}. Leave it out, or lower workers.micro_batch"
        )
    if config.mode in FREEZING_MODES and uncacheable is None:
        # A prefix that is no function of the example cannot be cached, but may freeze.
        half = max(1, split.num_blocks // 2)
        uncacheable = verify_split(split, batch, half, _SPLIT_TOLERANCE)
        uncacheable = uncacheable or changed_setting(settings, own_settings(model))
    if config.workers.max > 1:
        _check_averaging(split, batch)
    weights, num_pretrained = weight_digests(split), num_pretrained_blocks(split)
    _check_adapters(config, split, batch, num_pretrained)
    versions = _versions(config)
    attention = model.config._attn_implementation
    architecture = {**model.config.to_dict(), "attn_implementation": attention}
    run_id = recipe_digest(
        {
            "schema": 3,
            "numerics": _numerics(config),
            "config": decisive_settings(config),
            "architecture": forward_settings(architecture),
            "data": data.digest,
            "task": task.model_dump(),
            "weights": weights,
            "precision": compute.precision,
            "device": compute.device.type,
            "versions": versions,
        }
    )[:16]
    return RunRecord(
        run_id=run_id,
        training_id=uuid.uuid4().hex[:16],
        # In dollars: workers elsewhere have no table of the user's.
        config=config.model_copy(update={"prices": PricesConfig(**vars(prices))}),
        data=data.digest,
        task=task,
        architecture=architecture,
        num_blocks=split.num_blocks,
        num_pretrained=num_pretrained,
        weights=weights,
        precision=compute.precision,
        versions=versions,
        uncacheable=uncacheable,
        structure=split.structure,
        num_states=data.train.fixed_length,
        revisions=dict(data.revisions),
    )


def _check_adapters(config: Config, split: SplitModel, batch: Batch, num_pretrained: int) -> None:
    """Add them once, to see that they can be; the model is looked at no more afterwards."""
    settings = lora_settings(config)
    if settings is None or config.mode in PEER_MODES:
        return
    begins = config.freezing.begin(split.num_blocks, num_pretrained)
    first = begins.boundary if config.freezes else 0
    adapted = add_adapters(split, settings, range(first, split.num_blocks), config.training.seed)
    verify_pooled(adapted, batch, _SPLIT_TOLERANCE)


def _drawn_anew(config: Config) -> str | None:
    if config.training.augmentation is None:
        return None
    return (
        f"training.augmentation: {config.training.augmentation} draws each picture anew in every "
        "epoch, so what frozen blocks put out is another each time"
    )


def data_sources(config: Config, held: Mapping[str, HeldRows] | None = None) -> DataSources:
    """What is prepared, as the configuration says; instead of it what is in memory."""
    names = {field.name for field in fields(DataSources)}
    given: dict[str, Any] = config.data.model_dump(include=names - {"columns", "settings"})
    given |= {"columns": config.data.columns, "settings": config.task_settings}
    return DataSources(**given | dict(held or {}))


def result_key(run: Run) -> str:
    """Key of a finished run's report."""
    return f"{run.folder}/result.json"


def run_lease(storage: Storage, run_id: str, since: float | None = None) -> Lease:
    """The right to work on a run; work began at ``since``."""
    return Lease(storage, lease_folder(run_id), f"run {run_id}", since)


def begin_run(storage: Storage, record: RunRecord, *, fresh: bool = False) -> Run:
    """Begin the run, or go on with the training that was begun under this name.

    Where to log and at what price may differ between attempts; what was found by trying the model
    stays as it was found first. The caller holds the run's lease.

    Args:
        storage: where.
        record: as identified now.
        fresh: leave an earlier training behind and delete what it stored.
    """
    known = _known_trainings(storage, record.run_id)
    if len(known) == 1 and not fresh:
        record = record.model_copy(
            update={"training_id": known[0], **_found_by_trying(storage, record.run_id)}
        )
    elif known and not fresh:
        raise IntegrityError(
            f"the record {storage.uri(record_key(record.run_id))} is damaged, and {len(known)} "
            "trainings lie beside it. Train anew with --fresh."
        )
    storage.put(record_key(record.run_id), record.model_dump_json().encode())
    for training_id in known if fresh else []:
        storage.delete_folder(f"{run_folder(record.run_id)}/{training_id}")
    return Run(storage, record)


def _found_by_trying(storage: Storage, run_id: str) -> dict[str, Any]:
    """What of the record might come out otherwise if it was tried again."""
    run = find_run(storage, run_id, replaceable=True)
    if run is None:
        return {}
    return {"structure": run.record.structure, "uncacheable": run.record.uncacheable}


def _known_trainings(storage: Storage, run_id: str) -> list[str]:
    """The training that ``run.json`` names; where that is damaged, those that lie beside it."""
    try:
        record = read_record(storage, record_key(run_id), RunRecord)
        return [] if record is None else [record.training_id]
    except IntegrityError:
        _log.warning("%s is damaged; making it anew", storage.uri(record_key(run_id)))
        return trainings_of(storage, run_id)


def trainings_of(storage: Storage, run_id: str) -> list[str]:
    """Ids of the trainings that lie in a run's folder."""
    folder, lease = f"{run_folder(run_id)}/", f"{lease_folder(run_id)}/"
    keys = [key for key in storage.list(run_folder(run_id)) if not key.startswith(lease)]
    below = [key.removeprefix(folder).partition("/") for key in keys]
    return sorted({name for name, slash, _ in below if slash})


def find_run(storage: Storage, run_id: str, *, replaceable: bool = False) -> Run | None:
    """The run of this name, when it was begun; ``replaceable`` as in :func:`read_record`.

    Raises:
        IntegrityError: when its record is damaged.
    """
    record = read_record(storage, record_key(run_id), RunRecord, replaceable=replaceable)
    return None if record is None else Run(storage, record)


def open_run(store: str, run_id: str) -> Run:
    """Open a run that was begun.

    Raises:
        StoreError: when there is none of this name.
        IntegrityError: when its record is damaged.
    """
    run = find_run(Storage(store), run_id)
    if run is None:
        raise StoreError(f"no run {run_id} in {store}")
    return run


def check_lease(run: Run, attempt: int) -> None:
    """Make sure, before something irreversible, that attempt ``attempt`` still holds the run.

    Raises:
        LeaseLostError: when another process took over.
    """
    check_holder(run.storage, lease_folder(run.record.run_id), attempt)


def read_record(
    storage: Storage, key: str, kind: type[_Record], *, replaceable: bool = False
) -> _Record | None:
    """A JSON record, or None when there is none.

    Args:
        storage: where.
        key: of the record.
        kind: of the record.
        replaceable: whoever reads it makes it anew when there is none: a damaged one counts as
            none.

    Raises:
        IntegrityError: when it is damaged, or of a release that wrote other records.
    """
    try:
        return kind.model_validate_json(storage.get(key))
    except KeyError:
        return None
    except ValueError as error:
        what = f"the record {storage.uri(key)} is damaged, or of another release"
        if replaceable:
            _log.warning("%s; making it anew", what)
            return None
        raise IntegrityError(f"{what}. Train anew with --fresh.") from error


def decisive_settings(config: Config) -> dict[str, Any]:
    """The settings that decide the weights a run ends with, or what it is charged for."""
    sections = {"mode", "training"}
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"score": config.main_score.name})}
    )
    if config.adapter is not None and config.mode not in _WITHOUT_ADAPTERS:
        sections |= {"adapter"}
    if config.mode in PEER_MODES:
        return config.model_dump(include=sections)
    if config.mode in FREEZING_MODES:
        sections |= {"freezing"}
    if config.caches:
        sections |= {"cache"}
    decisive = config.model_dump(
        include=sections | {"workers"}, exclude={"cache": _BUDGETS, "workers": _WHERE}
    )
    return {**decisive, "batching": config.data.batching, "dtype": config.cache.dtype}


def _load_model(config: Config, task: Task) -> Any:
    return load_model(
        config.model.name,
        task.auto_class,
        config.training.seed,
        allow_new=config.model.allow_new_weights,
        **({"pad_token_id": task.pad_token_id} if task.processor == "tokenizer" else {}),
        **task.head_settings,
    )


def _load_with_padding(config: Config, task: Task, tokenizer: Any) -> Any:
    name, padding = config.model.name, task.pad_token_id
    try:
        return _load_model(config, task)
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
    versions = {}
    for name in wanted:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # PEFT is optional
            versions[name] = importlib.metadata.version(name)
    return versions


def _numerics(config: Config) -> dict[str, int]:
    """Of the rooms whose numbers decide the run's result."""
    if config.mode in PEER_MODES:
        return numerics_of("data", "model", "peer")
    left_out = {"peer"} | (set() if config.mode in FREEZING_MODES else {"freezing", "activations"})
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
