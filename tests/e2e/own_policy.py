"""A policy of a third party's, planned and trained with: ``python -m tests.e2e.own_policy YAML``.

It is registered before the configuration is imported, by what is one line in the registry itself.
"""

import json
import sys
from typing import Literal

from pydantic import Field

from afcore.freezing import known_policies
from afcore.freezing.policy import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics


class EveryNth(FreezePolicy):
    """One block more after every few intervals."""

    policy: Literal["every_nth"] = "every_nth"
    every: int = Field(2, ge=1, description="intervals")

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """Its memory is of no shape that others know."""
        seen = [*state.memory.get("seen", []), [float("inf"), statistics.step]]
        last = len(statistics.gradient_norms) - 1
        after = min(state.boundary + (len(seen) % self.every == 0), last)
        decision = FreezeDecision((0.0,) * (last + 1), 0.0, state.boundary, after)
        return FreezeState(after, memory={"seen": seen}), decision


def main(config_file: str, *overrides: str) -> None:
    """Print a plan and two epochs' decisions as a line of JSON."""
    known_policies.Policy = known_policies.Policy | EveryNth  # type: ignore[misc]

    from afcore import preview
    from afcore.config import load_config
    from afcore.runs.epoch import run_epoch
    from afcore.runs.identify import identify_run
    from afcore.runs.records import CheckpointRecord, record_of
    from afcore.runs.run import begin_run, open_run, run_lease
    from afcore.storage.objects import Storage

    preview._BUDGET_SECONDS = 0.1
    config = load_config(config_file, overrides)
    plan = preview.preview_run(config, ["full", "cached"])
    followed = preview.preview_run(
        config.replace(**{"training.epochs": 1}), ["cached"], [[0, 1, 1]]
    )
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        for epoch in (1, 2):
            run_epoch(run, epoch, lease.number)
    opened = open_run(config.store, record.run_id)
    done = record_of(opened, 2, CheckpointRecord)
    assert done is not None
    found = {
        "policy": opened.config.freezing.model_dump(),
        "planned": [(run.mode, run.case) for run in plan.runs],
        "followed": [(run.mode, run.case) for run in followed.runs],
        "boundaries": [row.boundary for row in plan.boundaries],
        "notes": plan.notes,
        "boundary": done.freeze.boundary,
        "steps": [step for _, step in done.freeze.memory["seen"]],
        "infinite": [value == float("inf") for value, _ in done.freeze.memory["seen"]],
        "decided": [
            one.decision.boundary_after
            for one in done.trained.intervals
            if one.decision is not None
        ],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
