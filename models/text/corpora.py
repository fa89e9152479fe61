"""Documents, with their labels where there are any, from files in the usual formats.

===============  ====================================================================
`.txt`           a document a line; blank lines are passed over
`.csv`, `.tsv`   a header line; the column `text`, or else the only column of text
`.jsonl`         a JSON object a line with `text`; blank lines are passed over
`.parquet`       as a table; needs `pip install 'bertstream[training]'`
===============  ====================================================================

`label`, `labels`, `id` and `text_pair` are read where a table or an object has them. `labels` are
those of a document that may have any number: a list of them, or in a table of text names with `;`
between them, and none where the cell is empty. Files but those of Parquet are UTF-8, with or
without a byte order mark. All are read piece by piece, however large.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import orjson

from models.errors import CorpusError, one_line

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SAMPLE_ROWS = 100
"""Rows that are looked at to find the column of text in a table without a column `text`."""
LONGEST_COLUMN_NAME = 64
ADVANCE_EVERY = 1000
ROWS_AT_ONCE = 1024
"""That are read of Parquet."""
LARGEST_FIELD = 64 * 1024 * 1024
PARQUET = ".parquet"
OPTIONAL_COLUMNS = ("label", "labels", "id", "text_pair")
LABEL_SEPARATOR = ";"


@dataclass(frozen=True, slots=True)
class LabelledDocument:
    """One document of a file; `line` is where it begins, counted from 1, or its row in Parquet."""

    text: str
    label: str | None = None
    id: str | None = None
    text_pair: str | None = None
    line: int = 0
    labels: tuple[str, ...] | None = None
    """Of a document that may have any number, each once; None where the file has no `labels`."""


def read_documents(path: Path | str) -> Iterator[LabelledDocument]:
    """Read the documents of a file one by one, in their order.

    A text may be blank where the format can say so: whoever needs words checks.

    Raises:
        CorpusError: while reading; one line that names the file, the line and what is wrong.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (*_READERS, PARQUET):
        raise CorpusError(
            f"{path}: cannot tell its format; give the file one of the endings "
            f"{', '.join((*_READERS, PARQUET))}"
        )
    try:
        if ending == PARQUET:
            yield from _read_parquet(path)
            return
        with path.open("rb") as file:
            yield from parse_documents(file, path.suffix, path)
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from None


def read_texts(
    paths: Iterable[Path], advance: Callable[[int], None] = lambda _: None
) -> Iterator[str]:
    """Read the texts of files one by one; those of blanks alone are passed over.

    Args:
        advance: is called now and then with the number of documents that were read.

    Raises:
        CorpusError: while reading.
    """
    count = 0
    for path in paths:
        for document in read_documents(path):
            if document.text.strip():
                yield document.text
            count += 1
            if count % ADVANCE_EVERY == 0:
                advance(count)


def file_facts(path: Path) -> dict[str, Any]:
    """Name and hash of a file, for the record of what was learned from it.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from None
    return {"file": path.name, "sha256": digest}


def parse_documents(lines: Iterable[bytes], ending: str, path: Path) -> Iterator[LabelledDocument]:
    """Read the documents of lines, as of a file with this ending; errors call it `path`.

    Raises:
        CorpusError: while reading.
    """
    return _READERS[ending.lower()](path, _lines(path, lines))


def _lines(path: Path, file: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Decode line by line; line ends are kept, a byte order mark is not."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{path}, line {number}: not UTF-8 (byte {error.start + 1} of the line); "
                "convert the file to UTF-8"
            ) from None


def _read_txt(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[LabelledDocument]:
    for number, line in lines:
        text = line.rstrip("\r\n")
        if text.strip():
            yield LabelledDocument(text, line=number)


def _read_jsonl(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[LabelledDocument]:
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise CorpusError(f"{where}: not JSON: {error.msg}") from None
        if not isinstance(values, dict):
            raise CorpusError(f"{where}: not a JSON object; each line is one, with `text`")
        if "text" not in values:
            raise CorpusError(f"{where}: no field `text`")
        yield _document(where, values, number)


def _document(
    where: str, fields: Mapping[str, Any], line: int, text_name: str = "text"
) -> LabelledDocument:
    """A document of fields of any types; errors call the text `text_name`."""
    text, text_pair = fields["text"], fields.get("text_pair")
    if not isinstance(text, str):
        raise CorpusError(f"{where}: `{text_name}` is no string")
    if not isinstance(text_pair, str | None):
        raise CorpusError(f"{where}: `text_pair` is no string")
    return LabelledDocument(
        text,
        label=_name(where, "label", fields.get("label")),
        labels=_names(where, fields["labels"]) if "labels" in fields else None,
        id=_name(where, "id", fields.get("id")),
        text_pair=text_pair,
        line=line,
    )


def _name(where: str, field: str, value: object) -> str | None:
    """A label or id as a string: numbers are common in files and mean their digits."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise CorpusError(f"{where}: `{field}` is neither a string nor a whole number")


