"""The model card of a run: ``README.md`` in the folder of its model, with metadata for the hub."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from afcore.config import PEER_MODES, AdapterConfig, Config
from afcore.results.markdown import markdown_table
from afcore.results.report import RunReport
from afcore.tasks.task import Task

__all__ = ["model_card"]


def model_card(
    report: RunReport,
    task: Task,
    data_digest: str,
    config: Config,
    adapters: str | None = None,
) -> str:
    """Markdown with YAML before it.

    Args:
        report: of the run.
        task: that was learned.
        data_digest: names the rows and their tokens.
        config: of the run. Of files the names are told, not where they lie.
        adapters: folder beside the card in which they are alone; None: there is none.
    """
    scores = _scores(report)
    split = "test" if report.totals.test is not None else "validation"
    tested = _name(config.data.test or config.data.train)
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        base_model=config.model.name if _is_hub_id(config.model.name) else None,
        tags=["autofreeze", task.name],
        model_name=f"autofreeze-{report.run_id}",
        eval_results=[
            EvalResult(
                task_type=task.pipeline_tag,
                dataset_type="text",
                dataset_name=tested,
                dataset_split=split,
                metric_type=name,
                metric_value=value,
            )
            for name, value in scores[split].items()
        ],
    )
    title, answers = task.described()
    return f"""---
{metadata.to_yaml()}
---

# {title[0].upper()}{title[1:]}

{_name(config.model.name)} ({report.num_blocks} blocks), fine-tuned with AutoFreeze.

{answers}

## Scores

{_score_table(scores)}

## Training

{_facts(report, data_digest, config, adapters)}

## Use
{_cut(task, config)}
```python
{_use(task)}
```

or `autofreeze predict FOLDER reviews.csv --output predictions.csv`.
"""


def _cut(task: Task, config: Config) -> str:
    if task.processor != "tokenizer":
        return ""
    return f"\nTexts were cut at {config.data.max_length} tokens in training.\n"


def _use(task: Task) -> str:
    """Python that reads the folder."""
    if not task.has_pipeline():
        name = task.auto_class
        return f'from transformers import {name}\n\nmodel = {name}.from_pretrained("FOLDER")'
    options = "".join(f", {name}={value!r}" for name, value in task.pipeline_options.items())
    called = f'pipeline("{task.pipeline_tag}", "FOLDER"{options})'
    return f"from transformers import pipeline\n\nanswer = {called}"


def _scores(report: RunReport) -> dict[str, dict[str, float]]:
    given = {"validation": report.totals.validation, "test": report.totals.test}
    return {split: scores for split, scores in given.items() if scores is not None}


def _score_table(scores: dict[str, dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for one in scores.values() for name in one))
    rows = [
        [split, *(f"{one[name]:.4f}" if name in one else "" for name in names)]
        for split, one in scores.items()
    ]
    return markdown_table(["split", *names], rows)


def _facts(report: RunReport, data_digest: str, config: Config, adapters: str | None) -> str:
    data, training = report.data, config.training
    facts = {
        "run": f"`{report.run_id}`, mode `{report.mode}`, seed {report.seed}",
        "data": f"{_name(config.data.train)}: {data.train_examples} examples to train on, "
        f"{data.validation_examples} to validate, {data.test_examples} to test; "
        f"digest `{data_digest}`",
        "freezing policy": f"`{report.policy}`" if report.policy else "none",
        "what happened": f"{report.happened or 'all blocks were trained'}; the best epoch, "
        f"{report.totals.best_epoch}, is this one",
        "settings": f"batches of {training.batch_size}, learning rate {training.learning_rate:g}, "
        f"at most {training.epochs:g} epochs, {config.data.max_length} tokens",
        **_adapted(config, adapters),
        **_quantized(config),
        "seconds": f"{report.totals.train_seconds:.1f} to train, "
        f"{report.totals.wall_seconds:.1f} in all",
    }
    return "\n".join(f"* {what}: {value}" for what, value in facts.items())


def _adapted(config: Config, folder: str | None) -> dict[str, str]:
    """What was trained instead of the blocks' weights, if they were not."""
    adapter = config.adapter
    if config.mode in PEER_MODES:
        is_lora = config.mode == "hf_trainer_lora"
        adapter = (adapter or AdapterConfig()) if is_lora else None
    if adapter is None:
        return {}
    layers = adapter.target_modules
    where = f"the layers {', '.join(layers)}" if layers else "all linear layers of the blocks"
    alone = f"; alone, as PEFT loads it, in the folder `{folder}`" if folder else ""
    return {
        "adapter": f"LoRA of rank {adapter.rank}, alpha {adapter.alpha}, dropout "
        f"{adapter.dropout:g}, on {where} that trained; merged into these weights{alone}"
    }


def _quantized(config: Config) -> dict[str, str]:
    """Of what the frozen blocks were computed with."""
    if config.quantization is None:
        return {}
    return {
        "quantization": f"frozen blocks were computed with weights in {config.quantization} while "
        "the others trained; the weights here, with which it was tested, are whole"
    }


def _name(source: str | tuple[str, ...]) -> str:
    """Without the folders of the machine that it was trained on."""
    if isinstance(source, tuple):
        return ", ".join(map(_name, source))
    return source if "://" in source or ":" in source else Path(source).name


def _is_hub_id(name: str) -> bool:
    """Of a model that was found: what is no folder and of no package."""
    return not name.startswith("package:") and not Path(name).expanduser().exists()
