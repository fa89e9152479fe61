"""The command line as users run it: as processes, on a real broker."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.broker import EmbeddedBroker
from app.cli import main
from app.cli.doctor import _kafka as examine_kafka
from app.cli.documents import SAMPLES, read_files
from app.settings import Settings, load_settings
from tests.integration.conftest import Produced, Topics
from tests.workers import (
    StartedWorker,
    environment,
    eventually,
    left_behind,
    service_settings,
)

COMMAND = [sys.executable, "-P", "-m", "app.cli"]
START_WITHIN_S = 120.0
STOP_WITHIN_S = 45.0


def bertstream(
    settings: Settings, *arguments: str, stdin: bytes = b"", within_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings, and nobody's `.env`."""
    ran = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(settings),
        cwd=settings.data_dir,
        input=stdin,
        capture_output=True,
        timeout=within_s,
        check=False,
    )
    return subprocess.CompletedProcess(
        ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode()
    )


@pytest.fixture
def alone(tmp_path: Path) -> Settings:
    """Settings of somebody who set nothing but the folder and a port for the page."""
    return load_settings(data_dir=tmp_path, web_port=0)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    file = tmp_path / "labelled.csv"
    file.write_text(
        "text,label,id\n"
        "The striker scored twice as the home side won the cup final.,Sports,goal\n"
        '"Shares fell, and the central bank raised its key interest rate.",Business,rate\n'
        "Shares fell on Monday as oil prices rose.,Sports,mistaken\n"
    )
    return file