def _names(where: str, value: object) -> tuple[str, ...]:
    """Labels as a tuple, each once; no value is no label."""
    if value is None:
        return ()
    if isinstance(value, str):
        return _separated(value)
    if not isinstance(value, list):
        raise CorpusError(f"{where}: `labels` is no list")
    names = (_name(where, "labels", one) for one in value)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _separated(value: str) -> tuple[str, ...]:
    names = (name.strip() for name in value.split(LABEL_SEPARATOR))
    return tuple(dict.fromkeys(name for name in names if name))


def _read_csv(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[LabelledDocument]:
    return _read_table(path, lines, "excel")


def _read_tsv(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[LabelledDocument]:
    return _read_table(path, lines, "excel-tab")


def _read_table(
    path: Path, lines: Iterator[tuple[int, str]], dialect: str
) -> Iterator[LabelledDocument]:
    rows = _rows(path, lines, dialect)
    _, header = next(rows, (0, []))
    if not header:
        return
    columns = [name.strip().lower() for name in header]
    sample = list(islice(rows, SAMPLE_ROWS))
    text_column = _text_column(path, columns, [row for _, row in sample])
    optional = {name: columns.index(name) for name in OPTIONAL_COLUMNS if name in columns}
    for line, row in chain(sample, rows):
        if len(row) != len(columns):
            raise CorpusError(
                f"{path}, line {line}: {len(row)} columns, the header has {len(columns)}; "
                'put a text that has separators or line ends in quotes ("…")'
            )
        values: dict[str, Any] = {name: row[column] or None for name, column in optional.items()}
        if "labels" in optional:
            values["labels"] = _separated(row[optional["labels"]])
        yield LabelledDocument(row[text_column], **values, line=line)


def _read_parquet(path: Path) -> Iterator[LabelledDocument]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError(
            f"{path}: pyarrow is not installed: pip install 'bertstream[training]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = {name.strip().lower(): name for name in file.schema_arrow.names}
            textual = [
                name
                for name, column in columns.items()
                if name not in OPTIONAL_COLUMNS and _is_string(file.schema_arrow.field(column).type)
            ]
            text_column = "text" if "text" in columns else textual[0] if len(textual) == 1 else None
            if text_column is None:
                raise CorpusError(
                    f"{path}: no column `text`, and the column of text cannot be told from the "
                    f"columns {', '.join(columns)}; rename it to `text`"
                )
            optional = [name for name in OPTIONAL_COLUMNS if name in columns]
            originals = [columns[name] for name in (text_column, *optional)]
            row = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=originals):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    row += 1
                    fields = dict(zip(("text", *optional), values, strict=True))
                    yield _document(f"{path}, row {row}", fields, row, text_column)
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path}: cannot be read as Parquet: {one_line(error)}") from None


def _is_string(kind: Any) -> bool:
    return str(kind).removeprefix("large_") in {"string", "string_view"}


def _rows(
    path: Path, lines: Iterator[tuple[int, str]], dialect: str
) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its first line."""
    csv.field_size_limit(LARGEST_FIELD)  # 128 KiB otherwise: less than a text may have
    reader = csv.reader((line for _, line in lines), dialect, strict=True)
    first = 1
    try:
        for row in reader:
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {first}: {error}; a quote inside a quoted text is written twice"
        ) from None


def _text_column(path: Path, columns: list[str], sample: list[list[str]]) -> int:
    if len(set(columns)) != len(columns):
        raise CorpusError(f"{path}, line 1: a column name stands there twice")
    if "text" in columns:
        return columns.index("text")
    rest = [i for i, name in enumerate(columns) if name not in OPTIONAL_COLUMNS]
    if any(len(columns[i]) > LONGEST_COLUMN_NAME for i in rest):
        raise CorpusError(
            f"{path}, line 1: this looks like a document, not like column names; "
            "put a line with column names first, such as `text`"
        )
    textual = [i for i in rest if len(rest) == 1 or any(_is_words(row, i) for row in sample)]
    if len(textual) != 1:
        raise CorpusError(
            f"{path}, line 1: no column `text`, and the column of text cannot be told "
            f"from the columns {', '.join(columns)}; rename it to `text`"
        )
    return textual[0]


def _is_words(row: list[str], column: int) -> bool:
    value = row[column].strip() if column < len(row) else ""
    try:
        float(value or "0")
    except ValueError:
        return True
    return False


_READERS = {".txt": _read_txt, ".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl}
