"""The next token: packing, conversations, what is refused, that it is learned, and its example."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from afcore.config import load_config, parse_config
from afcore.data.sources import Rows, load_rows
from afcore.data.table import Places, Table
from afcore.errors import ConfigError, DataError, ModelError, UserError
from afcore.model.pretrained import load_tokenizer
from afcore.predict import predict_file
from afcore.runs.publish import described
from afcore.runs.state import load_checkpoint
from afcore.tasks.causal_language_modeling import CausalLanguageModeling, packed, windows
from afcore.tasks.conversations import tokens_of_conversations
from afcore.tasks.task import NO_ANSWER
from afcore.training.evaluate import evaluate
from pipelines.example_configs import write_examples
from tests.conftest import write_csv
from tests.tasks.test_summarization import begin, trained

TALK = [
    {"role": "user", "content": "random"},
    {"role": "assistant", "content": "value"},
    {"role": "user", "content": "the list"},
    {"role": "assistant", "content": "name of"},
]


@pytest.fixture
def tree(tiny_config: dict[str, Any], tiny_generators: Path) -> dict[str, Any]:
    return tiny_config | {
        "task": "causal-language-modeling",
        "model": {"name": str(tiny_generators / "gpt2")},
        "freezing": {"policy": "frozen_start"},
    }


def talks(path: Path, count: int = 40, **changes: Any) -> str:
    rows = [{"messages": [*TALK[:-1], {**TALK[-1], "content": f"name {i}"}]} for i in range(count)]
    rows[1] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_packed_texts_are_cut_into_blocks_and_the_rest_is_kept() -> None:
    assert list(packed([[1, 2, 3], [4, 5], [6, 7, 8]], 3)) == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert list(packed([[1, 2, 3], [4]], 3)) == [[1, 2, 3]], "one token alone predicts nothing"


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (2, [[0, 1]]),
        (4, [[0, 1, 2, 3]]),
        (5, [[0, 1, 2, 3], [3, 4]]),
        (8, [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]),
    ],
)
def test_windows_predict_each_token_but_the_first_once(
    length: int, expected: list[list[int]]
) -> None:
    found = windows(list(range(length)), 4)
    assert found == expected
    assert [token for window in found for token in window[1:]] == list(range(1, length))


def test_texts_follow_each_other_behind_one_end_token(tiny_generators: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_generators / "gpt2"))
    task = CausalLanguageModeling(pad_token_id=0, end_token_id=3)
    rows = Rows("r", {"text": ["random", "value"]})
    whole = task.training_examples(tokenizer, rows, 64).inputs["input_ids"].values
    assert (whole == 3).sum() == 3
    apart = task.examples(tokenizer, rows, 64)
    assert apart.rows is not None
    assert apart.rows.tolist() == [0, 1]
    column = apart.inputs["input_ids"]
    assert column.offsets is not None
    first, second = np.split(column.values, column.offsets[1:2])
    assert whole.tolist() == [*first, *second[1:]]


def test_only_what_the_assistant_says_is_asked(tiny_generators: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_generators / "gpt2"))
    task = CausalLanguageModeling(pad_token_id=0, end_token_id=3)
    examples = task.examples(tokenizer, Rows("r", {"text": [TALK]}), 64)
    labels = examples.targets["labels"].values
    said = tokenizer.decode(labels[labels != NO_ANSWER])
    assert said.split() == ["value", "[SEP]", "name", "of", "[SEP]"]
    weights = task.weights(examples)
    assert weights is not None
    assert weights.tolist() == [(labels != NO_ANSWER).sum()]
    ids = examples.inputs["input_ids"].values
    assert (labels == ids)[labels != NO_ANSWER].all()


@pytest.mark.parametrize("write", [json.dumps, str])
def test_conversations_that_are_texts_of_a_csv(write: Callable[[Any], str], tmp_path: Path) -> None:
    """As JSON, or as pandas writes lists."""
    talk = [{**TALK[0], "content": "it's {so}"}, *TALK[1:]]
    (field,) = CausalLanguageModeling.fields({"text": "messages"})
    path = write_csv(tmp_path / "talks.csv", [{"messages": write(some)} for some in (talk, TALK)])
    assert load_rows(str(path), "train", [field]).inputs["text"] == [talk, TALK]
    path = write_csv(tmp_path / "mixed.csv", [{"messages": write(talk)}, {"messages": "a text"}])
    with pytest.raises(DataError, match="holds 'a text', which is no conversation, in line 3"):
        load_rows(str(path), "train", [field])
    path = write_csv(tmp_path / "texts.csv", [{"messages": '[{"a": 1}]'}, {"messages": "a text"}])
    assert load_rows(str(path), "train", [field]).inputs["text"] == ['[{"a": 1}]', "a text"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[{'from': 'human', 'value': 'a'}]", "a conversation whose message 1 has no role"),
        (
            "[{'role': 'user', 'content': array(['a'])}]",
            "\"\\[{'role': .*, which is no conversation,",
        ),
    ],
)
def test_texts_that_mean_conversations(text: str, fault: str) -> None:
    (field,) = CausalLanguageModeling.fields({"text": "messages"})
    table = Table(["messages"], {"messages": [text]}, Places("row", [0]))
    with pytest.raises(DataError, match=f"holds {fault}"):
        field.read("here", "text", "messages", table)


def test_perplexity_by_hand() -> None:
    task = CausalLanguageModeling(pad_token_id=0)
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [1, 1, 1]]]))
    labels = torch.tensor([[-100, 1, 2]])
    assert float(task.losses(logits, {"labels": labels})) == pytest.approx(-np.log(0.25 * 0.6) / 2)
    values = {
        "losses": np.asarray([np.log(4), np.log(2)], dtype=np.float32),
        "weights": np.asarray([1, 3]),
    }
    assert task.scores[0].compute(values) == pytest.approx((4 * 2**3) ** 0.25)


def round_of_words(path: Path, count: int) -> str:
    """Texts in which each word says the next one, but not which is the first."""
    words = ["parser", "random", "mean", "value", "list", "file", "name", "string"]
    rows = [
        {"text": " ".join([*words[number % 8 :], *words[: number % 8]])} for number in range(count)
    ]
    return str(write_csv(path, rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_it_is_learned_from_random_weights(
    name: str, tree: dict[str, Any], tiny_generators: Path, tmp_path: Path
) -> None:
    """A third of the perplexity of whoever knows how frequent each token of the test is."""
    tree |= {"mode": "full", "model": {"name": str(tiny_generators / name)}}
    tree["training"] = tree["training"] | {"epochs": 6, "learning_rate": 5e-3, "batch_size": 4}
    tree["data"] = {
        split: round_of_words(tmp_path / f"{split}.csv", count)
        for split, count in {"train": 400, "test": 80}.items()
    } | {"max_length": 64}
    run = trained(parse_config(tree, source="test"))
    test = run.data().test
    assert test is not None
    scores = evaluate(run.trainee(load_checkpoint(run, 6), test)).scores()
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]), rel=1e-6)
    assert scores["perplexity"] < np.exp(run.task.chance_loss(test)) / 3


def test_a_prediction_is_the_perplexity_of_a_row(
    tree: dict[str, Any], tmp_path: Path, tiny_generators: Path
) -> None:
    """Conversations; and a row's does not depend on the others."""
    files = {split: talks(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    tree["data"] = {**files, "text": "messages", "max_length": 48}
    tree["training"] = tree["training"] | {"epochs": 1}
    run = trained(parse_config(tree, source="test"))
    split, data = load_checkpoint(run, 1), run.data()
    assert data.test is not None
    answers = evaluate(run.trainee(split, data.test))
    folder = tmp_path / "published"
    described(run, split.model).save_pretrained(folder)
    load_tokenizer(tree["model"]["name"], 48).save_pretrained(folder)
    output = tmp_path / "out.csv"
    found = predict_file(str(folder), files["test"], output=str(output))
    assert found.score == pytest.approx(answers.scores()["perplexity"], rel=1e-5)
    with output.open(newline="") as file:
        written = [float(row["prediction"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(written, np.exp(answers.values["losses"]), rtol=1e-5)


@pytest.mark.parametrize("has_settings", [True, False])
def test_it_writes_as_the_model_that_it_was_made_from(
    has_settings: bool, tree: dict[str, Any], tmp_path: Path
) -> None:
    """Where its texts end, and with what it has computed before."""
    base = tmp_path / "base"
    shutil.copytree(tree["model"]["name"], base)
    settings = base / "generation_config.json"
    settings.unlink()
    if has_settings:
        told = {"eos_token_id": [3, 7], "do_sample": True, "top_p": 0.5, "max_new_tokens": 5}
        settings.write_text(json.dumps(told))
    file = talks(tmp_path / "train.jsonl")
    data = {"train": file, "text": "messages", "max_length": 48}
    tree |= {"model": {"name": str(base)}, "data": data}
    tree["training"] = tree["training"] | {"epochs": 1}
    run = trained(parse_config(tree, source="test"))
    described(run, load_checkpoint(run, 1).model).save_pretrained(tmp_path / "published")
    kind = transformers.AutoModelForCausalLM
    found, expected = (kind.from_pretrained(path) for path in (tmp_path / "published", base))
    assert found.generation_config.to_diff_dict() == expected.generation_config.to_diff_dict()
    assert found.generation_config.use_cache is not False
    assert found.generation_config.eos_token_id == ([3, 7] if has_settings else 3)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    assert found.generate(torch.tensor([[5, 6, 7]]), **options).past_key_values is not None


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"content": "a"}], "a conversation whose message 1 has no role that is a text in line 2"),
        ([{"role": "assistant"}], "whose message 1 has no content"),
        ([{"role": "user", "content": "a"}], "a conversation in which the assistant says nothing"),
        ("a text", "holds 'a text', which is no conversation, in line 2"),
        (
            [{"role": "user", "content": "of " * 60}, TALK[1]],
            r"nothing is left to predict in 1 of \d+ rows .* Raise data.max_length",
        ),
    ],
)
def test_mistakes_in_conversations(
    messages: Any, message: str, tree: dict[str, Any], tmp_path: Path
) -> None:
    test = talks(tmp_path / "test.jsonl", messages=messages)
    tree["data"] = {
        "train": talks(tmp_path / "train.jsonl"),
        "test": test,
        "text": "messages",
        "max_length": 48,
    }
    with pytest.raises(DataError, match=message):
        begin(parse_config(tree, source="test"))


