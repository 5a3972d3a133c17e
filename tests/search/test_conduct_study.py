"""A study in this process, without Prefect: what is tried, shared, killed and gone on with."""

import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from afcore.activations.sets import list_sets
from afcore.config import Config, parse_config
from afcore.errors import (
    AutoFreezeError,
    ConfigError,
    LeaseHeldError,
    NoWinnerError,
    StoppedError,
    StoreUnreachableError,
    UserError,
)
from afcore.runs.identify import identify_run
from afcore.search import trial_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.search_report import SearchReport, TrialRow
from afcore.search.sharing_order import in_sharing_order, sharing_of
from afcore.search.study import TrialHandle
from afcore.storage.backends.local_backend import LocalBackend
from afcore.storage.objects import Storage
from tests.search.study_writes import SPOTS

VARY = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "freezing.depth": [1, 2],
}
KILL_SEEDS = [1, 2, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(3, 21))]


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> Config:
    tree = {
        **tiny_config,
        "freezing": {"policy": "static"},
        "search": {"vary": VARY, "trials": 3, "storage": f"sqlite:///{tmp_path}/optuna.db"},
    }
    tree["training"] = {**tree["training"], "epochs": 2}
    return parse_config(tree, source="test")


def elsewhere(config: Config, folder: Path) -> Config:
    return config.replace(
        **{"store": str(folder / "store"), "search.storage": f"sqlite:///{folder}/optuna.db"}
    )


def conduct(config: Config, fresh: bool = False) -> SearchReport:
    conductor = StudyConductor(prepare_study(config), fresh=fresh)
    while True:
        with conductor.next_trial() as handle:
            if handle is None:
                return conductor.report()
            conductor.train(handle)


def outcome(report: SearchReport) -> list[Any]:
    return [
        (row.number, row.state, row.values, row.score, [e.validation for e in row.epochs])
        for row in report.trials
    ]


def test_trials_share_sets_and_the_same_study_is_found_again(config: Config) -> None:
    vary = {"training.learning_rate": [1e-3, 3e-3], "freezing.depth": [2, 1]}
    config = config.replace(
        **{"search.sampler": "grid", "search.trials": None, "search.vary": vary}
    )
    report = conduct(config)
    assert report.tokens == "made"
    assert [row.state for row in report.trials] == ["finished"] * 4
    # The shallow set first: the deeper one is built from it.
    assert [row.values["freezing.depth"] for row in report.trials] == [1, 1, 2, 2]
    storage = Storage(config.store)
    assert {s.manifest.boundary: s.manifest.lineage for s in list_sets(storage)} == {
        1: [1],
        2: [2],
    }
    built = [[e.built for e in row.epochs] for row in report.trials]
    assert built == [[[1], []], [[], []], [[2], []], [[], []]]
    assert report.trials[1].shared() == "epochs: 2 trained; set read: 1"
    assert len(storage.list("searches/profiles")) == 0  # cache.mode on: nothing is measured
    again = conduct(config)
    assert outcome(again) == outcome(report)
    assert again.tokens == "found"
    anew = conduct(config, fresh=True)
    assert outcome(anew) == outcome(report)
    assert {row.shared() for row in anew.trials} == {"epochs: 2 found"}


def test_more_trials_go_on_with_the_same_study(config: Config) -> None:
    config = config.replace(**{"training.epochs": 1})
    for sampler in ("tpe", "random"):
        three = conduct(config.replace(**{"search.sampler": sampler}))
        five = conduct(config.replace(**{"search.sampler": sampler, "search.trials": 5}))
        assert outcome(five)[:3] == outcome(three)
        assert len(five.trials) == 5


def test_a_study_is_not_begun_anew_while_others_work_on_it(config: Config) -> None:
    config = config.replace(**{"training.epochs": 1, "search.trials": 1})
    prepared = prepare_study(config)
    conductor = StudyConductor(prepared)
    refused = f"study {prepared.study_id} is being worked on by another process, of which --fresh"
    with conductor.beginning(), pytest.raises(LeaseHeldError, match=refused):
        StudyConductor(prepared, fresh=True)
    with conductor.next_trial() as handle:
        assert handle is not None
        with pytest.raises(LeaseHeldError, match=refused):
            StudyConductor(prepared, fresh=True)
        assert conductor.train(handle).state == "finished"
    with conductor.publication(), pytest.raises(LeaseHeldError, match=refused):
        StudyConductor(prepared, fresh=True)
    assert StudyConductor(prepared, fresh=True).rows() == []


