"""What a run is named by, and where everything of it lies in the store.

::

    hub/<name>                      commit that a hub data set's name stands for in this store
    data/<digest>/                  tokens (shared by all runs)
    activations/<key>/              activation sets (shared by all runs)
    activations_by_prefix/<digest>/ notes of those whose recipes differ in the data alone
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

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from afcore.compute import Compute, choose_compute
from afcore.config import PEER_MODES, Config
from afcore.data.examples import Examples
from afcore.digest import ContentDigest, RecipeDigest
from afcore.distributed import ALONE, WorkerGroup
from afcore.errors import IntegrityError, ModelError, StoreError
from afcore.freezing.policy import FreezeState
from afcore.model.adapters import LoraSettings, add_adapters
from afcore.model.pretrained import build_model, load_model
from afcore.model.processors import load_processor
from afcore.model.quantization import place_model
from afcore.model.split_model import SplitModel, adapter_part
from afcore.model.stacks import ModelStructure
from afcore.runs.checkpoint import weight_digests
from afcore.runs.common_inputs import CommonInputs
from afcore.storage.lease import Lease, check_holder
from afcore.storage.objects import Storage
from afcore.storage.store_version import mark_store_version
from afcore.tasks.known_tasks import parse_task
from afcore.tasks.stored_tokens import PreparedData, open_prepared
from afcore.tasks.task import Task
from afcore.trainee import Trainee

__all__ = [
    "Run",
    "RunRecord",
    "TrackedAs",
    "begin_run",
    "check_lease",
    "find_run",
    "lease_folder",
    "load_model_of",
    "lora_settings",
    "open_run",
    "read_record",
    "record_key",
    "result_key",
    "run_folder",
    "run_lease",
    "trainings_of",
]

_log = logging.getLogger(__name__)
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
    """``tracked.json``: where MLflow has a training; and the flow runs that worked on it last."""

    model_config = ConfigDict(frozen=True)

    uri: str
    experiment: str
    mlflow_run_id: str
    flow_run_ids: list[str] = []


@dataclass(frozen=True)
class Run:
    """A run, open: its record, its store, and what others of this process have opened."""

    storage: Storage
    record: RunRecord
    common: CommonInputs | None = None

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

    def note_tracking(self, mlflow_run_id: str, flow_run_ids: Sequence[str] = ()) -> None:
        """Record where MLflow has this training, and who works on it; who holds the lease calls."""
        tracking = self.config.tracking
        tracked = TrackedAs(
            uri=tracking.uri,
            experiment=tracking.experiment,
            mlflow_run_id=mlflow_run_id,
            flow_run_ids=list(flow_run_ids),
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
        digest = self.record.data
        data = None if self.common is None else self.common.data(digest)
        data = data or open_prepared(self.storage, digest)
        return replace(data.of_length(self.record.num_states), task=self.task)

    def pretrained(self) -> SplitModel:
        """The model before the first step.

        Raises:
            ModelError: when the pre-trained weights are no longer those the run began with.
        """
        record, model = self.record, None
        if self.common is not None:
            model = self.common.model(record.weights, record.architecture, record.task)
        if model is not None:
            split = self._split(model)
        else:
            split = self._split(load_model_of(self.config, record.task))
            if weight_digests(split) != record.weights:
                raise ModelError(
                    f"the weights of {self.config.model.name!r} have changed since run "
                    f"{record.run_id} began"
                )
        boundary = self.first_freeze.boundary
        return self.adapted(self.placed(split, boundary), boundary)

    def architecture(self, parts: Collection[str] = ()) -> SplitModel:
        """The model without its weights, on the CPU.

        With adapters as ``parts`` of a checkpoint have them.
        """
        model = build_model(self.record.architecture, self.record.task.auto_class)
        split = self._split(model)
        blocks = [i for i in range(split.num_blocks) if adapter_part(i) in parts]
        return self._with_adapters(split, blocks) if blocks else split

    def placed(self, split: SplitModel, boundary: int) -> SplitModel:
        """The model on its device; blocks that were frozen from the start quantized, if wanted.

        Those that were trained, and froze later, keep their own weights.
        """
        lowest = min(boundary, self.first_freeze.boundary)
        return place_model(split, self.compute.device, lowest, self.config.quantization)

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


def result_key(run: Run) -> str:
    """Key of a finished run's report."""
    return f"{run.folder}/result.json"


def run_lease(storage: Storage, run_id: str, since: float | None = None) -> Lease:
    """The right to work on a run; work began at ``since``, by :func:`time.monotonic`."""
    return Lease(storage, lease_folder(run_id), f"run {run_id}", since)


def begin_run(
    storage: Storage,
    record: RunRecord,
    *,
    fresh: bool = False,
    common: CommonInputs | None = None,
) -> Run:
    """Begin the run, or go on with the training that was begun under this name.

    Where to log and at what price may differ between attempts; what was found by trying the model
    stays as it was found first. The caller holds the run's lease.

    Args:
        storage: where.
        record: as identified now.
        fresh: leave an earlier training behind and delete what it stored.
        common: what other runs of this process have opened.
    """
    mark_store_version(storage)
    found, known = _earlier(storage, record.run_id)
    if len(known) == 1 and not fresh:
        kept: dict[str, Any] = {"training_id": known[0]}
        if found is not None:  # what might come out otherwise if it was tried again
            kept |= {"structure": found.structure, "uncacheable": found.uncacheable}
        record = record.model_copy(update=kept)
    elif known and not fresh:
        raise IntegrityError(
            f"the record {storage.uri(record_key(record.run_id))} is damaged, and {len(known)} "
            "trainings lie beside it. Train anew with --fresh."
        )
    storage.put(record_key(record.run_id), record.model_dump_json().encode())
    for training_id in known if fresh else []:
        storage.delete_folder(f"{run_folder(record.run_id)}/{training_id}")
    return Run(storage, record, common)


def _earlier(storage: Storage, run_id: str) -> tuple[RunRecord | None, list[str]]:
    """``run.json``, and the training that it names; where it is damaged, those that lie beside."""
    try:
        record = read_record(storage, record_key(run_id), RunRecord)
        return record, [] if record is None else [record.training_id]
    except IntegrityError:
        _log.warning("%s is damaged; making it anew", storage.uri(record_key(run_id)))
        return None, trainings_of(storage, run_id)


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
    """Open a run that was begun; its store is waited for when it does not answer.

    Raises:
        StoreError: when there is none of this name.
        IntegrityError: when its record is damaged.
    """
    run = find_run(Storage(store, waits=True), run_id)
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


def load_model_of(config: Config, task: Task) -> Any:
    """The pre-trained model with the task's head, on the CPU; see :func:`.load_model`."""
    return load_model(
        config.model.name,
        task.auto_class,
        config.training.seed,
        allow_new=config.model.allow_new_weights,
        **({"pad_token_id": task.pad_token_id} if task.processor == "tokenizer" else {}),
        **task.head_settings,
    )
