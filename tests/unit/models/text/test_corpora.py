"""Documents from files: every format, and one line of error for every defect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from models.errors import CorpusError
from models.text.corpora import LabelledDocument, read_documents


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(tmp_path: Path, name: str, content: str | bytes) -> list[LabelledDocument]:
    return list(read_documents(write(tmp_path, name, content)))


def test_txt_has_a_document_a_line(tmp_path: Path) -> None:
    documents = read(tmp_path, "a.txt", "one\r\n\n  \n two \u2028still two\nthree")
    assert documents == [
        LabelledDocument("one", line=1),
        LabelledDocument(" two \u2028still two", line=4),
        LabelledDocument("three", line=5),
    ]


def test_jsonl_has_an_object_a_line(tmp_path: Path) -> None:
    content = (
        '{"text": "one", "label": "A", "id": "x", "text_pair": "uno", "other": [1]}\n'
        "\n"
        '{"text": "", "label": null, "id": 7}\n'
        '{"text": "three", "label": 2}'
    )
    assert read(tmp_path, "a.jsonl", content) == [
        LabelledDocument("one", "A", "x", "uno", 1),
        LabelledDocument("", None, "7", None, 3),
        LabelledDocument("three", "2", None, None, 4),
    ]


def test_csv_has_a_column_text(tmp_path: Path) -> None:
    content = 'Label, TEXT ,id\nA,"one, ""quoted""\nand two lines",1\n\nB,two,\n'
    assert read(tmp_path, "a.CSV", content) == [
        LabelledDocument('one, "quoted"\nand two lines', "A", "1", None, 2),
        LabelledDocument("two", "B", None, None, 5),
    ]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    content = 'text\ttext_pair\tlabel\nso, he said "no"\tb\tA\n'
    assert read(tmp_path, "a.tsv", content) == [
        LabelledDocument('so, he said "no"', "A", None, "b", 2)
    ]


def test_the_only_column_of_text_serves(tmp_path: Path) -> None:
    content = "when,headline,price,label\n2004,Rates rise,1.5,A\n2005,,2,B\n"
    texts = [document.text for document in read(tmp_path, "a.csv", content)]
    assert texts == ["Rates rise", ""]
    assert [d.text for d in read(tmp_path, "b.csv", "headline\n12\n13\n")] == ["12", "13"]


def test_a_text_may_be_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    long = "word " * 60_000
    assert read(tmp_path, "a.csv", f"text\n{long}\n")[0].text == long


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "one\n"), ("a.jsonl", '{"text": "one"}\n'), ("a.csv", "text\none\n")],
)
def test_byte_order_mark_is_passed_over(tmp_path: Path, name: str, content: str) -> None:
    assert [d.text for d in read(tmp_path, name, b"\xef\xbb\xbf" + content.encode())] == ["one"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
def test_empty_file_has_no_documents(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, "") == []


def test_documents_are_read_one_by_one(tmp_path: Path) -> None:
    documents = read_documents(write(tmp_path, "a.jsonl", '{"text": "one"}\nnonsense\n'))
    assert next(documents).text == "one"
    with pytest.raises(CorpusError, match="line 2"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"one\n\xe4hm\n", "line 2: not UTF-8"),
        ("a.txt", "one\n".encode("utf-16"), "line 1: not UTF-8"),
        ("a.csv", b"text\none\n\xff\n", "line 3: not UTF-8"),
        ("a.jsonl", '{"text": "one"}\n{"text"\n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: not JSON"),
        ("a.jsonl", '["one"]', "line 1: not a JSON object"),
        ("a.jsonl", '{"txt": "one"}', "line 1: no field `text`"),
        ("a.jsonl", '{"text": null}', "line 1: `text` is no string"),
        ("a.jsonl", '{"text": "one", "text_pair": 1}', "line 1: `text_pair` is no string"),
        ("a.jsonl", '{"text": "one", "label": true}', "line 1: `label` is neither"),
        ("a.jsonl", '{"text": "one", "id": 1.5}', "line 1: `id` is neither"),
        ("a.csv", "text,label\none,A\ntwo\n", "line 3: 1 columns, the header has 2"),
        ("a.csv", 'text\n"one"x\n', "line 2: "),
        ("a.csv", 'text\none\n"two\nthree', "line 3: "),
        ("a.csv", "text,Text\na,b\n", "twice"),
        ("a.csv", "a,b\none,two\n", "cannot be told from the columns a, b"),
        ("a.csv", "a,b\n1,2\n", "cannot be told"),
        ("a.csv", f"{'A document where a header should be ' * 3}\nanother\n", "looks like"),
        ("a.pdf", "one", "ending"),
        ("a", "one", "ending"),
    ],
)
def test_defects_are_one_line_that_names_the_place(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    with pytest.raises(CorpusError) as error:
        read(tmp_path, name, content)
    message = str(error.value)
    assert message.startswith(str(tmp_path / name))
    assert said in message
    assert "\n" not in message


def parquet(path: Path, **columns: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
    return path


def test_parquet_is_read_as_a_table(tmp_path: Path) -> None:
    file = parquet(
        tmp_path / "a.parquet",
        number=[1, 2],
        Label=["A", None],
        text=["one\ntwo", ""],
        id=[7, None],
        text_pair=[None, "b"],
    )
    assert list(read_documents(file)) == [
        LabelledDocument("one\ntwo", "A", "7", None, 1),
        LabelledDocument("", None, None, "b", 2),
    ]
    file = parquet(tmp_path / "b.PARQUET", number=[1.5] * 5000, body=["x"] * 5000)
    documents = list(read_documents(file))
    assert [document.line for document in documents] == list(range(1, 5001))
    assert {document.text for document in documents} == {"x"}
    assert list(read_documents(parquet(tmp_path / "c.parquet", text=[]))) == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": ["x"], "b": ["y"]}, "cannot be told from the columns a, b"),
        ({"a": [1]}, "no column `text`"),
        ({"text": ["x", None]}, "row 2: `text` is no string"),
        ({"text": [1]}, "row 1: `text` is no string"),
        ({"text": ["x"], "text_pair": [1]}, "row 1: `text_pair` is no string"),
        ({"text": ["x"], "label": [1.5]}, "row 1: `label` is neither"),
    ],
)
def test_defects_of_parquet_are_said(
    tmp_path: Path, columns: dict[str, list[Any]], said: str
) -> None:
    file = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(CorpusError) as error:
        list(read_documents(file))
    assert str(error.value).startswith(str(file))
    assert said in str(error.value)


def test_parquet_that_was_cut_short_is_said(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", text=["one"] * 1000)
    content = file.read_bytes()
    for kept in (content[: len(content) // 2], b"text\none\n", b""):
        with pytest.raises(CorpusError, match="cannot be read as Parquet") as error:
            read(tmp_path, "a.parquet", kept)
        assert "\n" not in str(error.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        list(read_documents(tmp_path / "a.txt"))
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(CorpusError, match="directory"):
        list(read_documents(tmp_path / "b.txt"))


def test_several_labels_are_a_list_or_names_with_semicolons(tmp_path: Path) -> None:
    expected = [("a", "b c"), (), ("2",)]
    rows = [{"text": "x", "labels": labels} for labels in (["a", "b c", "a"], None, [2])]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text("labels,text\na; b c;a,x\n,x\n2,x\n")
    lists = pyarrow.array([["a", "b c"], None, ["2"]])
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["x"] * 3, "labels": lists}), tmp_path / "a.parquet"
    )
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert [document.labels for document in read_documents(tmp_path / name)] == expected
    (tmp_path / "b.csv").write_text("label,text\na;b,x\n")
    [document] = read_documents(tmp_path / "b.csv")
    assert (document.label, document.labels) == ("a;b", None)
