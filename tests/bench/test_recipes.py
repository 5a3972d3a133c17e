"""Recipes of the benches' data sets: parsing, splitting, what is said where a source is missing."""

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import load_script, write_csv

BENCH = Path(__file__).parent.parent.parent / "bench"
FILES = ("train.csv", "test.csv")
Recipes = Callable[[str], ModuleType]
PACKAGES = """\
Package: zsh-doc
Source: zsh (5.9-4)
Version: 5.9-4+b6
Description: zsh documentation - info/HTML format
Tag: devel::doc, made-of::html,
 role::documentation
Section: doc

Package: zsh
Description: shell with lots of   features
Section: contrib/shells

Package: zsh-static-old
Source: zsh
Description: transitional package
Section: oldlibs

Package: nameless
Section: net
"""
NOUNS = """\
  1 This software and database is being provided to you, the LICENSEE, by
  2 Princeton University under the following license.
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived or known  
02084071 05 n 01 dog 0 000 | a member of the genus Canis; common; "the dog barked all night"  
02958343 06 n 01 car 0 000 | a motor vehicle: "he needs a car to get to work"; "his car"  
07700003 26 n 01 cool 0 000 | the quality of being "cool" in style  
08000000 28 n 01 when 0 000 | "no definition"  
"""  # noqa: W291 -- as WordNet's lines end


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> Recipes:
    monkeypatch.syspath_prepend(str(BENCH))
    return lambda name: importlib.import_module(f"bench.recipes.{name}")


def test_synopses_of_debian_packages_by_section_and_source(recipes: Recipes) -> None:
    debian, row = recipes("debian"), recipes("rows").Row
    assert list(debian.synopsis_rows(PACKAGES.splitlines())) == [
        row("zsh documentation - info/HTML format", "doc", "zsh"),
        row("shell with lots of features", "shells", "zsh"),
    ]
    first = next(debian.package_fields(PACKAGES.splitlines()))
    assert first["Tag"] == "devel::doc, made-of::html,"
    assert first["Source"] == "zsh (5.9-4)"


def test_definitions_of_wordnet_without_examples(recipes: Recipes) -> None:
    row = recipes("rows").Row
    assert list(recipes("wordnet").gloss_rows(NOUNS.splitlines())) == [
        row("that which is perceived or known", "noun.Tops"),
        row("a member of the genus Canis; common", "noun.animal"),
        row("a motor vehicle", "noun.artifact"),
        row('the quality of being "cool" in style', "noun.state"),
        row('"no definition"', "noun.time"),
    ]


def test_pieces_of_code_without_what_gives_the_answer_away(recipes: Recipes) -> None:
    code = [
        "# (c) the authors of something",
        "",
        "from something import else",
        "import os",
        "NumPy = 1",
        "x" * 201,
        *(f"    value_{i:04d} = function({i:04d})" for i in range(200)),
    ]
    first, second, *more = recipes("installed").pieces("\n".join(code), "numpy")
    # 25 characters a line that are not blank, and 1,500 of them are wanted.
    assert first.splitlines() == [f"    value_{i:04d} = function({i:04d})" for i in range(60)]
    assert second.splitlines()[0] == "    value_0060 = function(0060)"
    assert [len(piece.splitlines()) for piece in more] == [60]


def test_a_text_is_there_once_and_has_one_label(recipes: Recipes) -> None:
    rows = recipes("rows")
    given = [
        rows.Row("b", "x", "two"),
        rows.Row("b", "x", "one"),
        rows.Row("a", "x", "one"),
        rows.Row("c", "x", "one"),
        rows.Row("c", "y", "two"),
    ]
    expected = [rows.Row("b", "x", "one"), rows.Row("a", "x", "one")]  # sha256 3e..., ca...
    assert rows.unambiguous(given) == expected
    assert rows.unambiguous(reversed(given)) == expected