def test_the_winner_is_the_best_trials_run(config: Config) -> None:
    config = config.replace(**{"search.seeds": 2, "search.trials": 2, "training.epochs": 1})
    conductor = StudyConductor(prepare_study(config))
    report = conduct(config)
    best = report.best_row
    assert best is not None
    assert best.score == max(row.score for row in report.trials if row.score is not None)
    assert best.interval is not None
    assert [member.seed for member in best.members] == [0, 1]
    winner = conductor.winner()
    assert winner.search is None
    named = identify_run(winner, Storage(config.store)).run_id
    top = max(member.score for member in best.members if member.score is not None)
    assert named in {member.run_id for member in best.members if member.score == top}
    storage = Storage(config.store)
    runs = [key for key in storage.list("runs") if key.endswith(("result.json", "tracked.json"))]
    assert runs == []  # nothing was tested or published


def test_a_pruned_trial_ends_early(config: Config) -> None:
    config = config.replace(
        **{
            "search.vary": {"training.learning_rate": [0.3, 1e-9]},
            "search.score": "loss",
            "search.sampler": "grid",
            "search.pruner": "successive_halving",
            "search.seed": 1,  # the better one first, which stays as it is
        }
    )
    report = conduct(config)
    states = {row.values["training.learning_rate"]: row for row in report.trials}
    assert not report.higher_is_better
    assert states[1e-9].state == "finished"
    assert (states[0.3].state, len(states[0.3].epochs)) == ("pruned", 1)


def test_nothing_of_a_pruned_trial_is_held_while_the_next_one_begins(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrialHandle, "is_pruned", lambda *_: True)
    conductor = StudyConductor(prepare_study(config))
    with conductor.next_trial() as handle:
        assert handle is not None
        row = conductor.train(handle)
    assert (row.state, len(row.epochs)) == ("pruned", 1)
    assert conductor.prepared.inputs._looks
    assert conductor.prepared.inputs._state is None


def test_failed_trials_have_a_line_and_the_study_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing: dict[int, Callable[[], BaseException]] = {
        0: lambda: torch.OutOfMemoryError("CUDA out of memory"),
        1: lambda: AutoFreezeError("the loss at step 3 is nan: training diverged."),
    }
    launch, begun = trial_run.launch_epoch, list[int]()

    def fails(*args: Any, **kwargs: Any) -> Any:
        begun.append(len(begun))
        if begun[-1] in failing:
            raise failing[begun[-1]]()
        return launch(*args, **kwargs)

    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    report = conduct(config.replace(**{"training.epochs": 1}))
    assert [(row.state, row.why) for row in report.trials] == [
        ("failed", "out of memory: CUDA out of memory"),
        ("failed", "the loss at step 3 is nan: training diverged."),
        ("finished", None),
    ]
    assert report.best == 2


def test_a_trial_that_is_interrupted_while_it_reads_its_data_has_not_failed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise ConfigError("data.train: cannot be read") from StoppedError()

    config = config.replace(**{"training.epochs": 1, "search.trials": 1})
    with monkeypatch.context() as patch:
        patch.setattr(trial_run, "identify_run", interrupted)
        with pytest.raises(ConfigError, match="cannot be read"):
            conduct(config)
    assert [row.state for row in conduct(config).trials] == ["finished"]


