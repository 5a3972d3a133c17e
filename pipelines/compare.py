"""The flow ``compare``: the same training in several modes and seeds, side by side."""

import statistics
import time
from typing import Any

from prefect import flow

from afcore.config import Config, check_extras
from afcore.digest import recipe_digest
from afcore.launch.launcher import close_launchers
from afcore.results.comparison import compare_report
from afcore.results.figures import accuracy_cost_figure
from afcore.results.report import CompareReport, RunReport
from afcore.results.tracking import Tracker
from pipelines.comparison_table import comparison_markdown
from pipelines.environment import configure_logging
from pipelines.finetune import finetune

__all__ = ["compare"]


@flow(name="compare", flow_run_name="compare-{config.tracking.experiment}")
def compare(
    config: Config, modes: list[str], seeds: int = 1, share: bool = False, fresh: bool = False
) -> dict[str, Any]:
    """Run every mode with every seed and put the reports side by side.

    Args:
        config: The training; its mode and seed are replaced.
        modes: Execution modes, e.g. full, cached and hf_trainer.
        seeds: Number of seeds, counted up from training.seed.
        share: Use activation sets of other runs, instead of paying anew.
        fresh: Train anew, even where results are recorded.
    """
    configure_logging()
    configs = [
        config.replace(
            **{"mode": mode, "training.seed": config.training.seed + number, "cache.share": share}
        )
        for number in range(seeds)
        for mode in modes
    ]
    for one in configs:
        check_extras(one)
    tracker = Tracker(config.tracking.uri, config.tracking.experiment)
    parent = tracker.begin(
        recipe_digest([one.model_dump(mode="json") for one in configs])[:32],
        f"compare {' '.join(modes)}",
        mode="compare",
        parameters=config.model_dump(mode="json", exclude={"mode"}) | {"modes": ",".join(modes)},
    )
    reports, recorded = [], []
    try:
        for one in configs:
            result = finetune(one, fresh=fresh, parent_mlflow_run_id=parent)
            recorded.append(result.pop("recorded", False))
            reports.append(RunReport.model_validate(result))
        comparison = compare_report(reports)
        _log(tracker, parent, comparison)
    except BaseException as error:
        tracker.finish(parent, error)
        raise
    finally:
        close_launchers()
    tracker.finish(parent)
    return {**comparison.model_dump(mode="json", by_alias=True), "recorded": recorded}


def _log(tracker: Tracker, parent: str, comparison: CompareReport) -> None:
    """The parent carries the headline figures: MLflow's experiment page shows no others."""
    values: dict[str, float] = {}
    score = comparison.score
    for mode, speedup in comparison.speedup.items():
        values[f"{mode}/speedup"] = speedup
        values[f"{mode}/wall_speedup"] = comparison.wall_speedup[mode]
    for mode in dict.fromkeys(run.mode for run in comparison.runs):
        totals = [run.totals for run in comparison.runs if run.mode == mode]
        runs = [run for run in comparison.runs if run.mode == mode]
        values[f"{mode}/{score}"] = statistics.mean(run.main_score for run in runs)
        values[f"{mode}/cost_usd"] = sum(total.cost_usd for total in totals) / len(totals)
    for mode, difference in comparison.difference.items():
        values[f"{mode}/{score}_difference"] = difference.mean
        values[f"{mode}/{score}_difference_low"] = difference.low
        values[f"{mode}/{score}_difference_high"] = difference.high
    tracker.log_summary(parent, values, time.time())
    tracker.log_text(parent, comparison_markdown(comparison), "comparison.md")
    tracker.log_text(parent, comparison.model_dump_json(by_alias=True, indent=1), "comparison.json")
    tracker.log_figure(parent, accuracy_cost_figure(comparison), "figures/accuracy_cost.png")
