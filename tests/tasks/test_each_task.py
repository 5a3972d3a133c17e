"""What holds for every task: plain fine-tuning, reading for computing, going on after a stop."""

import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afcore.config import Config, parse_config
from afcore.data.examples import Examples
from afcore.errors import ConfigError, DataError, StoppedError
from afcore.predict import predict_file
from afcore.runs.batches import batches_of
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.publish import described
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tasks.answers import Answers
from afcore.tasks.known_tasks import TASKS, find_score, parse_task
from afcore.tasks.task import Task
from afcore.tasks.text_ordinal import quadratic_kappa
from afcore.training.evaluate import evaluate
from tests.conftest import tiny_tree, write_csv
from tests.model.test_pretrained import configure
from tests.test_stopping import after

DROPOUT = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
WORDS = ["parser", "random", "mean", "of", "the", "value", "list", "object", "name", "file"]
KINDS = {
    "one text": {"task": "text-classification", "data": {"label": "kind"}},
    "a pair": {"task": "text-classification", "data": {"label": "same", "text_pair": "second"}},
    "a number": {"task": "text-regression", "data": {"label": "number"}},
    "several labels": {"task": "multi-label-classification", "data": {"label": "tags"}},
    "a level": {"task": "text-ordinal", "data": {"label": "stars"}},
    "a question": {"task": "question-answering", "data": {"text_pair": "text"}},
    "words": {"task": "token-classification", "data": {"text": "text", "label": "names"}},
    "a choice": {
        "task": "multiple-choice",
        "data": {"text": "second", "choices": ["first", "other", "last"], "label": "right"},
    },
    "a summary by BART": {
        "task": "summarization",
        "model": "bart",
        "data": {"text": "text", "label": "second"},
        "task_settings": {"max_target_length": 12},
    },
    "a summary by T5": {
        "task": "summarization",
        "model": "t5",
        "data": {"text": "text", "label": "second"},
        "task_settings": {"prefix": "random: ", "max_target_length": 12},
    },
    "words by GPT-2": {
        "task": "causal-language-modeling",
        "model": "gpt2",
        "data": {"max_length": 12},
    },
    "completions by Llama": {
        "task": "causal-language-modeling",
        "model": "llama",
        "data": {"text": "text", "label": "second"},
    },
}


def tree_of(kind: str, tiny_config: dict[str, Any], generators: Path) -> dict[str, Any]:
    """A configuration without data."""
    found = KINDS[kind]
    tree = tiny_config | {"task": found["task"], "task_settings": found.get("task_settings", {})}
    if "model" in found:
        tree["model"] = {"name": str(generators / found["model"])}
    return tree


def name_of(word: str, before: str) -> str:
    """The label of a word by what stands before it: a parser and what it parses are one thing."""
    return "B-PARSER" if word == "parser" else "I-PARSER" if before == "parser" else "O"


def answer_in(words: list[str]) -> str:
    """Of the context: a parser and what it parses, or none."""
    at = words.index("parser") if "parser" in words else len(words)
    return " ".join(words[at : at + 2])


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randrange(4, 12))]
        second = [draw.choice(WORDS) for _ in range(5)]
        row = {
            "text": " ".join([*words, str(number)]),
            "second": " ".join(second),
            "kind": "parses" if "parser" in words else "draws" if "random" in words else "else",
            "same": "yes" if words[0] in second else "no",
            "number": str(10 + 3 * words.count("parser") - 2 * words.count("mean")),
            "tags": ",".join(word for word in ("parser", "random", "mean") if word in words),
            "stars": str(min(max(3 + words.count("parser") - words.count("mean"), 1), 5)),
            "question": "what parses?",
            "answers": answer_in(words),
            "names": " ".join(map(name_of, [*words, ""], ["", *words])),
        }
        right = draw.randrange(3)
        for place, column in enumerate(("first", "other", "last")):
            row[column] = " ".join(
                "parser" if place == right and i == 1 else draw.choice(WORDS[1:]) for i in range(4)
            )
        rows.append(row | {"right": str(right)})
    return rows


