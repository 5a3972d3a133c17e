"""The section ``data``: where the examples come from, what is held out, how they are batched."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from afcore.config.section import FileOrUrl, Section
from afcore.data.builtin.names import BUILT_IN
from afcore.data.fold import Fold
from afcore.number_texts import number_of

__all__ = ["DataConfig"]


def _text_encoding(name: str) -> str:
    try:
        "".encode(name)
    except (LookupError, UnicodeError, TypeError, ValueError) as error:
        raise ValueError(
            "no encoding of text has this name; utf-8, utf-16, latin-1 and cp1252 are some"
        ) from error
    return name


def _with_commas(names: object) -> object:
    return ", ".join(map(str, names)) if isinstance(names, list) else names


def _at_least_one(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not names:
        raise ValueError("a list of files must name one or more")
    return names


def _sound_fold(text: str) -> str:
    Fold.parse(text)
    return text


Sources = Annotated[FileOrUrl | tuple[FileOrUrl, ...], AfterValidator(_at_least_one)]


class DataConfig(Section):
    """Where the examples come from and how they are tokenized and batched."""

    train: Sources = Field(
        description="CSV, JSON lines, Parquet or Arrow file (path or any fsspec URL, packed or "
        "not), a pattern (`s3://bucket/part-*.csv.gz`) or a list of such files, a folder of them "
        "or of `save_to_disk`, a hub data set as `NAME[CONFIGURATION]@REVISION:SPLIT` "
        "(`ag_news`, `nyu-mll/glue[mrpc]:train`; without a revision, the one that the store saw "
        f"first), or one that is built in (`{'`, `'.join(BUILT_IN)}`)",
    )
    test: Sources | None = Field(None, description="the same; read for scoring once, at the end")
    validation: Annotated[
        Sources | Annotated[float, Field(gt=0, lt=1)], BeforeValidator(number_of)
    ] = Field(
        0.1,
        description="the same, or the fraction of the training set held out: the rows whose text "
        "has a hash below it, so that no other row and no seed changes a row's side",
    )
    text: str | None = Field(
        None, min_length=1, description="column with the text; default: the task's, mostly `text`"
    )
    text_pair: str | None = Field(
        None, min_length=1, description="column with a second text, where a row is a pair of texts"
    )
    choices: Annotated[str, BeforeValidator(_with_commas)] | None = Field(
        None,
        min_length=1,
        description="column with a list of choices, or the columns of the choices (a list, or "
        "with commas between them); default: the task's",
    )
    image: str | None = Field(
        None, min_length=1, description="column with the picture; default: the task's"
    )
    label: str | None = Field(
        None,
        min_length=1,
        description="column with what is to be answered; default: the task's, mostly `label`. "
        "Labels are text (`0.0` is not `0`), without the white space around them; what else a "
        "task reads stands with it",
    )
    encoding: Annotated[str, AfterValidator(_text_encoding)] = Field(
        "utf-8", description="of CSV and JSON files: `utf-8`, `latin-1`, `cp1252`, ..."
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="column of the training set with what a row is a part of (author, source, "
        "file): rows of one group are held out together, by the hash of the group",
    )
    fold: Annotated[str, AfterValidator(_sound_fold)] | None = Field(
        None,
        description="instead of `validation`: `1/5` validates on the first of five folds of the "
        "training rows and trains on the others, by the hash of their text or group; one set of "
        "all rows serves all folds, see `search.folds`",
    )
    max_length: int = Field(128, ge=2, description="longest example, in tokens; cut beyond")
    limit: int | None = Field(
        None,
        ge=2,
        description="training examples used, validation included (a sample by hash, the same "
        "for every seed)",
    )
    test_limit: int | None = Field(None, ge=1, description="test examples used (such a sample)")
    batching: Literal["grouped", "random"] = Field(
        "grouped",
        description="`grouped`: similar lengths share a batch, within shuffled windows; "
        "`random`: a plain shuffle",
    )

    @property
    def columns(self) -> dict[str, str | None]:
        """Those that are named here, by their keys."""
        keys = ("text", "text_pair", "choices", "image", "label")
        return {key: getattr(self, key) for key in keys}

    @model_validator(mode="after")
    def _group_decides(self) -> "DataConfig":
        if self.group is not None and isinstance(self.validation, str | tuple):
            raise ValueError(
                f"group {self.group!r} decides which rows are held out, and none are where "
                f"validation is {self.validation!r}. Leave one of them out"
            )
        return self
