"""The flow ``compare``: the same training in several modes and seeds, side by side."""

import statistics
import time
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from afcore.config import Config, check_extras
from afcore.digest import recipe_digest
from afcore.errors import ConfigError
from afcore.launch.launcher import close_launchers
from afcore.results.comparison import compare_report
from afcore.results.figures import accuracy_cost_figure
from afcore.results.report import CompareReport, RunReport
from afcore.tracking.tracker import Tracker
from pipelines.comparison_table import comparison_markdown
from pipelines.environment import configure_logging
from pipelines.finetune import finetune, run_source
from pipelines.given_config import config_of, given_config
from pipelines.run_titles import data_name, model_name

__all__ = ["compare"]


def _flow_run_name() -> str:
    config, modes = config_of(flow_run.parameters), flow_run.parameters["modes"]
    return f"{model_name(config)} on {data_name(config)}: {', '.join(modes)}"


@flow(name="compare", flow_run_name=_flow_run_name)
def compare(
    config: Config,
    modes: list[str],
    seeds: int = 1,
    share: bool = False,
    fresh: bool = False,
    config_path: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Run every mode with every seed and put the reports side by side.

    Args:
        config: The training; its mode and seed are replaced.
        modes: Execution modes, e.g. full, cached and hf_trainer.
        seeds: Number of seeds, counted up from training.seed; at least 1.
        share: Use activation sets of other runs, instead of paying anew.
        fresh: Train anew, even where results are recorded.
        config_path: YAML file to read instead of config, as seen from the worker's folder.
        overrides: Values that differ, key.path=value each, e.g. training.learning_rate=5e-4.
    """
    configure_logging()
    config = given_config(config, config_path, overrides)
    if not modes or seeds < 1:
        raise ConfigError(f"nothing to compare: modes is {modes}, and seeds is {seeds}")
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
        source=run_source(),
    )
    reports, recorded = [], []
    try:
        for one in configs:
            result = finetune(one, fresh=fresh, parent_mlflow_run_id=parent)
            recorded.append(result.pop("recorded", False))
            reports.append(RunReport.model_validate(result))
        comparison = compare_report(reports)
        # What was compared is there, maybe after hours: then MLflow is waited for.
        tracker = Tracker(config.tracking.uri, config.tracking.experiment, waits=True)
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
    _log_headlines(tracker, parent, comparison)
    tracker.describe(parent, comparison_markdown(comparison))
    tracker.log_text(parent, comparison_markdown(comparison), "comparison.md")
    tracker.log_text(parent, comparison.model_dump_json(by_alias=True, indent=1), "comparison.json")
    tracker.log_figure(parent, accuracy_cost_figure(comparison), "figures/accuracy_cost.png")


def _log_headlines(tracker: Tracker, parent: str, comparison: CompareReport) -> None:
    """The parent's are of the best mode, its seconds and dollars of all; each run gets its gain."""
    now, score, runs = time.time(), comparison.score, comparison.runs
    best = [run for run in runs if run.mode == (comparison.best_mode or runs[0].mode)]
    headline = {
        score: statistics.mean(run.main_score for run in best),
        "seconds": sum(run.totals.wall_seconds for run in runs),
        "cost_usd": sum(run.totals.cost_usd for run in runs),
    }
    gains = [gain for mode, gain in comparison.speedup.items() if mode != "full"]
    if gains:
        headline["speedup"] = max(gains)
    tracker.log_headline(parent, score, headline, now)
    full = {run.seed: run for run in runs if run.mode == "full"}
    for run in runs:
        if run.mode != "full" and run.seed in full and run.mlflow_run_id is not None:
            gain = full[run.seed].paid_seconds / run.paid_seconds
            tracker.log_speedup(run.mlflow_run_id, gain, now)
