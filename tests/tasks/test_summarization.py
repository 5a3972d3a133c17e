"""Summaries: what a decoder reads, ROUGE, what is refused, that it is learned, and its example."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from afcore.config import Config, load_config, parse_config
from afcore.conformance.opened_model import open_model
from afcore.data.examples import Column, Examples
from afcore.data.sources import load_rows
from afcore.errors import ConfigError, DataError, ModelError
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.publish import described
from afcore.runs.run import Run, begin_run, run_lease
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tasks.known_tasks import find_score
from afcore.tasks.summarization import Summarization, shifted_right
from afcore.training.evaluate import evaluate
from pipelines.example_configs import write_examples
from tests.conftest import write_csv
from tests.tasks.test_each_task import make_rows

SUMMARIES = {
    "parses": "the parser of a file",
    "draws": "random value",
    "else": "the name and the list",
}


def begin(config: Config) -> Run:
    storage = Storage(config.store)
    return begin_run(storage, identify_run(config, storage), fresh=True)


def trained(config: Config) -> Run:
    run = begin(config)
    for epoch in range(1, config.training.num_epochs + 1):
        with run_lease(run.storage, run.record.run_id) as lease:
            run_epoch(run, epoch, lease.number)
    return run


@pytest.fixture
def tree(tiny_config: dict[str, Any], tiny_generators: Path) -> dict[str, Any]:
    """Which of three modules a docstring is of, as a summary of one word."""
    data = tiny_config["data"] | {"text": "text", "label": "label"}
    return tiny_config | {
        "task": "summarization",
        "task_settings": {"max_target_length": 12},
        "model": {"name": str(tiny_generators / "bart")},
        "data": data,
        "freezing": {"policy": "frozen_start"},
    }


def test_what_a_decoder_reads_is_what_the_model_makes_of_labels() -> None:
    labels = torch.tensor([[5, 6, 3], [7, 3, -100]])
    assert shifted_right(labels, 2, 0).tolist() == [[2, 5, 6], [2, 7, 3]]


def test_rouge_by_hand(tiny_generators: Path) -> None:
    task = Summarization(pad_token_id=0).bound_to(lambda: _Words())
    examples = Examples(
        {"input_ids": Column.of([[2], [2]])},
        references={"summary": Column.of_texts(["the cat sat down", "naïve ünits"])},
    )
    # "the cat ran" (0 1 2), and no word at all.
    values = task.row_values(examples, np.asarray([[0, 1, 2], [-100, -100, -100]]))
    # Two of three words found are two of four wanted; "the cat" is one pair of two, and of three.
    assert values["rouge1"].tolist() == pytest.approx([2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2), 0])
    assert values["rouge2"].tolist() == pytest.approx([2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), 0])
    assert values["rougeL"].tolist() == pytest.approx(values["rouge1"].tolist())


@pytest.mark.parametrize(
    ("texts", "score", "unseen"),
    [
        (["москва 2020", "ein Ölfass", "北京"], "rougeL", 2),
        (["naïve café", "1 2", "Zürich"], "rougeL", 0),
        (["москва"] + ["a text"] * 19, "rougeL", 0),
        (["москва"], "loss", 0),
    ],
)
def test_summaries_that_rouge_does_not_see_are_told(
    texts: list[str], score: str, unseen: int
) -> None:
    ids = Column.of([[2]] * len(texts))
    examples = Examples({"input_ids": ids}, references={"summary": Column.of_texts(texts)})
    task = Summarization(pad_token_id=0)
    found = task.warnings(examples, find_score("summarization", score))
    assert [f"and {unseen} of {len(texts)} validation summaries" in text for text in found] == (
        [True] if unseen else []
    )
    assert all("their ROUGE-L, which chooses the epoch, is about 0" in text for text in found)
    assert all(text.endswith("Set training.score to loss") for text in found)


def test_a_list_where_a_summary_should_stand(tmp_path: Path) -> None:
    fields = Summarization.fields({"text": "document", "label": "summary"})
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": "a text", "summary": ["a", "b"]}))
    with pytest.raises(DataError, match=r"'summary' holds a list in line 1, .* Write one text a"):
        load_rows(str(path), "train", fields)


class _Words:
    def batch_decode(self, tokens: Any, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(["the", "cat", "ran"][i] for i in row) if row[2] else "" for row in tokens]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_it_is_learned_from_random_weights(
    name: str, tree: dict[str, Any], tiny_generators: Path, tmp_path: Path
) -> None:
    """Half of the way from always writing the commonest summary to writing all as they are."""
    files = {}
    for seed, (split, count) in enumerate({"train": 500, "test": 80}.items()):
        rows = [
            {"text": row["text"], "label": SUMMARIES[row["kind"]]} for row in make_rows(count, seed)
        ]
        files[split] = str(write_csv(tmp_path / f"{split}.csv", rows))
    tree |= {"mode": "full", "model": {"name": str(tiny_generators / name)}}
    tree["data"] = tree["data"] | files
    tree["training"] = tree["training"] | {"epochs": 20, "learning_rate": 2e-3, "score": "loss"}
    run = trained(parse_config(tree, source="test"))
    test = run.data().test
    assert test is not None
    scores = evaluate(run.trainee(load_checkpoint(run, 20), test)).scores()
    baseline = commonest_summary(test.references["summary"].texts())
    assert scores["rougeL"] > (baseline + 1) / 2
    assert scores["loss"] < run.task.chance_loss(test) / 4


def commonest_summary(wanted: list[str]) -> float:
    """ROUGE-L of always writing it."""
    always = max(set(wanted), key=wanted.count)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return float(np.mean([scorer.score(text, always)["rougeL"].fmeasure for text in wanted]))


def test_a_loss_that_chooses_the_epoch_asks_for_no_summary_before_the_test(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tree["training"] = tree["training"] | {"epochs": 1, "score": "loss"}
    run = trained(parse_config(tree, source="test"))
    assert not [text for text in caplog.messages if text.startswith("generated")]
    data = run.data()
    assert data.test is not None
    assert set(evaluate(run.trainee(load_checkpoint(run, 1), data.test)).scores()) == {
        "rougeL",
        "rouge1",
        "rouge2",
        "loss",
    }
    (text,) = [text for text in caplog.messages if text.startswith("generated")]
    assert text.startswith(f"generated {len(data.test)} answers in ")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task_settings": {"max_target": 3}}, ConfigError, "did you mean 'task_settings.max_targ"),
        ({"task_settings": {"max_target_length": 1}}, ConfigError, r"max_target_length: got 1; in"),
        ({"task_settings": {"max_target_length": 65}}, ConfigError, "has positions for 64 tokens"),
        ({"task": "text-classification"}, ConfigError, "task text-classification has none; got"),
        ({"data": {"text_pair": "text"}}, ConfigError, "reads no second text"),
        ({"data": {"text": "document"}}, Exception, "has no column 'document', only text, label"),
    ],
)
def test_mistakes(
    changes: dict[str, Any], error: type[Exception], message: str, tree: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        begin(parse_config(tree | changes | {"data": tree["data"] | changes.get("data", {})}, "t"))


@pytest.mark.parametrize(("first", "start"), [(2, 2), (None, 0)])
def test_a_model_that_does_not_say_what_its_decoder_begins_with(
    first: int | None,
    start: int,
    tree: dict[str, Any],
    tiny_generators: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It begins with its first token, else with padding; check-model and a run do the same."""
    shutil.copytree(tiny_generators / "bart", tmp_path / "bart")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((tmp_path / "bart" / name).read_text())
        changed = content | {"decoder_start_token_id": None, "bos_token_id": first}
        (tmp_path / "bart" / name).write_text(json.dumps(changed))
    tree["model"] = {"name": str(tmp_path / "bart")}
    run = begin(parse_config(tree, source="test"))
    assert isinstance(run.record.task, Summarization)
    assert run.record.task.decoder_start_token_id == start
    assert "config.json names no decoder_start_token_id" in caplog.text
    published = described(run, run.pretrained().model)
    assert published.config.decoder_start_token_id == start
    model = open_model(str(tmp_path / "bart"), "summarization").model
    assert model.config.decoder_start_token_id == start


def test_an_encoder_is_refused(tree: dict[str, Any], tiny_bert: Path) -> None:
    tree["model"] = {"name": str(tiny_bert)}
    message = r"is a 'bert' model, of which Transformers has none for the task \(AutoModelForSeq2"
    with pytest.raises(ModelError, match=message):
        begin(parse_config(tree, source="test"))


@pytest.mark.usefixtures("few_built_in_rows")
def test_the_example_runs(
    tmp_path: Path, tiny_generators: Path, tree: dict[str, Any], tiny_tokenizer: Any
) -> None:
    write_examples(tmp_path / "examples")
    changes = {
        "model.name": tiny_generators / "t5",
        "data.limit": 40,
        "data.test_limit": 8,
        "data.max_length": 48,
        "training.epochs": 1,
        "store": tmp_path / "store",
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    run = trained(load_config(str(tmp_path / "examples" / "summarization.yaml"), overrides))
    assert run.config.freezing.policy == "frozen_start"
    data = run.data()
    assert data.train.references["summary"].texts()[0]
    prefix = tiny_tokenizer("summarize:", add_special_tokens=False)["input_ids"]
    assert data.train.inputs["input_ids"].values[1 : len(prefix) + 1].tolist() == prefix