@pytest.fixture(scope="module", params=KINDS)
def config(
    request: pytest.FixtureRequest,
    tiny_bert: Path,
    tiny_generators: Path,
    text_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Config:
    """Of a task; nothing is drawn at random while it trains, so that two ways can be compared."""
    folder = tmp_path_factory.mktemp("task")
    files = {
        split: str(write_csv(folder / f"{split}.csv", make_rows(count, seed)))
        for seed, (split, count) in enumerate({"train": 96, "validation": 32, "test": 40}.items())
    }
    kind = KINDS[request.param]
    tiny = tiny_tree(folder, tiny_bert, text_files)
    tree = tree_of(request.param, tiny, tiny_generators) | {"mode": "full"}
    tree["data"] = {**files, "max_length": 32, **kind["data"]}
    tree["training"] |= {"epochs": 2, "stop": "never"}
    tree["freezing"] = {"policy": "static", "depth": 2}
    tree["cache"] = {"mode": "on", "dtype": "fp32"}
    return parse_config(tree, source="test")


@pytest.fixture(scope="module")
def calm(config: Config) -> Config:
    """Without dropout."""
    folder = Path(config.store).with_name("calm")
    shutil.copytree(config.model.name, folder)
    configure(folder, **dict.fromkeys(DROPOUT, 0.0))
    return config.replace(**{"model.name": str(folder)})


@pytest.fixture(scope="module")
def full(calm: Config) -> Run:
    """Trained; others only read it."""
    return train(calm)


def train(config: Config, stop_after: int | None = None) -> Run:
    """All epochs; stopped once within the second, and gone on with, where asked for."""
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage), fresh=True)
    for epoch in range(1, config.training.num_epochs + 1):
        with run_lease(storage, run.record.run_id) as lease:
            if stop_after is not None and epoch == 2:
                with pytest.raises(StoppedError):
                    run_epoch(run, epoch, lease.number, stop=after(stop_after))
            run_epoch(run, epoch, lease.number)
    return run


def losses(run: Run) -> list[float]:
    records = [record_of(run, epoch, CheckpointRecord) for epoch in (1, 2)]
    return [step.loss for record in records if record for step in record.trained.steps]