@pytest.mark.parametrize(
    ("message", "is_lack"),
    [
        ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 4000 bytes", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("worker 1 of 2 failed in epoch 1: OutOfMemoryError: CUDA out of memory.", True),
        ("worker 0 of 2 failed in epoch 1: MemoryError: ", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("unsupported memory format option Preserve", False),
    ],
)
def test_what_only_speaks_of_memory_is_no_lack_of_it(
    config: Config, monkeypatch: pytest.MonkeyPatch, message: str, is_lack: bool
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    config = config.replace(**{"search.trials": 1})
    if is_lack:
        (row,) = conduct(config).trials
        assert (row.state, row.why) == ("failed", f"out of memory: {' '.join(message.split())}")
        return
    with pytest.raises(RuntimeError, match="memory"):
        conduct(config)
    (row,) = StudyConductor(prepare_study(config)).rows()
    assert row.state == "running"  # it goes on once that is mended


def test_a_store_that_is_away_for_a_moment_costs_no_epoch(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, outages = LocalBackend.put, iter([1])

    def putting(backend: LocalBackend, path: str, *args: Any) -> None:
        if path.endswith("/checkpoint.json") and next(outages, None):
            raise StoreUnreachableError("the store does not answer")
        put(backend, path, *args)

    monkeypatch.setattr(LocalBackend, "put", putting)
    (row,) = conduct(config.replace(**{"search.trials": 1})).trials
    assert next(outages, None) is None
    assert [epoch.source for epoch in row.epochs] == ["trained"] * 2


def test_a_study_stops_when_its_first_trials_fail_for_one_reason(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def fails(*args: Any, **kwargs: Any) -> Any:
        begun.append(1)
        raise AutoFreezeError(f"the loss at step {len(begun)} is nan")

    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    with pytest.raises(UserError, match="the first 5 trials all failed for one reason: the loss"):
        conduct(config.replace(**{"search.trials": 9}))
    assert len(begun) == 5


@pytest.mark.parametrize(
    ("vary", "longest"),
    [
        ({"training.epochs": [9, 0.5, 2]}, 9),
        ({"training.epochs": {"low": 1, "high": 6.5}}, 7),
        ({"training.epochs": ["9", "10"]}, 10),  # which is as good as a number
        ({"training.learning_rate": [1e-3, 1e-2]}, 2),
    ],
)
def test_hyperband_counts_up_to_the_longest_trial(
    config: Config, vary: dict[str, Any], longest: int
) -> None:
    config = config.replace(**{"search.pruner": "hyperband", "search.vary": vary})
    pruner = StudyConductor(prepare_study(config))._study.study.pruner
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    assert pruner._max_resource == longest


def test_an_epoch_that_was_not_noted_before_a_kill_is_the_trials_own(config: Config) -> None:
    class KilledError(Exception):
        """As a SIGKILL would end the process."""

    note = TrialHandle.note

    def dies(self: TrialHandle, row: TrialRow) -> None:
        if row.epochs:
            raise KilledError
        note(self, row)

    config = config.replace(**{"search.trials": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialHandle, "note", dies)
        with pytest.raises(KilledError):
            conduct(config)
    (row,) = conduct(config).trials
    assert [epoch.source for epoch in row.epochs] == ["trained", "continued"]
    assert row.cost_usd == sum(epoch.cost_usd for epoch in row.epochs)


ONE_REASON: dict[str, list[Any]] = {
    "sizes": [f"set of {size} needs 1,{size}" for size in ("1.20 GiB", "12 MiB", "9 kB", "8", "7")],
    "rates": [f"a rate of {rate} is too high." for rate in ("1e-05", "0.5", "1e+30", "3", "0.25")],
    "memory": [
        torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {asked}")
        for asked in ("12.00 MiB", "1.20 GiB", "2.00 GiB. GPU 0 has 5 left", "1 B", "x")
    ],
}


@pytest.mark.parametrize("case", ONE_REASON)
def test_one_reason_is_told_apart_from_its_numbers(
    config: Config, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    errors = iter(ONE_REASON[case])

    def fails(*args: Any, **kwargs: Any) -> Any:
        error = next(errors)
        raise error if isinstance(error, Exception) else AutoFreezeError(error)

    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    with pytest.raises(NoWinnerError, match="the first 5 trials all failed for one reason"):
        conduct(config.replace(**{"search.trials": 9}))
    assert next(errors, None) is None


def test_unlike_failures_stop_nothing_and_the_first_one_is_said(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter(["the loss is nan.", "no memory of 3 GB", "no rows", "no", "a", "b"])

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise AutoFreezeError(next(errors))

    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    config = config.replace(**{"search.trials": 6})
    assert [row.state for row in conduct(config).trials] == ["failed"] * 6
    with pytest.raises(NoWinnerError) as raised:
        StudyConductor(prepare_study(config)).winner()
    assert str(raised.value) == (
        "no trial has finished, so there is none to be published. Trial 0 failed: the loss is nan. "
        "Change what it says, or begin the study anew with --fresh"
    )


def test_each_epoch_is_told_and_how_far_the_study_is(config: Config) -> None:
    conductor, told = StudyConductor(prepare_study(config)), list[int]()
    assert conductor.progress(conductor.report()).startswith("0 of 3 trials, best none yet;")
    with conductor.next_trial() as handle:
        assert handle is not None
        row = conductor.train(handle, lambda row: told.append(len(row.epochs)))
    assert told == [1, 2]
    assert [epoch.finished > 0 for epoch in row.epochs] == [True, True]
    report = conductor.report()
    best = f"1 of 3 trials, best {report.shown(row.score)} of trial 0; about"
    assert conductor.progress(report) == f"{best} {2 * row.seconds:.0f} s left"


def test_a_limit_ends_the_study(config: Config) -> None:
    report = conduct(config.replace(**{"search.max_seconds": 0.001, "training.epochs": 1}))
    assert len(report.trials) == 1
    assert report.stopped is not None
    assert report.stopped.startswith("search.max_seconds (0.001) is reached")


def test_a_limit_that_is_reached_with_the_last_trial_kept_none_back(config: Config) -> None:
    changes = {"search.max_seconds": 0.001, "search.trials": 1, "training.epochs": 1}
    report = conduct(config.replace(**changes))
    assert [row.state for row in report.trials] == ["finished"]
    assert report.stopped is None


def killed(config: Config, at: int) -> bool:
    """Work on the study in a process that dies before change number ``at``; whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        count = 0

        def dying(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return method(*args, **kwargs)

            return call

        for owner, names in SPOTS.items():
            for name in names:
                setattr(owner, name, dying(getattr(owner, name)))
        try:
            conduct(config)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", KILL_SEEDS)
def test_a_killed_study_ends_as_an_undisturbed_one(
    config: Config, tmp_path: Path, seed: int, undisturbed: dict[str, Any]
) -> None:
    pruner = ("hyperband", "successive_halving")[seed % 2]
    config = config.replace(**{"search.pruner": pruner, "search.score": "loss"})
    if pruner not in undisturbed:
        undisturbed[pruner] = outcome(conduct(elsewhere(config, tmp_path / "undisturbed")))
    assert "pruned" in {state for _, state, *_ in undisturbed[pruner]}
    config = elsewhere(config, tmp_path / "killed")
    prepare_study(config)
    draw, deaths = random.Random(seed), 0
    while killed(config, draw.randrange(10, 60)):
        deaths += 1
    assert deaths >= 1
    assert outcome(conduct(config)) == undisturbed[pruner]
    assert len(list_sets(Storage(config.store))) == 2


def test_a_boundary_that_the_model_has_not_is_refused_before_anything_is_trained(
    config: Config,
) -> None:
    config = config.replace(**{"search.vary": {"freezing.depth": [1, 9]}})
    with pytest.raises(ConfigError, match=r"search.vary: freezing.depth: .*9"):
        prepare_study(config)


def test_depths_of_other_models_are_not_those_of_the_files(config: Config, tmp_path: Path) -> None:
    names = [config.model.name, str(tmp_path / "of-twelve-blocks")]
    config = config.replace(**{"search.vary": {"model.name": names, "freezing.depth": [1, 9]}})
    record = prepare_study(config).record
    proposals = [
        {"model.name": name, "freezing.depth": depth} for depth in (9, 1) for name in names[::-1]
    ]
    sharing = sharing_of(config, record.num_blocks, record.num_pretrained)
    order = in_sharing_order(proposals, sharing)
    assert [one["model.name"] for one in order] == [names[1]] * 2 + [names[0]] * 2
    assert [one["freezing.depth"] for one in order] == [1, 9] * 2


def test_a_study_keeps_to_the_limit_of_the_cache(config: Config, tmp_path: Path) -> None:
    vary = {"freezing.depth": [2, 1], "training.learning_rate": [1e-3]}
    config = config.replace(
        **{"search.vary": vary, "search.sampler": "grid", "search.trials": None},
        **{"training.epochs": 1},
    )
    free = conduct(config)
    storage = Storage(config.store)
    one = max(sum(storage.list(found.folder).values()) for found in list_sets(storage))
    limited = elsewhere(config, tmp_path / "limited").replace(**{"cache.max_bytes": one + 100})
    storage = Storage(limited.store)
    report = conduct(limited)
    assert [row.epochs[0].built for row in report.trials] == [[1], [2]]
    assert [found.manifest.boundary for found in list_sets(storage)] == [2]
    assert sum(storage.list("activations").values()) <= one + 100
    assert outcome(report) == outcome(free)
