"""Corpora that are learned from or measured on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from models.errors import CorpusError
from models.text.augmentation import Copy
from models.training.labelled import LabelledCorpus


def read(tmp_path: Path, content: str) -> LabelledCorpus:
    path = tmp_path / "a.csv"
    path.write_text(content)
    return LabelledCorpus.read(path)


def test_labels_stand_beside_the_documents(tmp_path: Path) -> None:
    corpus = read(tmp_path, "text,label\none,b\ntwo,a\nthree,b\n")
    assert [document.text for document in corpus.documents] == ["one", "two", "three"]
    assert corpus.labels == (("b",), ("a",), ("b",))
    assert not corpus.multi_label
    assert corpus.classes == ("a", "b")
    corpus.require_several()
    corpus.require(["c", "b", "a"])
    assert corpus.describe() == {
        "file": "a.csv",
        "sha256": hashlib.sha256(corpus.path.read_bytes()).hexdigest(),
        "documents": 3,
        "labels": {"a": 1, "b": 2},
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "a.csv: no documents"),
        ("text,label\n", "a.csv: no documents"),
        ("text,label\none,a\n ,b\n", "line 3: the text is empty"),
        ("text,label\none,a\ntwo,\n", "line 3: no `label`"),
        ("text\none\n", "line 2: no `label`"),
    ],
)
def test_every_document_has_a_text_and_a_label(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(CorpusError, match=said):
        read(tmp_path, content)


def test_documents_may_have_any_number_of_labels(tmp_path: Path) -> None:
    corpus = read(tmp_path, "text,labels\none,b; a\ntwo,\nthree,b\n")
    assert corpus.multi_label
    assert corpus.labels == (("b", "a"), (), ("b",))
    assert corpus.classes == ("a", "b")
    corpus.require_several()
    with pytest.raises(CorpusError, match="line 2: the classifier has no label 'a', only b"):
        corpus.require(["b"])
    assert corpus.describe()["labels"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"labels": ["a"]}, {"label": "a"}], "line 2: no `labels`, which the first document has"),
        ([{"label": "a"}, {"labels": ["a"]}], "line 2: `labels`, where the first document has a"),
        ([{"label": "a", "labels": ["a"]}], "line 1: `label` and `labels`; give one"),
        ([{"labels": ["a"]}, {"label": "a", "labels": []}], "line 2: no `labels`, which the first"),
        ([{"labels": {"a": 1}}], "line 1: `labels` is no list"),
        ([{"labels": ["a", 1.5]}], "line 1: `labels` is neither a string nor a whole number"),
    ],
)
def test_labels_of_all_documents_are_given_in_one_way(
    tmp_path: Path, lines: list[dict[str, object]], said: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "one", **line}) for line in lines))
    with pytest.raises(CorpusError, match=said):
        LabelledCorpus.read(path)


def test_an_empty_column_of_labels_beside_a_label_says_nothing(tmp_path: Path) -> None:
    corpus = read(tmp_path, "text,label,labels\none,a,\ntwo,b,\n")
    assert (corpus.multi_label, corpus.labels) == (False, (("a",), ("b",)))


def test_copies_have_all_of_their_originals_but_the_text(tmp_path: Path) -> None:
    corpus = read(tmp_path, "text,label,text_pair\none,a,uno\ntwo,b,due\n")
    longer = corpus.with_copies([Copy(1, "tow"), Copy(0, "noe")])
    assert longer.labels == (("a",), ("b",), ("b",), ("a",))
    texts = [(document.text, document.text_pair) for document in longer.documents]
    assert texts == [("one", "uno"), ("two", "due"), ("tow", "due"), ("noe", "uno")]


def test_labels_that_a_classifier_lacks_are_refused(tmp_path: Path) -> None:
    corpus = read(tmp_path, "text,label\none,a\ntwo,sprots\n")
    with pytest.raises(
        CorpusError, match="line 3: the classifier has no label 'sprots', only a, s"
    ):
        corpus.require(["a", "sports"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\none,a\ntwo,a\n", "all documents have the label 'a'"),
        ("text,label\none,a\ntwo,b\n", "no two documents"),
        ("text,labels\none,a\ntwo,a\n", "all documents have the same labels"),
        ("text,labels\none,\ntwo,\n", "all documents have the same labels"),
        ("text,labels\none,a\ntwo,b\n", "no two documents"),
    ],
)
def test_too_little_to_learn_from(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(CorpusError, match=said):
        read(tmp_path, content).require_several()


def test_a_file_that_is_gone_since_is_described_as_it_was_read(tmp_path: Path) -> None:
    corpus = read(tmp_path, "text,label\none,a\ntwo,b\n")
    before = corpus.describe()
    corpus.path.unlink()
    assert corpus.describe() == before
