"""CSV and JSON as they stand in the file: no type is guessed, and each row has its line.

Every value of a CSV is text, and a number of a JSON is the text that it is written as. A file is
read in one table or in many, each of so many rows. :mod:`afcore.data.files` opens the file, and
:mod:`afcore.data.sources` says what a value may be. Formats with types have their own module,
:mod:`afcore.data.typed_formats`.
"""

import csv
import itertools
import json
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from afcore.data.table import Places, Table
from afcore.errors import DataError

__all__ = ["Columns", "Number", "is_unicode", "read_csv", "read_json", "refuse_twice"]

Columns = Sequence[str] | None
"""Names of the columns to read, where they are there; None: all of them."""

_END = "\0end of the file"
_SPACE = re.compile(r"\s*")
_DELIMITERS = ",;\t|"
_ENDINGS = {",": ".csv", "\t": ".tsv"}
_SHORT, _MOST_SHARED = 40, 1000  # characters; texts


class Number(str):
    """A number of a JSON file: the text that it is written as."""

    __slots__ = ()


def is_unicode(text: str) -> bool:
    """Whether it can be written: JSON may say half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _constant(name: str) -> Number | None:
    """NaN is what pandas writes for a value that is missing; an infinity is a number, and wrong."""
    return None if name == "NaN" else Number(name)


_JSON = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_constant)


def read_csv(
    source: str, lines: Iterable[str], delimiter: str, columns: Columns, num_rows: int | None = None
) -> Iterator[Table]:
    """A header and a row a line, or more lines where a quoted value has line ends.

    Args:
        source: name of the file.
        lines: of it.
        delimiter: between values.
        columns: to read.
        num_rows: of a table at most; None: one table has all.

    Raises:
        DataError: naming the line.
    """
    rows = _csv_rows(source, lines, delimiter)
    header, names = next(rows, (0, list[str]()))
    if not names:
        raise DataError(
            f"cannot load the data {source!r}: the file is empty, and a header was expected"
        )
    if not any(name.strip() for name in names):
        raise DataError(
            f"data {source!r}: line {header}, where the header was expected, names no column. "
            "Remove what stands before the header."
        )
    there, asked = set(names), set(columns or ())
    names = [n if n in asked or n.strip() in there else n.strip() for n in names]
    _refuse_other_delimiter(source, names, delimiter, columns)
    if columns is None:
        while not names[-1]:  # of a delimiter at the end of the lines
            names.pop()
    refuse_twice(source, names, columns)
    wanted = names if columns is None else columns
    index = {column: names.index(column) for column in wanted if column in names}
    part = _Part(dict.fromkeys(index))
    for number, row in rows:
        # A delimiter at the end of the lines is no value.
        if any(value.strip() for value in row[len(names) :]):
            raise DataError(
                f"data {source!r}: line {number} has {len(row)} values, and the header has "
                f"{len(names)}. Put quotes around a value with {delimiter!r} in it."
            )
        if len(part) == num_rows:
            yield part.table(names)
            part = _Part(dict.fromkeys(index))
        part.add(number, ((name, row[i]) for name, i in index.items() if i < len(row)))
    yield part.table(names)


def _refuse_other_delimiter(
    source: str, names: Sequence[str], delimiter: str, columns: Columns
) -> None:
    """Of a header that is one name, which nobody wants, and would be more by another delimiter."""
    other = max(_DELIMITERS.replace(delimiter, ""), key=names[0].count)
    if len(names) > 1 or other not in names[0] or (columns is not None and names[0] in columns):
        return
    todo = f"Write it with {delimiter!r}, and quotes around values with {delimiter!r} in them"
    if other in _ENDINGS:
        todo = f"If so, name it {_ENDINGS[other]}"
    raise DataError(
        f"data {source!r}: the header is one column, {names[0]!r}, by {delimiter!r}, and looks "
        f"separated by {other!r}. {todo}."
    )


def refuse_twice(source: str, names: Sequence[str], columns: Columns) -> None:
    """Refuse a column to read that there is more than once.

    Raises:
        DataError: naming it.
    """
    for column in names if columns is None else columns:
        if names.count(column) > 1:
            raise DataError(
                f"data {source!r} has {names.count(column)} columns with the name {column!r}. "
                "Give each its own."
            )


class _Part:
    """Rows that are gathered to be a table, column by column.

    Args:
        columns: that it has in any case.
    """

    def __init__(self, columns: Iterable[str] = ()) -> None:
        self._values: dict[str, list[Any]] = {column: [] for column in columns}
        self._numbers = array("q")
        self._shared: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int, values: Iterable[tuple[str, Any]]) -> None:
        """Add a row by its line; what it does not give is None."""
        for column, value in values:
            known = self._values.setdefault(column, [])
            known += [None] * (len(self) - len(known))
            known.append(self._one_of(value) if type(value) is str else value)
        self._numbers.append(number)

    def _one_of(self, value: str) -> str:
        """The same object for equal short texts, as labels are: they take more than a pointer."""
        if len(value) > _SHORT:
            return value
        if len(self._shared) < _MOST_SHARED:
            return self._shared.setdefault(value, value)
        return self._shared.get(value, value)

    def table(self, names: Iterable[str]) -> Table:
        """The rows; ``names`` of all columns that the source has."""
        for known in self._values.values():
            known += [None] * (len(self) - len(known))
        return Table(list(names), self._values, Places("line", self._numbers))


def _csv_rows(source: str, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins in, values) of each row that is not blank."""
    csv.field_size_limit(sys.maxsize)  # a text may be a book
    # The line behind the last stands alone, unless a quote is still open there.
    reader = csv.reader(itertools.chain(lines, [_END]), delimiter=delimiter)
    begin = 1
    for row in reader:
        if row == [_END]:
            return
        if row and row[-1].endswith(_END):
            raise DataError(
                f"data {source!r}: a quote that opens in the row at line {begin} is never closed. "
                'Close it; within quotes, a quote is written twice ("").'
            )
        if len(row) > 1 or (row and row[0].strip()):
            yield begin, row
        begin = reader.line_num + 1


