"""Predictions of files, against transformers' own pipeline."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from afcore import predict
from afcore.errors import DataError, UserError
from afcore.model_settings import ModelSettings
from pipelines.cli.consoles import console, errors
from pipelines.cli.predict_shown import predict_and_show
from tests.conftest import stdlib_rows

LABELS = ["argparse", "random", "statistics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A classifier that answers differently from text to text, and cuts at 32 tokens."""
    path = tmp_path_factory.mktemp("classifier")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=3, id2label=dict(enumerate(LABELS))
    )
    torch.manual_seed(3)  # not before: loading draws more or less, depending on what was loaded
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.model_max_length = 32
    texts = [row["text"] for row in stdlib_rows()[:40]]
    batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        for weight in model.bert.parameters():
            weight.normal_(std=0.3)
        model.classifier.weight.normal_()
        model.classifier.bias -= model.eval()(**batch).logits.mean(0)
    settings = ModelSettings(run_id="r", precision="fp32", pooled_last_block=True)
    model.config.autofreeze = settings.model_dump()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def answered(folder: Path) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    """Some rows, one of them long, with a column that looks like numbers; and what the pipeline
    answers, best first: clearly, so that rounding in another batch changes no label."""
    pipeline = transformers.pipeline("text-classification", str(folder), truncation=True)
    some = [row | {"id": f"00{i}"} for i, row in enumerate(stdlib_rows()[:40])]
    some.append({"text": "word " * 600, "label": "random", "id": "1e3"})
    pairs = [(row, pipeline(row["text"], top_k=None)) for row in some]
    clear = [(row, all_) for row, all_ in pairs if all_[0]["score"] - all_[1]["score"] > 1e-5]
    assert len(clear) > 35
    assert clear[-1][0]["id"] == "1e3"
    return clear


@pytest.fixture(scope="module")
def rows(answered: list[tuple[dict[str, str], list[dict[str, Any]]]]) -> list[dict[str, str]]:
    """Rows of a file."""
    return [row for row, _ in answered]


@pytest.fixture(scope="module")
def expected(
    answered: list[tuple[dict[str, str], list[dict[str, Any]]]],
) -> tuple[list[str], np.ndarray]:
    """Labels, and [n, c] probabilities, as the pipeline gives them."""
    by_label = [{one["label"]: one["score"] for one in all_} for _, all_ in answered]
    return [all_[0]["label"] for _, all_ in answered], np.array(
        [[scores[label] for label in LABELS] for scores in by_label]
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("csv", "csv"),
        ("tsv", "jsonl"),
        ("jsonl", "parquet"),
        ("jsonl", "csv"),
        ("parquet", "parquet"),
        ("parquet", "tsv"),
    ],
)
def test_predictions_are_the_pipelines_and_every_column_is_kept(
    given: str,
    wanted: str,
    folder: Path,
    rows: list[dict[str, str]],
    expected: tuple[list[str], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predict, "CHUNK_ROWS", 9)
    labels, shares = expected
    assert len(set(labels)) > 1
    output, done = tmp_path / f"out.{wanted}", []
    found = predict.predict_file(
        str(folder),
        str(write(tmp_path / f"in.{given}", rows)),
        output=str(output),
        probabilities=True,
        progress=done.append,
    )
    assert done[-1] == found.num_rows == len(rows)
    assert done == sorted(done)
    written = read(output)
    assert [row["prediction"] for row in written] == labels
    assert [{name: row[name] for name in ("text", "label", "id")} for row in written] == rows
    assert list(written[0])[3:] == ["prediction", *(f"probability_{label}" for label in LABELS)]
    got = [[float(row[f"probability_{label}"]) for label in LABELS] for row in written]
    np.testing.assert_allclose(got, shares, atol=1e-5)
    right = sum(row["label"] == label for row, label in zip(rows, labels, strict=True))
    assert found.num_labelled == len(rows)
    assert found.score == right / len(rows)
    assert {path.name for path in tmp_path.iterdir()} == {f"in.{given}", f"out.{wanted}"}


def test_values_of_types_stay_what_they_are(folder: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        '{"text": "a", "n": 1, "x": 2.5, "l": [1, "b"], "t": true}',
        '{"text": "b", "n": null}',
    ]
    source.write_text("\n".join(lines))
    predict.predict_file(str(folder), str(source), output=str(output))
    first, second = read(output)
    assert {name: first[name] for name in "nxlt"} == {"n": 1, "x": 2.5, "l": [1, "b"], "t": True}
    assert second["n"] is None
    types = pa.schema([("text", pa.string()), ("day", pa.date32()), ("k", pa.int8())])
    table = pa.table({"text": ["a"], "day": pa.array([1], pa.date32()), "k": [7]}, schema=types)
    pq.write_table(table, tmp_path / "in.parquet")
    predict.predict_file(
        str(folder), str(tmp_path / "in.parquet"), output=str(tmp_path / "out.parquet")
    )
    back = pq.read_table(tmp_path / "out.parquet")
    assert back.drop_columns("prediction").equals(table)


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_half_of_a_surrogate_pair_beside_the_text(folder: Path, tmp_path: Path, kind: str) -> None:
    """As of an emoji that was cut: JSON can say it, and nothing else can."""
    source, output = tmp_path / "in.jsonl", tmp_path / f"out.{kind}"
    lines = ['{"text": "a", "note": "cut \\ud83d"}', '{"text": "\u00fc", "note": "\u00e4"}']
    source.write_text("\n".join(lines), encoding="utf-8")
    if kind == "jsonl":
        predict.predict_file(str(folder), str(source), output=str(output))
        assert [row["note"] for row in read(output)] == ["cut \ud83d", "\u00e4"]
        assert "\u00fc" in output.read_text()
        return
    with pytest.raises(DataError, match=r"'note' holds a text that is not Unicode .*\\ud83d'\. Wr"):
        predict.predict_file(str(folder), str(source), output=str(output))
    assert not output.exists()


def test_labels_that_are_missing_or_not_the_models(folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "a", "stars": label} for label in ("random", "", "cooking", " random ")]
    source = write(tmp_path / "in.csv", rows)
    out = {"output": str(tmp_path / "out.csv")}
    unlabelled = predict.predict_file(str(folder), str(source), **out)
    assert (unlabelled.labelled, unlabelled.score) == (False, None)
    found = predict.predict_file(str(folder), str(source), given={"label": "stars"}, **out)
    answer = read(tmp_path / "out.csv")[0]["prediction"]
    assert found.num_labelled == 3
    assert found.score == pytest.approx(2 / 3 * (answer == "random"))
    assert dict(found.unknown) == {"cooking": 1}


