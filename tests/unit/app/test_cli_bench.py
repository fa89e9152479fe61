"""`bertstream bench` with the model that comes with bertstream, and what it makes of times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli import main
from app.cli.bench import Latency
from app.settings import PREFIX, Settings

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings at their defaults."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)


def bench(capsys: Captured, *arguments: str) -> tuple[int | str | None, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_rounds_and_documents_one_at_a_time(capsys: Captured, tmp_path: Path) -> None:
    data = tmp_path / "documents.txt"
    data.write_text("Shares fell on Monday.\nThe home side won the cup.\n")
    arguments = ("--data", str(data), "--documents", "20", "--rounds", "2")
    code, out, err = bench(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    throughput, [alone] = facts["throughput"], facts["latency"]
    assert (facts["documents"], facts["model"]["path"]) == (20, "builtin")
    speeds = list(zip(throughput["documents_per_s"], throughput["tokens_per_s"], strict=True))
    assert len(speeds) == 2
    for documents_per_s, tokens_per_s in speeds:
        assert tokens_per_s == pytest.approx(6 * documents_per_s)  # "." is a token, too
    assert (alone["rate"], alone["documents"]) == (None, 20)
    assert 0 < alone["p50_ms"] <= alone["p99_ms"]


def test_for_people(capsys: Captured) -> None:
    code, out, err = bench(capsys, "--documents", "10", "--rounds", "1")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        *("median", "documents/s", "tokens/s", "latency,", "one")
    ]
    assert "10 documents of" in err


def test_what_cannot_be_measured(capsys: Captured, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"text": "One.", "text_pair": "Two."}\n')
    code, out, err = bench(capsys, "--data", str(pairs))
    assert (code, out) == (1, "")
    assert "nothing is measured: unsupported_input: this model takes one text" in err
    code, _, err = bench(capsys, "--rate", "5")
    assert code == 2
    assert "--rate is for --through-kafka" in err
    code, _, err = bench(capsys, "--data", str(tmp_path / "missing.txt"))
    assert code == 1
    assert "missing.txt" in err


def test_percentiles() -> None:
    times = [n / 1000 for n in range(1, 1001)]
    latency = Latency.of(times, rate=5.0)
    assert latency.documents == 1000
    assert latency.p50_ms == pytest.approx(500, abs=1)
    assert latency.p99_ms == pytest.approx(990, abs=1)
    assert Latency.of([0.25]).p99_ms == pytest.approx(250)
