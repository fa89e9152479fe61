"""`bertstream evaluate --through-kafka` says of a real service what it says offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli.documents import SAMPLES
from app.settings import Settings
from app.topics import ensure_topics
from tests.checkpoints import save_checkpoint
from tests.integration.conftest import StartWorker, run
from tests.workers import environment, service_settings

WITHIN_S = 300.0
SCORES = ("documents", "failed", "accuracy", "macro_f1", "weighted_f1", "labels", "confusion")


@pytest.fixture(scope="module")
def service(
    bootstrap_servers: str,
    module_names: str,
    start_worker: StartWorker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A worker that computes in float32, so that batches do not matter."""
    folder = tmp_path_factory.mktemp("service")
    settings = service_settings(bootstrap_servers, module_names, folder, dtype="float32")
    run(ensure_topics(settings))
    start_worker(settings)
    return settings


def evaluate(settings: Settings, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", "evaluate", *map(str, arguments)],
        env=environment(settings),
        cwd=settings.data_dir,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def scores(settings: Settings, *arguments: str | Path) -> dict[str, Any]:
    ran = evaluate(settings, "--json", *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    [line] = ran.stdout.splitlines()
    facts = json.loads(line)
    return {name: facts[name] for name in SCORES}


def in_any_order(facts: dict[str, Any]) -> dict[str, Any]:
    """Scores that are the same whatever the order of the labels, which a service does not tell."""
    means = ("documents", "failed", "accuracy", "macro_f1", "weighted_f1", "micro_f1")
    labels = sorted(facts["labels"], key=lambda label: str(label["label"]))
    return {"labels": labels} | {name: round(facts.get(name, 0), 9) for name in means}


def test_the_samples_score_as_offline(service: Settings) -> None:
    offline = scores(service, "--data", SAMPLES)
    assert offline["documents"] == 60
    assert scores(service, "--data", SAMPLES, "--through-kafka") == offline
    named = scores(service, "--data", SAMPLES, "--through-kafka", "--model", "agnews")
    assert named == offline


@pytest.fixture(scope="module")
def offline(service: Settings, agnews: Path) -> dict[str, Any]:
    return scores(service, "--data", agnews / "dev.jsonl")


def test_real_documents_score_as_offline(
    service: Settings, agnews: Path, offline: dict[str, Any]
) -> None:
    assert offline["accuracy"] >= 0.87
    assert scores(service, "--data", agnews / "dev.jsonl", "--through-kafka") == offline


def test_in_bfloat16_as_many_real_documents_are_right_within_two(
    service: Settings,
    bootstrap_servers: str,
    names: str,
    start_worker: StartWorker,
    tmp_path: Path,
    agnews: Path,
) -> None:
    """Some of the documents: a CPU without the instructions emulates them, at a tenth of the speed.

    All of them are held against float32 without Kafka, in `tests/unit/models/test_builtin.py`.
    """
    some = tmp_path / "some.jsonl"
    lines = (agnews / "dev.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    some.write_text("".join(lines[:200]), encoding="utf-8")
    exact = scores(service, "--data", some)
    settings = service_settings(bootstrap_servers, names, tmp_path, dtype="bfloat16")
    run(ensure_topics(settings))
    worker = start_worker(settings)
    [model] = worker.get("/api/status")[1]["models"]
    assert model["dtype"] == "bfloat16"
    found = scores(settings, "--data", some, "--through-kafka")
    assert (found["documents"], found["failed"]) == (200, 0)
    assert abs(found["accuracy"] - exact["accuracy"]) * 200 <= 2.001


def test_a_name_that_is_not_served(service: Settings) -> None:
    ran = evaluate(service, "--data", SAMPLES, "--through-kafka", "--model", "nobody")
    assert (ran.returncode, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    assert line.startswith("bertstream: no document was predicted: ")
    assert "'nobody'" in line


def test_a_label_that_the_service_does_not_know(service: Settings, tmp_path: Path) -> None:
    path = tmp_path / "weather.csv"
    path.write_text("text,label\nThe home side won the cup.,Sports\nSnow fell.,Weather\n")
    ran = evaluate(service, "--data", path, "--through-kafka")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"bertstream: {path}, line 3: the classifier has no label 'Weather', "
        "only Business, Sci/Tech, Sports, World\n"
    )


@pytest.fixture(scope="module")
def several(
    bootstrap_servers: str,
    module_names: str,
    start_worker: StartWorker,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Settings, dict[str, str]]:
    """A worker with the built-in classifier and two others, and where these are."""
    folder = tmp_path_factory.mktemp("several")
    labels = dict(enumerate(["World", "Sports", "Business", "Sci/Tech"]))
    other = save_checkpoint(folder / "other", id2label=labels)
    tags = save_checkpoint(
        folder / "tags", id2label=labels, problem_type="multi_label_classification"
    )
    models = {"agnews": "builtin", "other": str(other), "tags": str(tags)}
    settings = service_settings(
        bootstrap_servers,
        f"{module_names}-several",
        folder,
        dtype="float32",
        model=",".join(f"{name}={path}" for name, path in models.items()),
    )
    run(ensure_topics(settings))
    start_worker(settings)
    return settings, models


def test_two_models_of_a_service_are_held_against_each_other(
    several: tuple[Settings, dict[str, str]],
) -> None:
    settings, models = several
    compared = []
    for ways in (
        ("--through-kafka", "--model", "agnews", "--against", "other"),
        ("--model", models["agnews"], "--against", models["other"]),
    ):
        ran = evaluate(settings, "--json", "--data", SAMPLES, *ways)
        assert (ran.returncode, ran.stderr) == (0, "")
        compared.append(json.loads(ran.stdout))
    asked, offline = compared
    assert asked["comparison"] == offline["comparison"]
    assert asked["comparison"]["difference"] > 0.4
    assert in_any_order(asked) == in_any_order(offline)
    assert in_any_order(asked["against"]) == in_any_order(offline["against"])
    assert (asked["model"]["name"], asked["against"]["model"]["name"]) == ("agnews", "other")


def test_several_labels_a_document_score_as_offline(
    several: tuple[Settings, dict[str, str]], tmp_path: Path
) -> None:
    settings, models = several
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    data = tmp_path / "labels.jsonl"
    lines = [{"text": row["text"], "labels": [row["label"]]} for row in rows]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = []
    for ways in (("--through-kafka", "--model", "tags"), ("--model", models["tags"])):
        ran = evaluate(settings, "--json", "--data", data, *ways)
        assert (ran.returncode, ran.stderr) == (0, "")
        found.append(json.loads(ran.stdout))
    asked, offline = found
    assert in_any_order(asked) == in_any_order(offline)
    assert (asked["documents"], asked["failed"]) == (60, 0)
    ran = evaluate(settings, "--data", data, "--through-kafka", "--model", "agnews")
    assert ran.returncode == 1
    assert "agnews gives one label a document" in ran.stderr