@pytest.mark.usefixtures("kafka_jars")
def test_up_shows_the_samples_and_leaves_nothing_behind(alone: Settings) -> None:
    ran = bertstream(alone, "up", "--once", within_s=START_WITHIN_S + STOP_WITHIN_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert left_behind(alone.data_dir) == []
    predictions = [line for line in ran.stdout.splitlines() if line.startswith(("✓", "≠"))]
    right = sum(line.startswith("✓") for line in predictions)
    assert len(predictions) == len(list(read_files([SAMPLES]))) == 60
    assert right >= 50
    assert f"{right} of 60 as expected" in ran.stdout
    assert re.search(r"status page: http://127\.0\.0\.1:\d+$", ran.stdout, re.MULTILINE)
    assert "\x1b" not in ran.stdout  # no terminal: no colours, no spinner


@pytest.mark.usefixtures("kafka_jars")
@pytest.mark.parametrize(
    ("signum", "moment", "to_group", "code"),
    [
        (signal.SIGINT, "Ctrl-C stops everything", True, 0),
        (signal.SIGTERM, "Kafka", False, 130),
        (signal.SIGKILL, "Kafka", False, -signal.SIGKILL),
    ],
)
def test_however_up_ends_nothing_is_left(
    alone: Settings, signum: signal.Signals, moment: str, to_group: bool, code: int
) -> None:
    documents = alone.data_dir / "documents.txt"
    documents.write_text("One.\n\nTwo.\n")
    with subprocess.Popen(
        [*COMMAND, "up", "--docs", str(documents)],
        env=environment(alone),
        cwd=alone.data_dir,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if moment in line:
                break
        os.kill(-process.pid if to_group else process.pid, signum)
        process.stdout.read()
        assert process.wait(STOP_WITHIN_S) == code, said
    eventually(lambda: not left_behind(alone.data_dir), STOP_WITHIN_S, "every process has ended")
    if code == 0:
        assert "2 of 2 answered" in said
        log = (alone.data_dir / "logs" / "worker.log").read_text()
        assert "Traceback" not in log
        assert "Closing event loop" in log


def test_up_on_somebodys_broker_starts_none(
    bootstrap_servers: str, names: str, tmp_path: Path, labelled: Path
) -> None:
    settings = service_settings(bootstrap_servers, names, tmp_path)
    ran = bertstream(settings, "up", "--once", "--docs", str(labelled), within_s=START_WITHIN_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "2 of 3 as expected" in ran.stdout
    assert "≠ Business" in ran.stdout
    assert "(expected Sports) Shares fell on Monday" in ran.stdout
    assert not (tmp_path / "broker").exists()
    assert left_behind(tmp_path) == []


def test_a_second_up_says_so(alone: Settings) -> None:
    with (alone.data_dir / "up.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = bertstream(alone, "up")
    assert ran.returncode == 1
    assert "runs already" in ran.stderr
    assert "(process 4711)" in ran.stderr


def test_why_a_worker_cannot_start_is_said(
    bootstrap_servers: str, names: str, tmp_path: Path
) -> None:
    settings = service_settings(bootstrap_servers, names, tmp_path, model=str(tmp_path / "nowhere"))
    ran = bertstream(settings, "up", "--once", within_s=START_WITHIN_S)
    assert ran.returncode == 1
    [line] = ran.stderr.splitlines()
    assert re.fullmatch(r"bertstream: the worker ended: .*nowhere.*\(log: .*worker\.log\)", line)
    assert left_behind(tmp_path) == []


def test_up_without_the_broker_it_was_told_of(names: str, tmp_path: Path) -> None:
    began = time.monotonic()
    ran = bertstream(service_settings("127.0.0.1:1", names, tmp_path), "up", "--once")
    assert ran.returncode == 1
    assert "no Kafka broker at 127.0.0.1:1" in ran.stderr
    assert time.monotonic() - began < 15


def test_send_sums_up(
    worker: StartedWorker, module_settings: Settings, labelled: Path, tmp_path: Path
) -> None:
    output = tmp_path / "responses.jsonl"
    ran = bertstream(
        module_settings,
        *("send", str(labelled), "-", "--text", "Wirtschaft", "--text", " "),
        *("--output", str(output), "--json"),
        stdin=b"From standard input.\n",
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    summary = json.loads(ran.stdout)
    assert summary.items() >= {
        ("sent", 6),
        ("answered", 6),
        ("duplicates", 0),
        ("labelled", 3),
        ("accuracy", 2 / 3),
    }
    assert summary["errors"] == {"empty_text": 1}
    responses = [orjson.loads(line) for line in output.read_bytes().splitlines()]
    assert len(responses) == 6
    assert {"goal", "rate", "mistaken"} < {response["id"] for response in responses}


def test_send_for_people(worker: StartedWorker, module_settings: Settings, labelled: Path) -> None:
    ran = bertstream(module_settings, "send", str(labelled))
    assert ran.returncode == 0
    values = dict(re.findall(r"^(\w[\w /]*?)\s{2,}(\S.*?)\s*$", ran.stdout, re.MULTILINE))
    assert values["sent"] == values["answered"] == "3"
    assert values["as expected"] == "2 of 3"
    assert values["accuracy"] == "0.6667"


def test_send_without_waiting_then_watch(
    worker: StartedWorker, module_settings: Settings, topics: Topics
) -> None:
    before = _answered(module_settings)
    sent = bertstream(module_settings, "send", "--text", "A first.", "--text", "B.", "--no-wait")
    assert (sent.returncode, sent.stdout) == (0, f"2 sent to {module_settings.request_topic}\n")
    foreign = {"id": "\x1b]0;title\x07", "status": "error"}
    topics.write(module_settings.response_topic, [Produced(orjson.dumps(foreign), b"foreign")])
    count = before + 3
    arguments = ("watch", "--from-beginning", "--count", str(count))
    as_json = bertstream(module_settings, *arguments, "--json")
    responses = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (as_json.returncode, len(responses)) == (0, count)
    assert foreign in responses
    watched = bertstream(module_settings, *arguments).stdout
    assert len(watched.splitlines()) == count
    assert "(no response)    " in watched
    assert "\\x1b]0;title\\x07" in watched
    assert "\x1b" not in watched


def _answered(settings: Settings) -> int:
    """Responses on the topic, once nothing waits any more."""

    def settled() -> dict[str, list[dict[str, Any]]] | None:
        listed = json.loads(bertstream(settings, "topics", "--json").stdout)
        found = {each["topic"]: each["partitions"] for each in listed}
        lag = sum(each["lag"] for each in found[settings.request_topic])
        return found if not lag else None

    found = eventually(settled, 30, "the group has read everything")
    return sum(each["end"] for each in found[settings.response_topic])


def test_bench_measures_the_service(worker: StartedWorker, module_settings: Settings) -> None:
    rates = ("--rate", "20", "--rate", "50", "--seconds", "4")
    arguments = ("bench", "--through-kafka", "--documents", "100", "--rounds", "2", *rates)
    ran = bertstream(module_settings, *arguments, "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    facts = json.loads(ran.stdout)
    assert all(facts["model"].values())
    assert len(facts["throughput"]["documents_per_s"]) == 2
    slow, fast = facts["latency"]
    # What came in the first 2 s of 4 does not count.
    assert (slow["rate"], slow["documents"]) == (20.0, 40)
    assert (fast["rate"], fast["documents"]) == (50.0, 100)
    assert all(0 < one["p50_ms"] <= one["p99_ms"] for one in (slow, fast))

    ran = bertstream(module_settings, *arguments, "--model", "nobody")
    assert ran.returncode == 1
    assert "nothing is measured: unknown_model: there is no model 'nobody' here" in ran.stderr


def test_send_when_nobody_answers(settings: Settings) -> None:
    ran = bertstream(settings, "send", "--text", "text", "--timeout", "0.5")
    assert ran.returncode == 1
    [line] = ran.stderr.splitlines()
    assert "1 of 1 documents are unanswered; is a worker running" in line


@pytest.fixture
def fresh_broker(kafka_jars: list[Path], tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A broker that nobody has used: no topic, and no group was ever coordinated."""
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start(port=0)
    with broker:
        yield broker


def test_topics_and_doctor_on_a_fresh_broker(
    fresh_broker: EmbeddedBroker, names: str, tmp_path: Path
) -> None:
    settings = service_settings(fresh_broker.address, names, tmp_path, partitions=3)

    def checked() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for each in asyncio.run(examine_kafka(settings)):
            assert each.status == "ok" or each.mend
            found.setdefault(each.check, []).append(each.status)
        return found

    assert checked() == {"broker": ["ok"], "topic": ["warn"] * 6, "workers": ["warn"]}
    missing = bertstream(settings, "topics")
    assert missing.returncode == 0
    assert missing.stdout.count("missing   ") == 6
    created = bertstream(settings, "topics", "--create", "--json")
    partitions = {each["topic"]: len(each["partitions"]) for each in json.loads(created.stdout)}
    assert partitions == {
        settings.request_topic: 3,
        settings.response_topic: 3,
        settings.dead_letter_topic: 3,
        settings.throughput_topic: 1,
        f"{names}-throughput-changelog": 1,
        f"{names}-totals-changelog": 1,
    }
    assert checked() == {"broker": ["ok"], "topic": ["ok"] * 6, "workers": ["warn"]}


def test_doctor_finds_a_sound_service(
    worker: StartedWorker,
    module_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, findings = _doctor(module_settings, monkeypatch, capsys)
    assert code == 0, findings
    status = {finding["check"]: finding["status"] for finding in findings}
    assert status.keys() >= {"python", "packages", "broker", "topic", "workers", "model", "device"}
    assert status["broker"] == status["topic"] == status["workers"] == status["model"] == "ok"


def test_doctor_says_how_to_mend(
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = service_settings("127.0.0.1:1", names, tmp_path, model=str(tmp_path / "nowhere"))
    code, findings = _doctor(settings, monkeypatch, capsys)
    assert code == 1
    failed = {each["check"]: each for each in findings if each["status"] == "fail"}
    assert failed.keys() == {"broker", "model"}
    assert all(finding["mend"] for finding in failed.values())


def _doctor(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int | str | None, list[dict[str, str]]]:
    """Exit code and findings; in this process, which has loaded torch already."""
    monkeypatch.chdir(settings.data_dir)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    return end.value.code, json.loads(capsys.readouterr().out)