def test_a_level_is_a_whole_number_in_every_format(folder: Path, tmp_path: Path) -> None:
    """Of a model whose three outputs are thresholds, as its settings alone say."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    task = {"name": "text-ordinal", "pad_token_id": 0, "lowest": 1, "highest": 4}
    model.config.autofreeze |= {"task": task}
    model.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "model")
    source = write(tmp_path / "in.parquet", [{"text": row["text"]} for row in stdlib_rows()[:20]])
    for kind in ("parquet", "jsonl"):
        output = tmp_path / f"out.{kind}"
        predict.predict_file(str(tmp_path / "model"), str(source), output=str(output))
        found = [row["prediction"] for row in read(output)]
        assert {type(level) for level in found} == {int}
        assert len(set(found)) > 1
        assert set(found) <= {1, 2, 3, 4}


def _model(**changes: Any) -> Callable[[Path, Path], list[str]]:
    def change(folder: Path, here: Path) -> list[str]:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        vars(model.config).pop("autofreeze")
        for name, value in changes.items():
            setattr(model.config, name, value)
        (model.bert if changes.get("base") else model).save_pretrained(here / "model")
        tokenizer.save_pretrained(here / "model")
        return [str(here / "model"), str(write(here / "in.csv", [{"text": "a"}]))]

    return change


def _file(name: str, content: str, **options: str) -> Callable[[Path, Path], Any]:
    def change(folder: Path, here: Path) -> Any:
        (here / name).write_text(content)
        return [str(folder), str(here / name)], options

    return change


def _of_task(task: dict[str, Any], kind: str, **options: str) -> Callable[[Path, Path], Any]:
    """A model of another task that reads one text."""

    def change(folder: Path, here: Path) -> Any:
        config = transformers.AutoConfig.from_pretrained(folder)
        config.autofreeze, config.is_decoder = {"task": task}, True
        getattr(transformers, kind)(config).save_pretrained(here / "model")
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(here / "model")
        return ["model", str(write(here / "in.csv", [{"tokens": "a", "text": "a"}]))], options

    return change


MISTAKES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no such model": (lambda _, here: ["./none", str(write(here / "in.csv", [{"text": "a"}]))],
                      "there is no such folder"),
    "no classifier": (_model(base=True), "is not trained for a task: its weights lack classifier."),
    "labels without names": (
        _model(id2label={i: f"LABEL_{i}" for i in range(3)}), "does not name its labels"
    ),
    "labels that begin with 1": (
        _model(id2label=dict(enumerate("abc", 1))), "has the numbers 1, 2, 3, and 0 to 2 were exp"
    ),
    "a regression": (_model(problem_type="regression"), "is for regression"),
    "no such file": (lambda folder, here: [str(folder), str(here / "none.csv")], "no such file"),
    "no known format": (_file("in.txt", "text\na\n"), "its name must end in .csv"),
    "an empty file": (_file("in.csv", ""), "the file is empty"),
    "no rows": (_file("in.csv", "text\n"), "has no rows"),
    "no names of columns": (
        _file("in.csv", "\n,,\ntext,n,\na,1,\n"), "line 2, where the header was expected, names no"
    ),
    "no column": (_file("in.csv", "body\na\n"), "no column 'text', only body. Name the column with "
                  "--text"),
    "no such labels": (_file("in.csv", "text\na\n", label="stars"), "with --label"),
    "a column that is not read": (
        _of_task({"name": "token-classification", "label_names": ["A", "B", "C"], "unread": "A"},
                 "BertForTokenClassification", text_pair="n"),
        "--text-pair: the model 'model' is for token-classification, which reads no such column, "
        "but 'tokens', 'labels'. Leave it out",
    ),
    "a second text of a task that has none": (
        _of_task({"name": "causal-language-modeling"}, "BertLMHeadModel", text_pair="n"),
        "--text-pair: task causal-language-modeling reads no second text; a completion is named "
        "by --label",
    ),
    "a blank text": (_file("in.csv", "text,n\na,1\n ,2\n"), "is empty in 1 of 2 rows (the first is "
                     "line 3)"),
    "a list as text": (_file("in.jsonl", '{"text": ["a"]}'), "another column with --text"),
    "a column of that name": (_file("in.csv", "text,prediction\na,b\n"), "'prediction' already"),
    "two columns of a name": (_file("in.csv", "text,n,n\na,1,2\n"), "2 columns with the name 'n'"),
    "not UTF-8": (_file("in.csv", "text\na\n", encoding="utf-16"), "UTF-16"),
    "no such encoding": (_file("in.csv", "text\na\n", encoding="utf-9"), "unknown encoding"),
    "an output of no format": (_file("in.csv", "text\na\n", output="out.txt"), "must end in .csv"),
    "a packed output": (_file("in.csv", "text\na\n", output="out.csv.gz"), "must end in .csv"),
    "the input as output": (_file("in.csv", "text\na\n", output="in.csv"), "the file that is read"),
    "an output elsewhere": (_file("in.csv", "text\na\n", output="s3://b/o.csv"), "not a path of"),
    "a folder as output": (_file("in.csv", "text\na\n", output="folder.csv"), "is no file"),
    "an output where none can be": (
        _file("in.csv", "text\na\n", output="/proc/none/out.csv"), "cannot be written"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_nothing_is_written(
    mistake: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    given, message = MISTAKES[mistake]
    made = given(folder, tmp_path)
    arguments, options = made if isinstance(made, tuple) else (made, {})
    options = dict(options)
    output = options.pop("output", "out.csv")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as caught:
        predict.predict_file(*arguments, output=output, given=options)
    assert message in str(caught.value)
    assert "data.text" not in str(caught.value)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_earlier_output_stands_until_all_is_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "CHUNK_ROWS", 2)
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    output.write_text("of before")
    for content, message in (
        ("text\na\nb\nc\nd,e\n", "line 5 has 2 values"),
        ("text,n\na,1\nb,1\nc,1\n ,1\n", "is line 5"),
    ):
        source.write_text(content)
        with pytest.raises(UserError, match=message):
            predict.predict_file(str(folder), str(source), output=str(output))
        assert output.read_text() == "of before"
        assert len(list(tmp_path.iterdir())) == 2
    source.write_text("text\na\nb\nc\n")
    predict.predict_file(str(folder), str(source), output=str(output))
    assert [row["text"] for row in read(output)] == ["a", "b", "c"]


def test_a_model_of_somebody_else_is_computed_as_it_comes(
    folder: Path, tmp_path: Path, rows: list[dict[str, str]], expected: tuple[list[str], np.ndarray]
) -> None:
    model, _ = _model()(folder, tmp_path)
    source = write(tmp_path / "rows.csv", rows)
    predict.predict_file(model, str(source), output=str(tmp_path / "out.csv"))
    found = [row["prediction"] for row in read(tmp_path / "out.csv")]
    assert found == expected[0]


@pytest.mark.parametrize("task", ["text-regression", "text-classification"])
def test_answers_that_have_no_probabilities_are_said_to(
    task: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, options = str(folder), dict[str, str | None]()
    if task == "text-regression":
        config = transformers.AutoConfig.from_pretrained(folder, num_labels=1)
        config.autofreeze = {"task": {"name": task}}
        model = str(tmp_path / "model")
        transformers.BertForSequenceClassification(config).save_pretrained(model)
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(model)
    source, output = write(tmp_path / "in.csv", [{"text": "a"}]), tmp_path / "out.csv"
    predict_and_show(model, str(source), str(output), options, True, (console, errors))
    said = "no probabilities: answers of text-regression have none"
    assert (said in capfd.readouterr().out) == (task == "text-regression")
