"""``autofreeze check-model``, in this process."""

import json
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from pipelines.cli import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=1,
    )
    config.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_it_says_what_the_verdict_stands_on(folder: Path) -> None:
    done = CliRunner().invoke(app, ["check-model", str(folder)])
    assert done.exit_code == 0, done.output
    for line in (
        "weights: random (there are none beside config.json)",
        "embeddings: transformer.wte.weight, transformer.wpe.weight",
        "blocks: 3 of GPT2Block, transformer.h.0 to transformer.h.2",
        "drawn in training, above the boundary alone: resid_pdrop 0.1",
        "bytes of a set per token: 64 in bf16, 128 in fp32, 36 in int8 (widths: hidden_states 32)",
        "verdict: cached: ",
    ):
        assert line in done.output


def test_notes_are_shown(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"")
    done = CliRunner().invoke(app, ["check-model", str(folder)])
    assert "note: runs read safetensors alone, and refuse pytorch_model.bin" in done.output


def test_the_same_as_json(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["check-model", str(folder), "--json", "--task", "text-regression"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["verdict"], found["model"]) == ("cached", "GPT2ForSequenceClassification")
    assert [one["boundary"] for one in found["compared"]] == [1, 2]


def test_a_model_that_cannot_be_has_a_verdict_and_a_folder_that_is_missing_an_error(
    folder: Path,
) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    done = CliRunner().invoke(app, ["check-model", str(folder)])
    assert done.exit_code == 0
    assert "verdict: unsupported: " in done.output
    done = CliRunner().invoke(app, ["check-model", str(folder / "none")])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