def test_a_tokenizer_that_does_not_know_where_its_tokens_stand_is_refused() -> None:
    slow = SimpleNamespace(is_fast=False, chat_template="{{ messages }}", name_or_path="m")
    rows = Rows("here", {"text": [TALK]})
    with pytest.raises(DataError, match="needs a tokenizer that knows where its tokens stand"):
        next(tokens_of_conversations(slow, rows))


def test_mistakes(tree: dict[str, Any], tmp_path: Path, tiny_bert: Path) -> None:
    def fails(error: type[UserError], message: str, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            begin(parse_config(tree | changes, source="test"))

    data = tree["data"]
    fails(ConfigError, "reads no second text; a completion", data=data | {"text_pair": "label"})
    fails(DataError, "no column 'prompt', only text, label", data=data | {"text": "prompt"})
    bert = {"name": str(tiny_bert)}
    fails(ModelError, "has no end token, by which one text is told .* give a decoder", model=bert)
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert, folder)
    tokenizer = load_tokenizer(tree["model"]["name"])
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    model = {"name": str(folder)}
    fails(ModelError, "BertLMHeadModel reads the tokens that it should predict", model=model)
    said = {"train": talks(tmp_path / "t.jsonl"), "text": "messages"}
    fails(ModelError, "has no chat template, by which", model=model, data=said)
    labelled = said | {"train": talks(tmp_path / "l.jsonl"), "label": "note"}
    lines = Path(said["train"]).read_text().splitlines()
    rows = [json.dumps(json.loads(line) | {"note": "n"}) for line in lines]
    Path(labelled["train"]).write_text("\n".join(rows))
    fails(DataError, "conversations, which hold their answers; leave data.label", data=labelled)


@pytest.mark.usefixtures("few_built_in_rows")
def test_the_example_runs(tmp_path: Path, tree: dict[str, Any]) -> None:
    write_examples(tmp_path / "examples")
    changes = {
        "model.name": tree["model"]["name"],
        "data.limit": 40,
        "data.test_limit": 8,
        "data.max_length": 48,
        "training.epochs": 1,
        "store": tmp_path / "store",
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    name = "causal_language_modeling.yaml"
    run = trained(load_config(str(tmp_path / "examples" / name), overrides))
    assert run.config.freezing.policy == "frozen_start"
    assert set(run.data().train.lengths[:-1]) == {48}