def test_full_is_a_bare_loop_with_the_models_own_loss(full: Run) -> None:
    data, model = full.data(), full.pretrained().model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batches = [batches_of(full, data.train, epoch) for epoch in (1, 2)]
    total = sum(map(len, batches))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    model.train()
    bare = []
    for ids in [ids for epoch in batches for ids in epoch]:
        inputs, targets = full.record.task.collate(data.train, ids, torch.device("cpu"))
        inputs, targets = full.record.task.as_whole(inputs, targets)
        loss = model(**inputs, **targets).loss  # as transformers has it
        bare.append(float(loss.detach()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert len(bare) == total > 10
    np.testing.assert_allclose(losses(full), bare, rtol=1e-4, atol=1e-5)


def test_cached_is_recomputed(calm: Config) -> None:
    read = train(calm.replace(mode="cached"))
    computed = train(calm.replace(mode="freeze"))
    record = record_of(read, 2, CheckpointRecord)
    assert record is not None
    assert record.trained.activation_bytes_read > 0
    np.testing.assert_allclose(losses(read), losses(computed), rtol=1e-5, atol=1e-5)


def test_stopped_and_gone_on_is_undisturbed(config: Config) -> None:
    config = config.replace(mode="cached")
    undisturbed = train(config)
    expected = losses(undisturbed), load_checkpoint(undisturbed, 2).model.state_dict()
    stopped = train(config, stop_after=5)
    assert losses(stopped) == expected[0]
    for name, tensor in load_checkpoint(stopped, 2).model.state_dict().items():
        assert torch.equal(tensor, expected[1][name]), name


def test_a_prediction_is_that_of_the_test(full: Run, tmp_path: Path) -> None:
    config, split, data = full.config, load_checkpoint(full, 2), full.data()
    assert data.test is not None
    answers = evaluate(full.trainee(split, data.test))
    folder = tmp_path / "published"
    described(full, split.model).save_pretrained(folder)
    from afcore.model.pretrained import load_tokenizer

    load_tokenizer(config.model.name, config.data.max_length).save_pretrained(folder)
    found = predict_file(
        str(folder), str(config.data.test), output=str(tmp_path / "out.csv"), probabilities=True
    )
    assert found.num_labelled == found.num_rows == 40
    first = full.record.task.scores[0]
    assert found.score == pytest.approx(answers.scores()[first.name], abs=1e-6)


def test_a_task_comes_back_from_its_record(config: Config) -> None:
    task = identify_run(config, Storage(config.store)).task
    assert parse_task(task.model_dump(mode="json")) == task


def test_the_head_starts_solved(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """The default policy's: a solved head is far better than one that answers by chance.

    One that was pre-trained with the model is left as it is, and that is said.
    """
    caplog.set_level("INFO")
    tree = config.model_dump() | {
        "mode": "cached",
        "freezing": {"policy": "frozen_start", "depth": 2},
    }
    config = parse_config(tree, source="test").replace(**{"training.epochs": 1})
    if identify_run(config, Storage(config.store)).task.head_is_new:
        config = config.replace(**{"training.learning_rate": 1e-9})
    run = train(config)
    data, task = run.data(), run.record.task
    record = record_of(run, 1, CheckpointRecord)
    assert record is not None
    trained = [step.loss for step in record.trained.steps]
    if not task.head_is_new:
        assert "head: begins as it was pre-trained; it is not solved" in caplog.messages
        assert np.mean(trained[-4:]) < np.mean(trained[:4])
        return
    chance = task.chance_loss(data.train)
    if task.name == "question-answering":  # it answers all tokens at once
        assert (
            "head: begins as it was drawn; it is no linear layer at one position" in caplog.messages
        )
        assert np.mean(trained) < 2.0 * chance
        return
    (objective,) = re.findall(r"head: solved on \d+ answers, objective ([\d.]+)", caplog.text)
    assert float(objective) < chance + 1e-3
    assert np.mean(trained) < 1.3 * chance, "with dropout; a number is off by 30 times, as drawn"


def test_losses_at_chance_are_those_of_the_best_constant_answer() -> None:
    number = TASKS["text-regression"](pad_token_id=0)
    labels = np.asarray([1.0, 2.0, 6.0], dtype=np.float32)
    examples = _with_labels(labels)
    assert number.chance_loss(examples) == pytest.approx(14 / 3)
    names = ["a", "b"]
    several = parse_task(
        {"name": "multi-label-classification", "pad_token_id": 0, "label_names": names}
    )
    labels = np.asarray([[1, 0], [1, 0], [0, 0], [0, 0]], dtype=np.float32)
    assert several.chance_loss(_with_labels(labels)) == pytest.approx(np.log(2) / 2)
    level = _stars(1, 3)
    # Half of the rows are above 1; one of four is above 2.
    expected = (np.log(2) + np.log(4) / 4 + np.log(4 / 3) * 3 / 4) / 2
    assert level.chance_loss(_with_labels(level.encode_labels([1, 1, 2, 3]))) == pytest.approx(
        expected
    )


def _stars(lowest: int, highest: int) -> Task:
    return parse_task(
        {"name": "text-ordinal", "pad_token_id": 0, "lowest": lowest, "highest": highest}
    )


def _with_labels(labels: Any) -> Examples:
    from afcore.data.examples import Column

    ids = Column.of([[2, 3]] * len(labels))
    return Examples({"input_ids": ids}, {"labels": Column(labels)})


def _scores(task: Task, labels: Any, outputs: Any) -> dict[str, float]:
    losses = task.losses(torch.from_numpy(outputs), {"labels": torch.from_numpy(labels)})
    return Answers.of(task, _with_labels(labels), outputs, losses.numpy()).scores()


def test_scores_of_numbers() -> None:
    task = TASKS["text-regression"](pad_token_id=0)
    labels = np.asarray([1, 2, 3, 4], dtype=np.float32)
    outputs = np.asarray([[2], [2], [3], [6]], dtype=np.float32)
    scores = _scores(task, labels, outputs)
    assert scores == pytest.approx(
        {"pearson": 0.886593, "spearman": 0.948683, "mae": 0.75, "loss": 1.25}, abs=1e-5
    )
    flat = _scores(task, labels, np.ones((4, 1), dtype=np.float32))
    assert (flat["pearson"], flat["spearman"]) == (0.0, 0.0)


def test_scores_of_several_labels() -> None:
    task = parse_task(
        {"name": "multi-label-classification", "pad_token_id": 0, "label_names": ["a", "b"]}
    )
    labels = np.asarray([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=np.float32)
    outputs = np.asarray([[2, -1], [2, -1], [-1, -1], [1, 3]], dtype=np.float32)
    scores = _scores(task, labels, outputs)
    # a: 2 right, 1 too many; b: 1 right, 1 missed.
    assert scores["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["f1_macro"] == pytest.approx((2 * 2 / 5 + 2 / 3) / 2)
    assert scores["exact_match"] == 0.5
    assert task.predictions(_with_labels(labels), outputs) == ["a", "a", "", "a,b"]


def test_scores_of_levels() -> None:
    task = _stars(1, 3)
    labels = task.encode_labels([1, 1, 2, 3])
    np.testing.assert_array_equal(labels, [[0, 0], [0, 0], [1, 0], [1, 1]])
    # The third passes a higher threshold and not the lower one: still one of two.
    outputs = np.asarray([[-1, -2], [2, 1], [-1, 1], [3, 1]], dtype=np.float32)
    assert task.predictions(_with_labels(labels), outputs) == [1, 3, 2, 3]
    scores = _scores(task, labels, outputs)
    # Squared distances: 4 in 4 rows; 26 in the 4 x 4 pairs of any label with any answer.
    assert scores["kappa"] == pytest.approx(1 - (4 / 4) / (26 / 16))
    assert (scores["mae"], scores["accuracy"]) == (0.5, 0.75)
    wrong = np.where(labels > 0, -outputs, outputs)
    assert scores["loss"] == pytest.approx(np.log1p(np.exp(wrong)).mean(), abs=1e-6)
    assert list(task.probabilities(outputs)) == ["above_1", "above_2"]


@pytest.mark.parametrize(
    ("levels", "passed", "kappa"),
    [
        ([2, 2], 1, 0.0),  # one level on both sides: undefined
        ([1, 3], 1, 0.0),  # always one answer: as good as chance
    ],
)
def test_kappa_of_one_answer(levels: list[int], passed: int, kappa: float) -> None:
    task = _stars(1, 3)
    outputs = np.asarray([[1.0] * passed + [-1.0] * (2 - passed)] * 2, dtype=np.float32)
    labels = task.encode_labels(levels)
    assert _scores(task, labels, outputs)["kappa"] == kappa


def test_kappa_of_far_levels_takes_no_matrix_of_all_between_them() -> None:
    """As of a column of other numbers, in a file to predict for."""
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, 5, 200), draw.integers(0, 5, 200)
    predicted = np.where(draw.random(200) < 0.5, labels, predicted)
    near = quadratic_kappa(labels, predicted)
    assert 0.1 < near < 0.9
    assert quadratic_kappa(10**7 * labels, 10**7 * predicted) == pytest.approx(near, abs=1e-5)
    far = _stars(2_000_000, 2_000_003).encode_labels([10**30, -(10**30), 2_000_001])
    assert far.sum(-1).tolist() == [10**6 + 3, -(10**6), 1]


def test_a_level_beyond_the_scale_is_never_right() -> None:
    task = _stars(1, 3)
    assert task.unknown_labels([0, 1, 3, 7]) == ["0", "7"]
    outputs = np.asarray([[-1, -1], [-1, -1], [1, 1], [1, 1]], dtype=np.float32)
    found = task.row_values(_with_labels(task.encode_labels([0, 1, 3, 7])), outputs)
    assert found["labels"].tolist() == [-1, 0, 2, 6]
    assert found["right"].tolist() == [False, True, True, False]
    assert 0.0 < task.scores[0].compute(found) < 1.0


def test_two_levels_are_one_threshold() -> None:
    task = _stars(0, 1)
    assert task.num_outputs == 1
    assert task.encode_labels([-1, 0, 1, 2]).tolist() == [[-1.0], [0.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("kind", "column", "value", "message"),
    [
        ("a number", "number", "much", r"holds 'much', which is no number, in line 2\. Write a"),
        ("a number", "number", "nan", "which is no number"),
        ("a number", "number", "", r"is empty in line 2\."),
        (
            "a number",
            "number",
            "-1e39",
            r"holds -1e\+39 in line 2, whose square is too large .*1e\+18",
        ),
        ("several labels", "tags", "parser,unheard of", "labels that the training set never shows"),
        ("a pair", "second", "", r"column 'second' is empty in 1 of"),
        ("a level", "stars", "good", r"holds 'good', which is no whole number, in line 2\. Number"),
        ("a level", "stars", "2.5", "holds '2.5', which is no whole number"),
        ("a level", "stars", "inf", "which is no whole number"),
        ("a level", "stars", "", r"is empty in line 2\."),
        ("a level", "stars", "6", r"\(test\): the level 6 in line 2 is not among .* 1 to 5\. Rem"),
        (
            "a choice",
            "right",
            "3",
            r"line 2 says that choice 3 is right, and there are",
        ),
        ("a choice", "right", "-1", r"to 2\. -1 stands for no label, .* take another split"),
        ("a choice", "right", "2.5", r"holds '2\.5' in line 2, and the number of a choice was"),
        ("a choice", "right", "first", r"holds 'first' in line 2, and the number of a choice was"),
        ("a choice", "other", "", r"column 'other' is empty in 1 of"),
        ("a summary by T5", "second", "", r"column 'second' is empty in 1 of"),
        ("one text", "kind", "unheard of", "labels that the training set never shows"),
        (
            "words",
            "names",
            "O O",
            r"\d+ words and 2 labels in line 2\. Write a label for each word",
        ),
        ("words", "names", "", r"column 'names' is empty in 1 of"),
        ("words", "text", "", r"column 'text' is empty in 1 of"),
        (
            "a question",
            "answers",
            "nowhere",
            r"the answer 'nowhere' in line 2 does not stand in its",
        ),
        (
            "a question",
            "answers",
            "{",
            r"column 'answers' holds '\{' in line 2\. Write a text that",
        ),
        ("a question", "text", "", r"column 'text' is empty in 1 of"),
        ("a question", "question", "", r"column 'question' is empty in 1 of"),
    ],
)
def test_mistakes_in_test_rows(
    kind: str,
    column: str,
    value: str,
    message: str,
    tiny_config: dict[str, Any],
    tiny_generators: Path,
    tmp_path: Path,
) -> None:
    rows = make_rows(10, 3)
    rows[0][column] = value
    tree = tree_of(kind, tiny_config, tiny_generators)
    tree["data"] = {
        "train": str(write_csv(tmp_path / "train.csv", make_rows(60, 0))),
        "test": str(write_csv(tmp_path / "test.csv", rows)),
        **KINDS[kind]["data"],
    }
    config = parse_config(tree, source="test")
    with pytest.raises(DataError, match=message):
        identify_run(config, Storage(config.store))


def test_one_number_is_nothing_to_learn(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    rows = [row | {"number": "7"} for row in make_rows(30, 0)]
    tree = tiny_config | {"task": "text-regression"}
    tree["data"] = {"train": str(write_csv(tmp_path / "t.csv", rows)), "label": "number"}
    config = parse_config(tree, source="test")
    with pytest.raises(DataError, match="each of the 30 rows has the number 7"):
        identify_run(config, Storage(config.store))


@pytest.mark.parametrize(("last", "shown"), [("3", "3 to 3"), ("200", "3 to 200")])
def test_levels_that_are_no_scale(
    last: str, shown: str, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    rows = [row | {"stars": "3"} for row in make_rows(30, 0)]
    rows[-1]["stars"] = last
    tree = tiny_config | {"task": "text-ordinal"}
    tree["data"] = {"train": str(write_csv(tmp_path / "t.csv", rows)), "label": "stars"}
    config = parse_config(tree, source="test")
    with pytest.raises(DataError, match=f"the levels go from {shown}; 2 to 100 levels were"):
        identify_run(config, Storage(config.store))


def test_a_task_or_score_that_is_not_there_is_told(tiny_config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="there is none called 'haiku'; known are text-class"):
        parse_config(tiny_config | {"task": "haiku"}, source="test")
    tree = tiny_config | {"task": "text-regression"}
    tree["training"] = tree["training"] | {"score": "accuracy"}
    with pytest.raises(ConfigError, match="no score 'accuracy'; known are pearson, spearman"):
        parse_config(tree, source="test")
    names = [score.name for kind in TASKS.values() for score in kind.scores]
    assert "loss" in names
    assert all(find_score(name, "loss").higher_is_better is False for name in TASKS)
