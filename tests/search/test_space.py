"""What may be varied, and how it is said on the command line."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.errors import ConfigError
from afcore.search.sampling import listed_proposals
from afcore.search.space import Space, check_space, parse_over, search_of, trial_config
from afcore.search.winner_file import config_text, write_config

RATES = {"low": "1e-5", "high": "3e-4", "log": True}


def make(vary: dict[str, Any], **search: Any) -> Config:
    tree = {
        "model": {"name": "-"},
        "data": {"train": "-"},
        "search": {"vary": vary, **search},
    }
    return parse_config(tree, source="test")


@pytest.mark.parametrize(
    ("vary", "search", "message"),
    [
        ({}, {}, "search.vary: nothing is varied"),
        ({"training.lerning_rate": [1]}, {}, "did you mean 'training.learning_rate'"),
        ({"training.batch_size": [8, 0]}, {}, "training.batch_size: got 0"),
        ({"training.learning_rate": {"low": -1, "high": 1}}, {}, "training.learning_rate: got -1"),
        ({"training.epochs": []}, {}, "search.vary.training.epochs.*empty list"),
        ({"training.epochs": [2, 2]}, {}, "stands in the list twice"),
        ({"training.learning_rate": [0.1, float("inf")]}, {}, "numbers must be finite; got inf"),
        ({"training.learning_rate": [float("nan")]}, {}, "numbers must be finite; got nan"),
        (
            {"training.warmup_ratio": {"low": 0.1, "high": 1, "step": 0.3}},
            {},
            "training.warmup_ratio: got 1.0; input should be less than 1",
        ),
        (
            {"freezing.policy": ["none"], "freezing.tolerance": [0, 1]},
            {},
            "unknown key 'freezing.tolerance'; it is for freezing.policy 'frozen_start'; 'none'",
        ),
        ({"freezing.policy": [["static"]], "freezing.depth": [1]}, {}, "freezing.policy: got"),
        ({"training.epochs": [1]}, {"score": "f9"}, "search.score: task text-classification has"),
        (
            {"task": ["text-classification", "text-regression"]},
            {},
            "search.score: task text-regression has no score 'accuracy'; known are pearson",
        ),
        ({"training.epochs": {"low": 3, "high": 2}}, {}, r"low \(3\) must be less than high"),
        ({"training.epochs": {"low": 1, "hi": 2}}, {}, "a range has low, high, log and step"),
        ({"training.learning_rate": {"low": 0, "high": 1, "log": True}}, {}, "begins above 0"),
        ({"store": ["a"]}, {}, "store changes nothing of what is trained"),
        ({"mode": ["cached", "hf_trainer"]}, {}, "mode hf_trainer is for comparison"),
        ({"training.learning_rate": RATES}, {"sampler": "grid"}, "a grid needs a list"),
        ({"training.epochs": [1]}, {"sampler": "cmaes"}, "keeps pickles in the study"),
        ({"training.seed": [0, 1]}, {"seeds": 2}, "not both"),
        ({"training.epochs": [1]}, {"storage": "mysql://u:secret@h/d"}, "a password in a URI"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(
    vary: dict[str, Any], search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(make(vary, **search))


def test_over() -> None:
    found = parse_over(
        [
            "training.learning_rate=1e-5..3e-4:log",
            "freezing.depth=0,2",
            "training.epochs=1..5:step=2",
        ]
    )
    space = check_space(make(found))
    assert [one.varied for one in space.dimensions if isinstance(one.varied, list)] == [[0, 2]]
    depth, epochs, rate = space.dimensions
    assert (rate.ends, rate.grid) == ([1e-5, 3e-4], None)
    assert depth.grid == [0, 2]
    assert epochs.grid == [1, 3, 5]
    with pytest.raises(ConfigError, match=r"may follow :log or :step"):
        parse_over(["training.epochs=1..5:2"])
    with pytest.raises(ConfigError, match=r"is not of the form"):
        parse_over(["training.epochs"])
    with pytest.raises(ConfigError, match=r"'2026-02-30' is not YAML"):
        parse_over(["data.train=2026-02-28,2026-02-30"])
    assert parse_over(["freezing.depth=0,null"]) == {"freezing.depth": [0, None]}
    for text in ("0,2,", "0,,2", ",0", "0, "):
        with pytest.raises(ConfigError, match=r"a value beside a comma is empty"):
            parse_over([f"freezing.depth={text}"])
    with pytest.raises(ConfigError, match=r"--over training.epochs: is given twice"):
        parse_over(["training.epochs=1,2", "training.epochs=3"])


def test_paths_with_dots_are_no_range() -> None:
    over = ["data.train=../a.csv,../b.csv", "model.name=/x/../m1, m2"]
    assert parse_over(over) == {
        "data.train": ["../a.csv", "../b.csv"],
        "model.name": ["/x/../m1", "m2"],
    }
    for text in ("..5", "1..x", "1e-5..3e-4:log"):
        assert set(parse_over([f"training.learning_rate={text}"])["training.learning_rate"]) >= {
            "low",
            "high",
        }


@pytest.mark.parametrize("text", ["1e-5...inf:log", "1e-5..1e400"])
def test_ends_that_are_not_finite_are_refused(text: str) -> None:
    varied = parse_over([f"training.learning_rate={text}"])
    with pytest.raises(ConfigError, match=r"high must be (finite|a number)"):
        check_space(make(varied))


def test_a_key_of_some_policies_is_varied_with_these() -> None:
    config = make(
        {"freezing.depth": [1, 2], "freezing.policy": ["frozen_start", "gradient_norm"]},
        sampler="grid",
    )
    space = check_space(config)
    grid = space.grid(0)
    assert len(grid) == 3
    assert {"freezing.policy": "gradient_norm"} in grid
    policies = {trial_config(config, values).freezing.policy for values in grid}
    assert policies == {"frozen_start", "gradient_norm"}


@pytest.mark.parametrize(
    ("policy", "vary", "size"),
    [
        # All of the varied policies have the key, and the file's has not.
        (
            "gradient_norm",
            {"freezing.policy": ["static", "linear"], "freezing.depth": [1, 2]},
            4,
        ),
        ("frozen_start", {"freezing.policy": ["guarded"], "freezing.patience": [1, 2]}, 2),
    ],
)
def test_a_key_that_the_files_policy_has_not(policy: str, vary: dict[str, Any], size: int) -> None:
    config = make(vary, sampler="grid").replace(**{"freezing.policy": policy})
    grid = check_space(config).grid(0)
    assert len(grid) == size
    varied = {trial_config(config, values).freezing.model_dump_json() for values in grid}
    assert len(varied) == size


GENERATING = {"task": "summarization"}


@pytest.mark.parametrize(
    ("changes", "vary", "score"),
    [
        ({"training.score": "loss"}, {"training.epochs": [1, 2]}, "rougeL"),
        ({}, {"training.score": ["rougeL", "loss"]}, None),
        ({"training.score": "rouge1"}, {"training.score": ["rouge2", "loss"]}, "rougeL"),
    ],
)
def test_a_score_for_which_a_trial_generates_nothing(
    changes: dict[str, Any], vary: dict[str, Any], score: str | None
) -> None:
    config = make(vary, score=score).replace(**GENERATING, **changes)
    with pytest.raises(
        ConfigError,
        match=r"search.score: task summarization generates nothing where training.score is loss, "
        r".*no rougeL of it. Set search.score to loss, or training.score to rougeL",
    ):
        check_space(config)


@pytest.mark.parametrize(
    ("vary", "score"),
    [
        ({"training.score": ["rougeL", "rouge1"]}, "rouge2"),
        ({"training.score": ["rougeL", "loss"]}, "loss"),
        ({"task": ["summarization", "text-classification"]}, "loss"),
    ],
)
def test_a_score_that_every_trial_computes(vary: dict[str, Any], score: str) -> None:
    check_space(make(vary, score=score).replace(**GENERATING))


def test_every_step_of_a_range_is_tried() -> None:
    config = make({"training.batch_size": {"low": 8, "high": 32, "step": 4}})
    check_space(config)
    with pytest.raises(ConfigError, match=r"workers.max 8 does not divide training.batch_size 12"):
        check_space(config.replace(**{"workers.max": 8}))
    (many,) = check_space(make({"training.seed": {"low": 0, "high": 2**31 - 1}})).dimensions
    assert many.tried == [0, 2**31 - 1]


def test_an_end_that_no_step_reaches_is_not_tried() -> None:
    (ratio,) = check_space(
        make({"training.warmup_ratio": {"low": 0, "high": 1, "step": 0.3}})
    ).dimensions
    assert ratio.grid == [0.0, 0.3, 0.6, 0.9]
    assert ratio.ends == [0.0, 0.9]


def test_steps_stay_within_their_range() -> None:
    (ratio,) = check_space(
        make({"training.warmup_ratio": {"low": 0.1, "high": 0.3, "step": 0.1}}, sampler="grid")
    ).dimensions
    assert ratio.grid == [0.1, 0.2, 0.3]
    assert all(map(ratio.distribution._contains, ratio.grid))


def test_a_grid_is_shuffled_as_a_whole_and_made_as_far_as_it_is_wanted() -> None:
    vary = {
        "freezing.policy": ["static", "none", "frozen_start"],
        "freezing.depth": [None, 1, 2],
        "freezing.tolerance": [0, 1],
        "training.epochs": {"low": 1, "high": 3},
    }
    space = check_space(make(vary, sampler="grid"))
    expected: list[dict[str, Any]] = []
    for one in itertools.product(*(dimension.grid or [] for dimension in space.dimensions)):
        given = dict(zip((d.key for d in space.dimensions), one, strict=True))
        proposed = space.propose(lambda dimension, given=given: given[dimension.key])
        if proposed not in expected:
            expected.append(proposed)
    random.Random(3).shuffle(expected)
    assert space.grid(3) == expected
    assert list(map(list, space.grid(3))) == list(map(list, expected))  # keys in one order
    assert space.grid_size() == len(expected) == 9 + 3 + 18
    assert space.grid(3, 5) == expected[:5]
    assert Space(()).grid(0) == [{}]


def test_a_large_grid_takes_no_longer_than_what_is_wanted_of_it() -> None:
    names = ("epochs", "batch_size", "learning_rate", "weight_decay", "max_grad_norm")
    ten = list(range(1, 11))
    space = check_space(make({f"training.{name}": ten for name in names}, sampler="grid"))
    assert space.grid_size() == 10**5
    assert len({str(one) for one in space.grid(0, 20)}) == 20


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_proposals_that_look_at_no_score_do_not_depend_on_their_number(sampler: str) -> None:
    vary = {"training.epochs": [1, 2, 3], "training.batch_size": {"low": 8, "high": 32, "step": 8}}
    config = make(vary, sampler=sampler)
    search, space = search_of(config), check_space(config)
    ten = listed_proposals(search, space, 10)
    assert listed_proposals(search, space, 4) == ten[:4]
    assert len({str(one) for one in ten}) > 4
    other = search.model_copy(update={"seed": 1})
    assert listed_proposals(other, space, 10) != ten


@pytest.mark.parametrize("policy", ["frozen_start", "static", "gradient_norm"])
def test_the_best_configuration_is_a_file(tmp_path: Path, policy: str) -> None:
    from afcore.config import load_config

    config = trial_config(
        make({"training.learning_rate": RATES}),
        {"training.learning_rate": 1.2345678901234e-5, "freezing.policy": policy},
    )
    path = tmp_path / "best.yaml"
    write_config(config, path, "the best")
    assert load_config(str(path)) == config
    assert "search:" not in config_text(config)


@pytest.mark.parametrize(
    ("section", "varies"),
    [
        ({"storage": "sqlite:///o.db"}, False),
        ({"vary": {"training.learning_rate": [1e-4, 1e-3]}}, True),
        ({"seeds": 2}, True),
        ({"folds": 2}, True),
        ({"labels": ["a", "b"]}, True),
    ],
)
def test_a_section_may_only_say_where_studies_lie(section: dict[str, Any], varies: bool) -> None:
    search = make(**{"vary": {}, **section}).search
    assert search is not None
    assert search.varies == varies
