"""97 % of the rows are of one class: which epoch is published, and what is said of it."""

import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from afcore.config import Config, parse_config
from afcore.results.report import RunReport
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.publish import publish
from afcore.runs.records import best_epoch
from afcore.runs.run import begin_run, run_lease
from afcore.storage.objects import Storage
from afcore.tasks.class_balance import score_warnings
from afcore.tasks.known_tasks import find_score
from afcore.tracking.tracker import Tracker
from tests.conftest import write_csv
from tests.reports import make_report

TASK = "text-classification"
PLAIN = ["meeting", "report", "lunch", "project", "team", "notes", "update", "thanks", "review"]
PLAIN += ["schedule", "budget", "plan", "draft", "agenda", "call"]


def rows(rng: random.Random, ham: int, ham_with_prize: int, spam: int) -> list[dict[str, str]]:
    """Spam is what has the word "prize"; some ham has it too."""
    kinds = [("ham", False)] * ham + [("ham", True)] * ham_with_prize + [("spam", True)] * spam
    found = []
    for label, prize in kinds:
        words = [rng.choice(PLAIN) for _ in range(8)]
        if prize:
            words[rng.randrange(8)] = "prize"
        found.append({"text": " ".join(words), "label": label})
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT and three files, in each of which 97 % or so is ham."""
    folder, rng = tmp_path_factory.mktemp("mail"), random.Random(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PLAIN, "prize"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **named
    ).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    transformers.BertModel(config).save_pretrained(folder / "model")
    for name, counts in (
        ("train", (388, 0, 12)),
        ("validation", (93, 4, 3)),
        ("test", (188, 4, 8)),
    ):
        write_csv(folder / f"{name}.csv", rows(rng, *counts))
    return folder


@pytest.fixture
def config(mail: Path, tmp_path: Path, empty_tracking_store: Path) -> Config:
    shutil.copy(empty_tracking_store, tmp_path / "mlflow.db")
    data: dict[str, Any] = {name: f"{mail}/{name}.csv" for name in ("train", "validation", "test")}
    tree = {
        "mode": "full",
        "model": {"name": f"{mail}/model"},
        "data": {**data, "max_length": 32},
        "training": {
            "epochs": 4,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "schedule": "constant",
            "precision": "fp32",
        },
        "store": str(tmp_path / "store"),
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "test"},
    }
    return parse_config(tree, source="test")


def run(config: Config) -> RunReport:
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        begun = begin_run(storage, record)
        for epoch in range(1, config.training.num_epochs + 1):
            run_epoch(begun, epoch, lease.number)
        tracker = Tracker(config.tracking.uri, config.tracking.experiment)
        mlflow_run_id = tracker.begin(record.training_id, "test")
        return publish(begun, tracker, mlflow_run_id, 1.0)


@pytest.mark.slow
def test_the_score_chooses_the_epoch_that_is_published(config: Config) -> None:
    by_accuracy = run(config)
    by_f1 = run(config.replace(**{"training.score": "f1_macro"}))
    # The same training: what differs is which of its epochs is taken.
    assert [e.validation for e in by_f1.epochs] == [e.validation for e in by_accuracy.epochs]
    assert by_accuracy.run_id != by_f1.run_id

    # Accuracy takes an epoch that answers ham and nothing else.
    assert by_accuracy.totals.best_epoch == 2
    assert by_accuracy.totals.validation["accuracy"] == pytest.approx(0.97)
    assert by_accuracy.totals.test is not None
    assert by_accuracy.totals.test["f1_macro"] == pytest.approx(0.489796, abs=1e-5)
    assert by_accuracy.totals.test["matthews"] == 0.0
    assert by_accuracy.test_classes is not None
    assert by_accuracy.test_classes.confusion == {"ham": {"ham": 192}, "spam": {"ham": 8}}
    assert [one.precision for one in by_accuracy.test_classes.classes] == [0.96, None]
    assert [one.recall for one in by_accuracy.test_classes.classes] == [1.0, 0.0]
    assert by_accuracy.notes[0].startswith(
        "97.0 % of the validation rows are of class 'ham': a model that always answers it"
    )

    # Macro-F1 takes one that finds the spam, less accurate on validation.
    assert by_f1.totals.best_epoch == 4
    assert by_f1.totals.validation["accuracy"] == pytest.approx(0.96)
    assert by_f1.totals.validation["f1_macro"] == pytest.approx(0.789474, abs=1e-5)
    assert by_f1.test_classes is not None
    assert by_f1.test_classes.confusion == {"ham": {"ham": 188, "spam": 4}, "spam": {"spam": 8}}
    spam = by_f1.test_classes.classes[1]
    assert (spam.precision, spam.recall, spam.f1) == (pytest.approx(2 / 3), 1.0, 0.8)
    assert (spam.support, spam.predicted) == (8, 12)
    assert by_f1.notes == []

    taken = {
        score: best_epoch(by_f1.epochs, find_score(TASK, score)).epoch
        for score in ("matthews", "loss")
    }
    assert taken == {"matthews": 4, "loss": 3}


def test_among_epochs_without_a_number_there_is_another() -> None:
    reports = [
        epoch.model_copy(update={"validation": scores})
        for epoch, scores in zip(
            make_report().epochs,
            (
                {"accuracy": 0.9, "f1_macro": 0.9, "loss": float("nan")},
                {"accuracy": 0.5, "f1_macro": 0.4, "loss": 0.7},
            ),
            strict=True,
        )
    ]
    for score in ("accuracy", "f1_macro", "loss"):
        assert best_epoch(reports, find_score(TASK, score)).epoch == 2
        assert best_epoch(reports[::-1], find_score(TASK, score)).epoch == 2


@pytest.mark.parametrize("mode", ["full", "cached", "hf_trainer"])
def test_the_score_names_the_run(config: Config, mode: str) -> None:
    storage = Storage(config.store)
    names = [
        identify_run(config.replace(mode=mode, **{"training.score": score}), storage).run_id
        for score in ("accuracy", "f1_macro", "accuracy")
    ]
    assert names[0] == names[2] != names[1]


WARNINGS = [
    ([97, 3], "accuracy", r"97.0 % .* 'ham': .* Set training.score to f1_macro or matthews$"),
    ([80, 20], "accuracy", r"^80.0 % of the validation rows"),
    ([79, 21], "accuracy", None),
    ([97, 3], "f1_macro", None),
    ([97, 3], "loss", None),
    ([100, 0], "matthews", r"^all 100 validation rows are of class 'ham': no score can say"),
    ([97, 0, 3], "f1_macro", r"no validation row is of class 'spam': the macro-F1 that chooses"),
    ([50, 0, 50], "accuracy", None),
]


@pytest.mark.parametrize(("counts", "score", "expected"), WARNINGS)
def test_what_is_said_of_the_validation_split(
    counts: list[int], score: str, expected: str | None
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    said = score_warnings(labels, ["ham", "spam", "other"][: len(counts)], find_score(TASK, score))
    if expected is None:
        assert said == []
    else:
        (line,) = said
        assert re.search(expected, line)
