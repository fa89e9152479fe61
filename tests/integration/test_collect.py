"""`bertstream collect` on a real broker: a topic as a file, as far as it goes now."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from app.cli import main
from app.settings import PREFIX, Settings
from tests.integration.conftest import Produced, Topics, run

Captured = pytest.CaptureFixture[str]

RECORDS = [
    {"text": "Shares fell.", "label": "Business", "id": "a", "model": "m"},
    {"text": "It rained.", "label": 3, "text_pair": "It poured.", "id": None},
    {"text": "Nobody came.", "label": True, "text_pair": 4},
]
OTHERS = [b"\xff", b"no JSON", b"[]", b"{}", b'{"text": " "}', b'{"text": 7}', None]


@pytest.fixture
def topic(settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of three partitions, and the command line on its broker."""
    name = f"{settings.app_id}-documents"
    run(topics.create(name, 3))
    monkeypatch.setenv(f"{PREFIX}BROKER_URL", settings.broker_url)
    return name


def collect(capsys: Captured, *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["collect", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def read(file: Path) -> list[object]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_topic_becomes_a_file(
    topic: str, topics: Topics, tmp_path: Path, capsys: Captured
) -> None:
    written = topics.write(topic, [Produced(orjson.dumps(record)) for record in RECORDS])
    written += topics.write(topic, [Produced(value, key=b"k") for value in OTHERS])
    output = tmp_path / "documents.jsonl"
    code, out, err = collect(capsys, "--topic", topic, "--output", output)
    assert code == 0, err
    assert out == f"{output}: 3 documents of {topic}\n"
    assert f"passed over, without a text: {len(OTHERS)} records, the first at {topic}-" in err
    expected = [
        {"text": "Shares fell.", "label": "Business", "id": "a"},
        {"text": "It rained.", "label": 3, "text_pair": "It poured."},
        {"text": "Nobody came."},
    ]
    by_partition = sorted(zip(written, expected, strict=False), key=lambda one: one[0])
    assert read(output) == [document for _, document in by_partition]

    again = tmp_path / "again.jsonl"
    assert collect(capsys, "--topic", topic, "--output", again)[0] == 0
    assert again.read_bytes() == output.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*documents*")) == ["documents.jsonl"]


def test_only_what_was_committed_counts_and_the_field_may_have_another_name(
    topic: str, topics: Topics, tmp_path: Path, capsys: Captured
) -> None:
    kept, gone = ([Produced(orjson.dumps({"body": text}))] for text in ("kept", "gone"))
    run(topics.write_in_transactions(topic, [(gone, False), (kept, True), (gone, False)]))
    output = tmp_path / "documents.jsonl"
    code, _, err = collect(capsys, "--topic", topic, "--field", "body", "--output", output)
    assert (code, err) == (0, "")
    assert read(output) == [{"text": "kept"}]


def test_what_cannot_be_is_said_and_nothing_is_left(
    topic: str, tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "documents.jsonl"
    code, out, err = collect(capsys, "--topic", f"{topic}-not", "--output", output)
    assert (code, out) == (1, "")
    assert f"{topic}-not" in err
    assert not list(tmp_path.glob("*documents*"))
    code, _, err = collect(capsys, "--topic", topic, "--output", tmp_path / "documents.csv")
    assert code == 2
    assert "the ending .jsonl" in err
    output.write_text("precious")
    code, _, err = collect(capsys, "--topic", topic, "--output", output)
    assert code == 1
    assert "exists; choose another file" in err
    assert output.read_text() == "precious"
    code, _, err = collect(capsys, "--topic", topic, "--output", tmp_path / "no" / "a.jsonl")
    assert code == 1
    assert "cannot be written: No such file" in err
