"""Multiple choice: what is read, that questions stay whole, and that it is learned."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from afcore.config import Config, parse_config
from afcore.data.builtin.docstring_choices import docstring_choice_rows
from afcore.data.order import of_groups
from afcore.data.sources import load_rows
from afcore.distributed import WorkerGroup
from afcore.errors import ConfigError, DataError
from afcore.model.split_model import SplitModel
from afcore.peer.hf_trainer import Recipe, fit
from afcore.runs.batches import batches_of
from afcore.runs.state import load_checkpoint
from afcore.tasks.multiple_choice import MultipleChoice
from afcore.training.evaluate import evaluate
from tests.conftest import write_csv
from tests.tasks.test_each_task import losses, make_rows, train

CHOICES = ["first", "other", "last"]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> Config:
    tree = tiny_config | {"task": "multiple-choice", "mode": "cached"}
    sizes = {"train": 320, "validation": 40, "test": 60}
    tree["data"] = {
        split: str(write_csv(tmp_path / f"{split}.csv", make_rows(count, seed)))
        for seed, (split, count) in enumerate(sizes.items())
    } | {"text": "second", "choices": ", ".join(CHOICES), "label": "right", "max_length": 24}
    tree["training"] |= {"epochs": 4, "stop": "never", "learning_rate": 3e-3}
    tree["freezing"] = {"policy": "static", "depth": 1}
    return parse_config(tree, source="test")


def test_it_is_learned(config: Config) -> None:
    """The right choice is the one with a certain word; a third is chance."""
    run = train(config)
    split = load_checkpoint(run, 4)
    data = run.data()
    assert data.test is not None
    answers = evaluate(run.trainee(split, data.test))
    assert len(answers.values["right"]) == 60
    assert answers.scores()["accuracy"] > 0.6


def test_batches_are_of_whole_questions(config: Config) -> None:
    run = train(config.replace(**{"training.epochs": 1}))
    batches = batches_of(run, run.data().train, 1)
    assert len(batches) == 40
    for ids in batches:
        assert len(ids) == 24
        questions = ids.reshape(-1, 3)
        assert (questions % 3 == [0, 1, 2]).all()
        shares = [WorkerGroup(rank, 2).share(ids, 3) for rank in (0, 1)]
        assert [len(share) for share in shares] == [12, 12]
        assert (np.concatenate(shares).reshape(-1, 3) % 3 == [0, 1, 2]).all()
    assert sorted(np.concatenate(batches).tolist()) == list(range(960))
    assert of_groups(np.asarray([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]
    assert WorkerGroup(2, 3).share(np.arange(6), 3).tolist() == [0, 1, 2]


def test_passes_of_few_questions_are_the_whole_batch(config: Config) -> None:
    whole = losses(train(config.replace(**{"training.epochs": 2})))
    parts = train(config.replace(**{"training.epochs": 2, "workers.micro_batch": 3}))
    # Dropout is drawn otherwise; the first loss has met no step.
    assert losses(parts)[0] == pytest.approx(whole[0], rel=0.05)
    assert len(losses(parts)) == len(whole)


def test_columns_of_choices_or_a_list_with_a_common_beginning(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    rows = make_rows(4, 0)
    columns = {
        "text": "text",
        "text_pair": "second",
        "choices": ", ".join(CHOICES),
        "label": "right",
    }
    found = load_rows(str(write_csv(tmp_path / "a.csv", rows)), "a", MultipleChoice.fields(columns))
    listed = [{**row, "choices": [row[name] for name in CHOICES]} for row in rows]
    same = load_rows(
        str(write_jsonl(tmp_path / "a.jsonl", listed)),
        "a",
        MultipleChoice.fields(columns | {"choices": "choices"}),
    )
    task = MultipleChoice(num_choices=3)
    given, other = (task.examples(tiny_tokenizer, some, 32) for some in (found, same))
    assert given.digest == other.digest
    assert given.targets["labels"].values[::3].tolist() == [int(row["right"]) for row in rows]
    assert given.rows is not None
    assert given.rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    column = given.inputs["input_ids"]
    assert column.offsets is not None
    ids = column.values[column.offsets[4] : column.offsets[5]]
    expected = tiny_tokenizer(rows[1]["text"], f"{rows[1]['second']} {rows[1]['other']}")
    assert ids.tolist() == expected["input_ids"][:32]


def test_lists_of_other_lengths_and_blank_choices_are_refused(tmp_path: Path) -> None:
    columns = {"text": "text", "choices": "choices", "label": "label"}

    def read(*choices: Any) -> Any:
        rows = [{"text": "a", "choices": some, "label": 0.0} for some in choices]
        path = write_jsonl(tmp_path / "b.jsonl", rows)
        found = load_rows(str(path), "b", MultipleChoice.fields(columns))
        return MultipleChoice.learn({"train": found}, found, type("T", (), {"pad_token_id": 0}))

    assert read(["x", "y"], ["y", "z"]).num_choices == 2
    with pytest.raises(DataError, match=r"line 2 has 3 choices, and the first row .* has 2"):
        read(["x", "y"], ["x", "y", "z"])
    with pytest.raises(DataError, match=r"has 1 choice; two or more were expected"):
        read(["x"])
    with pytest.raises(DataError, match=r"has a blank choice in line 1"):
        read(["x", " "])
    with pytest.raises(DataError, match=r"'x, y' in line 1, and a list of texts was expected"):
        read("x, y")


def test_scores_by_hand() -> None:
    task = MultipleChoice(num_choices=2)
    outputs = torch.tensor([[2.0], [0.0], [1.0], [1.0]])
    found = task.losses(outputs, {"labels": torch.tensor([0, 0, 1, 1])})
    expected = np.log1p(np.exp(-2.0)), np.log(2)
    np.testing.assert_allclose(found, np.repeat(expected, 2), rtol=1e-6)
    shaped, labels = task.as_whole({"x": torch.zeros(4, 5)}, {"labels": torch.tensor([0, 0, 1, 1])})
    assert shaped["x"].shape == (2, 2, 5)
    assert labels["labels"].tolist() == [0, 1]
    shares = task.probabilities(outputs.numpy())
    np.testing.assert_allclose(shares["0"], [1 / (1 + np.exp(-2.0)), 0.5], rtol=1e-6)


def test_the_data_set_that_is_built_in() -> None:
    rows, held = docstring_choice_rows("train"), docstring_choice_rows("test")
    assert len(rows) > 1500
    assert 0.15 < len(held) / len(rows + held) < 0.35
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == set("0123")
    assert max(counts.values()) < 1.3 * min(counts.values())
    for row in rows:
        assert len(set(row["choices"])) == 4
    with pytest.raises(DataError, match="train and test"):
        docstring_choice_rows("dev")


def test_choices_may_be_a_list_of_columns(config: Config) -> None:
    assert config.replace(**{"data.choices": CHOICES}).data.choices == "first, other, last"
    with pytest.raises(ConfigError, match=r"data\.choices"):
        config.replace(**{"data.choices": {"a": 1}})


def test_the_trainer_answers_the_same_questions(config: Config) -> None:
    run = train(config.replace(**{"mode": "full", "training.epochs": 1, "data.limit": 60}))
    data, model = run.data(), run.pretrained().model
    fitted = fit(
        model,
        transformers.AutoTokenizer.from_pretrained(config.model.name),
        data,
        training=run.config.training,
        score=run.config.main_score,
        compute=run.compute,
        recipe=Recipe("group_by_length"),
    )
    assert fitted.test is not None
    assert data.test is not None
    ours = evaluate(run.trainee(SplitModel(fitted.model), data.test))
    assert fitted.test.scores() == pytest.approx(ours.scores(), abs=1e-5)
    assert fitted.epochs[0].num_steps == len(data.train) // 3 // 8 + 1
