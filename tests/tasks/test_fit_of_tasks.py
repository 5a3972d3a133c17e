"""``afcore.fit`` with its ``predict``, and the Trainer, of tasks that read more than a text."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import afcore
from afcore.config import Config, parse_config
from afcore.model.split_model import SplitModel
from afcore.peer.hf_trainer import Recipe, fit
from afcore.predict import predict_file
from afcore.runs.batches import batches_of
from afcore.runs.identify import identify_run
from afcore.runs.run import begin_run
from afcore.storage.objects import Storage
from afcore.training.evaluate import evaluate
from tests.conftest import write_csv
from tests.tasks.test_each_task import KINDS, make_rows, tree_of

ANSWERS = {"words": str, "a question": str, "a choice": int}


def tree(
    kind: str, tiny_config: dict[str, Any], tiny_generators: Path, folder: Path
) -> dict[str, Any]:
    found = tree_of(kind, tiny_config, tiny_generators) | {"mode": "cached"}
    files = {
        split: str(write_csv(folder / f"{split}.csv", make_rows(count, seed)))
        for seed, (split, count) in enumerate({"train": 64, "test": 24}.items())
    }
    found["data"] = {**files, "max_length": 32, **KINDS[kind]["data"]}
    found["training"] |= {"epochs": 1}
    return found


@pytest.mark.parametrize("kind", ANSWERS)
def test_rows_in_memory_are_answered_as_a_file_is(
    kind: str, tiny_config: dict[str, Any], tiny_generators: Path, tmp_path: Path
) -> None:
    settings = tree(kind, tiny_config, tiny_generators, tmp_path)
    rows = make_rows(20, 7)
    result = afcore.fit(config=settings, progress=False, output=tmp_path / "model")
    found = result.predict(rows)
    assert all(type(answer) is ANSWERS[kind] for answer in found)
    source = write_csv(tmp_path / "new.csv", rows)
    predict_file(str(tmp_path / "model"), str(source), output=str(tmp_path / "out.csv"))
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [str(one) for one in found] == [row["prediction"] for row in csv.DictReader(file)]
    names = {"words": ["text"], "a question": ["question", "text"]}
    given = names.get(kind, ["second", "first", "other", "last"])
    values = [tuple(row[name] for name in given) for row in rows]
    assert result.predict(values if len(given) > 1 else [one for (one,) in values]) == found
    assert result.scores == result.report.totals.test


def test_the_trainer_answers_questions_over_windows(
    tiny_config: dict[str, Any], tiny_generators: Path, tmp_path: Path
) -> None:
    settings = tree("a question", tiny_config, tiny_generators, tmp_path)
    settings["data"] |= {"max_length": 16}
    check_trainer(parse_config(settings | {"mode": "hf_trainer"}, source="test"))


def check_trainer(config: Config) -> None:
    """Its scores are those of our own evaluation of its model."""
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage), fresh=True)
    data, model = run.data(), run.pretrained().model
    processor: Any = transformers.AutoTokenizer
    if "input_ids" not in data.train.inputs:
        processor = transformers.AutoImageProcessor
    fitted = fit(
        model,
        processor.from_pretrained(config.model.name),
        data,
        training=config.training,
        score=config.main_score,
        compute=run.compute,
        recipe=Recipe("group_by_length"),
    )
    assert fitted.test is not None
    # Transformers' loss of spans counts a batch's padding, and the Trainer makes other batches.
    near = 0.05 if config.task == "question-answering" else 1e-5
    of_trainer = {"test": fitted.test.scores(), "validation": fitted.epochs[0].validation}
    for name, scores in of_trainer.items():
        ours = evaluate(run.trainee(SplitModel(fitted.model), data.splits[name])).scores()
        assert scores.pop("loss") == pytest.approx(ours.pop("loss"), abs=near)
        assert scores == pytest.approx(ours, abs=1e-5)
    assert fitted.epochs[0].num_steps == len(batches_of(run, data.train, 1))
    assert np.isfinite(fitted.epochs[0].train_loss)