def test_groups_are_split_whole_and_rows_that_come_move_none(recipes: Recipes) -> None:
    rows = recipes("rows")
    given = [rows.Row(f"t{i}", "x", f"g{i // 3}") for i in range(900)]
    split = rows.split_rows(given, 0.3)
    tested = Counter(row.group for row in split.test)
    assert set(tested.values()) == {3}
    assert not set(tested) & {row.group for row in split.train}
    assert len(tested) / 300 == pytest.approx(0.3, abs=0.08)
    assert rows.split_rows(given[300:], 0.3).test == [r for r in split.test if r in given[300:]]
    single = rows.split_rows([rows.Row(row.text, "x") for row in given], 0.3)
    assert len(single.test) / 900 == pytest.approx(0.3, abs=0.05)
    cut = Counter(int(row.text[1:]) // 3 for row in single.test)
    assert set(cut.values()) == {1, 2, 3}  # without a group a text goes by itself


def test_so_many_of_each_label_in_order(recipes: Recipes) -> None:
    rows = recipes("rows")
    given = [rows.Row(str(i), label) for i, label in enumerate("aabab")]
    assert [row.text for row in rows.first_of_each_label(given, 2)] == ["0", "1", "2", "4"]


def test_what_is_written_is_read_and_its_bytes_are_fixed(recipes: Recipes, tmp_path: Path) -> None:
    rows, path = recipes("rows"), tmp_path / "rows.csv"
    given = [rows.Row('a "b"\nc, d', "x", "g"), rows.Row("e", "y", "h")]
    rows.write_rows(path, given)
    assert path.read_bytes() == b'text,label,group\n"a ""b""\nc, d",x,g\ne,y,h\n'
    assert rows.read_rows(path) == given
    rows.write_rows(path, [rows.Row("e", "y")])
    assert path.read_bytes() == b"text,label\ne,y\n"


def test_sets_say_how_they_are_trained(recipes: Recipes) -> None:
    sets = recipes("sets")
    assert list(sets.SETS) == [
        "docstrings-package",
        "docstrings-kind",
        "debian-sections",
        "sources-long",
        "wordnet-glosses",
        "film-reviews",
        "certainty",
        "film-reviews-long",
        "fortunes",
        "ag-news",
    ]
    pinned = [made.digests for made in sets.SETS.values() if made.digests]
    assert {len(digest) for pair in pinned for digest in pair} == {64}
    settings = sets.SETS["debian-sections"].settings(sets.SetFiles(Path("a.csv"), Path("b.csv")))
    assert settings["data.train"] == "a.csv"
    assert settings["data.group"] == "group"
    assert sets.SETS["ag-news"].settings(sets.SetFiles(Path("a"), Path("b")))["data.group"] is None


def test_a_set_is_made_of_files_that_are_given(
    recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, debian = recipes("sets"), recipes("debian")
    monkeypatch.setattr(debian, "_FEWEST_PACKAGES", 20)
    text = "".join(
        f"Package: p{i}\nDescription: number {i}\nSection: {'net' if i % 2 else 'math'}\n\n"
        for i in range(60)
    )
    (tmp_path / "packages").write_text(text + PACKAGES)
    sources = sets.Sources(packages=tmp_path / "packages")
    files = sets.make_set("debian-sections", tmp_path / "out", sources)
    rows = [recipes("rows").read_rows(path) for path in (files.train, files.test)]
    assert sum(map(len, rows)) == 60  # doc and shells are too small
    assert rows[1]
    assert sets.SETS["debian-sections"].is_as_measured(files) is False
    digests = sets.file_digest(files.train), sets.file_digest(files.test)
    assert sets.make_set("debian-sections", tmp_path / "again", sources) != files
    again = [sets.file_digest(tmp_path / "again" / "debian-sections" / f) for f in FILES]
    assert tuple(again) == digests


@pytest.mark.parametrize(
    ("name", "sources", "message"),
    [
        ("ag-news", {}, "give them with --agnews"),
        ("wordnet-glosses", {"wordnet": Path("nowhere")}, "no data.noun in nowhere"),
        ("certainty", {"corpora": Path("nowhere")}, "no uncertainty-conll2010.csv in nowhere"),
        ("fortunes", {"fortunes": Path("nowhere")}, "no computers in nowhere"),
    ],
)
def test_what_is_missing_is_said(
    recipes: Recipes, tmp_path: Path, name: str, sources: dict[str, Any], message: str
) -> None:
    sets, error = recipes("sets"), recipes("rows").MissingSourceError
    with pytest.raises(error, match=message):
        sets.make_set(name, tmp_path, sets.Sources(**sources))


def test_opinions_are_read_from_a_folder(recipes: Recipes, tmp_path: Path) -> None:
    lines = [
        '"1","a  film to see . \n"',
        '"-1","a film , ""to miss"""',
        '"1","both"',
        '"-1","both"',
    ]
    path = tmp_path / "polarity-en-pang&lee2.csv"
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    split = recipes("opinions").film_reviews(tmp_path)
    found = {(row.text, row.label) for row in (*split.train, *split.test)}
    assert found == {("a film to see .", "for"), ('a film , "to miss"', "against")}


def test_fortunes_are_read_from_a_folder(recipes: Recipes, tmp_path: Path) -> None:
    module = recipes("fortunes")
    for book in module._BOOKS:
        (tmp_path / book).write_text(f"of  {book}\n\t-- one\n%\nin all of them\n%\n")
    split = module.fortunes(tmp_path)
    found = {(row.text, row.label) for row in (*split.train, *split.test)}
    assert found == {(f"of {book} -- one", book) for book in module._BOOKS}


def test_without_apt_it_is_said_what_to_give(
    recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(recipes("wordnet"), "_INSTALLED", tmp_path / "nowhere")
    error = recipes("rows").MissingSourceError
    with pytest.raises(error, match="apt-cache dumpavail"):
        recipes("debian").debian_sections(None)
    with pytest.raises(error, match="install the Debian package wordnet-base"):
        recipes("wordnet").wordnet_glosses(None)


def test_the_command_goes_on_after_a_missing_source(
    recipes: Recipes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipes("sets")
    rows = [{"text": "one two three", "label": "a"}, {"text": "four", "label": "b"}]
    path = str(write_csv(tmp_path / "rows.csv", rows))
    arguments = ["--sets", "wordnet-glosses,ag-news", "--wordnet", str(tmp_path)]
    arguments += ["--agnews", path, path, "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["data.py", *arguments])
    load_script(BENCH / "data.py").main()
    printed = capsys.readouterr().out
    assert "wordnet-glosses: left out, there is no data.noun" in printed
    assert "a 1/1, b 1/1" in printed
    assert "│ train │ 2    │ 2       │ -      │ 3           │" in printed  # [CLS] four [SEP]
    assert "ag-news: the files are yours" in printed