def read_json(
    source: str, lines: Iterable[str], columns: Columns, num_rows: int | None = None
) -> Iterator[Table]:
    """An object a line, or one list of objects, whose text is held as a whole.

    The arguments are those of :func:`read_csv`. A table has the names of its own rows.

    Raises:
        DataError: naming the line.
    """
    names, part = dict[str, None](), _Part()
    for number, row in _json_rows(source, lines):
        if not isinstance(row, dict):
            raise DataError(
                f"data {source!r}: line {number} holds {str(row)[:40]!r}, where an object like "
                '{"text": ..., "label": ...} was expected. Write one for each row.'
            )
        if len(part) == num_rows:
            yield part.table(names)
            names, part = {}, _Part()
        names.update(dict.fromkeys(row))
        wanted = row if columns is None else (column for column in columns if column in row)
        part.add(number, ((column, row[column]) for column in wanted))
    yield part.table(names)


def _json_rows(source: str, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(line that it begins in, value)."""
    numbered = iter(enumerate(lines, start=1))
    for number, line in numbered:
        if line.lstrip().startswith("["):
            text = line + "".join(after for _, after in numbered)
            yield from _json_elements(source, text, number)
        elif line.strip():
            try:
                yield number, _JSON.decode(line.strip())
            except (json.JSONDecodeError, RecursionError) as error:
                raise _not_json(source, number, error) from error


def _json_elements(source: str, text: str, first_line: int) -> Iterator[tuple[int, Any]]:
    """(line that it begins in, value) of each element of a list, which nothing follows."""
    line, counted, position = first_line, 0, text.index("[")
    while text[position : position + 1] != "]":
        position = _next(text, position + 1)  # behind the bracket or a comma
        if text[position : position + 1] == "]":
            break
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = _JSON.raw_decode(text, position)
            position = _next(text, position)
            if text[position : position + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        except json.JSONDecodeError as error:
            raise _not_json(source, first_line + error.lineno - 1, error) from error
        except RecursionError as error:
            raise _not_json(source, line, error) from error
        yield line, value
    position = _next(text, position + 1)
    if position < len(text):
        more = json.JSONDecodeError("Something follows the list", text, position)
        raise _not_json(source, first_line + more.lineno - 1, more)


def _next(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()


def _not_json(source: str, line: int, error: json.JSONDecodeError | RecursionError) -> DataError:
    if isinstance(error, RecursionError):
        return DataError(
            f"data {source!r}: line {line} holds lists or objects nested deeper than can be read. "
            "Write each row flatter, or leave it out."
        )
    return DataError(
        f"data {source!r}: line {line} is not JSON ({error.msg}, at character {error.colno}). "
        "Write one object a line, or one list of objects."
    )
