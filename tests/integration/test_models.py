"""Several models behind one topic: each task answers in its shape, and as offline."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from app.settings import Settings
from app.topics import ensure_topics
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction
from tests.checkpoints import save_checkpoint
from tests.integration.conftest import Produced, StartWorker, Topics, run
from tests.workers import service_settings

TEXT = "The council voted on Tuesday to close the old bridge until the spring."
PAIR = "Researchers trained a network to tell the songs of forty birds apart."
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "topics": {"id2label": dict(enumerate(["World", "Sports", "Business", "Science"]))},
    "tags": {
        "name": "roberta",
        "id2label": dict(enumerate(["urgent", "local", "bridge", "bird", "train"])),
        "problem_type": "multi_label_classification",
    },
    "grade": {"name": "distilbert", "num_labels": 1, "problem_type": "regression"},
    "vectors": {"name": "mpnet"},
}
"""The first is the default."""
CLASS = {"label", "score", "scores"}
FIELDS = CLASS | {"labels", "embedding"}
"""Those that are null where the task has none."""
CASES: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "default": ({}, "text-classification", CLASS),
    "by-name": ({"model": "topics"}, "text-classification", CLASS),
    "top-k": ({"model": "topics", "top_k": 2}, "text-classification", CLASS),
    "long": ({"text": f"{TEXT} " * 20}, "text-classification", CLASS),
    "pair": ({"model": "topics", "text_pair": PAIR}, "sentence-pair", CLASS),
    "tags": ({"model": "tags"}, "multi-label-classification", {"labels", "scores"}),
    "tags-top-k": (
        {"model": "tags", "top_k": 1},
        "multi-label-classification",
        {"labels", "scores"},
    ),
    "grade": ({"model": "grade"}, "regression", {"score"}),
    "grade-of-a-pair": ({"model": "grade", "text_pair": PAIR}, "sentence-pair", {"score"}),
    "vector": ({"model": "vectors"}, "embedding", {"embedding"}),
    "vector-of-a-long-one": (
        {"model": "vectors", "text": f"{TEXT} " * 20},
        "embedding",
        {"embedding"},
    ),
}
"""A request, and the task and the fields of its answer."""


@pytest.fixture(scope="module")
def service(
    bootstrap_servers: str, module_names: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    folder = tmp_path_factory.mktemp("service")
    paths = {
        name: save_checkpoint(folder / name, seed=seed, **config)
        for seed, (name, config) in enumerate(CHECKPOINTS.items())
    }
    settings = service_settings(
        bootstrap_servers,
        module_names,
        folder,
        model=",".join(f"{name}={path}" for name, path in paths.items()),
        device="cpu",
        dtype="float32",
    )
    run(ensure_topics(settings))
    return settings


@pytest.fixture(scope="module")
def offline(service: Settings) -> dict[str, Prediction]:
    """What the models say by themselves, by case."""
    registry = ModelRegistry.load(service.models, device="cpu", dtype="float32")
    predictions = {}
    for name, (fields, _, _) in CASES.items():
        document = Document(**{"text": TEXT, **fields})
        [predictions[name]] = registry.engine(document.model).predict([document])
    registry.close()
    return predictions


@pytest.fixture(scope="module")
def answered(
    service: Settings, start_worker: StartWorker, topics: Topics
) -> dict[str, dict[str, Any]]:
    """Responses by case, each of which is at the place of its request."""
    records = [
        Produced(orjson.dumps({"id": name, "text": TEXT, **fields}))
        for name, (fields, _, _) in CASES.items()
    ]
    written = topics.write(service.request_topic, records)
    start_worker(service)
    responses = topics.responses(service, len(records))
    assert {one["id"]: one["source"] for one in responses} == {
        name: {"topic": service.request_topic, "partition": partition, "offset": offset}
        for name, (partition, offset) in zip(CASES, written, strict=True)
    }
    assert len(responses) == len(records)
    return {one["id"]: one for one in responses}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_has_the_shape_of_its_task(
    answered: dict[str, dict[str, Any]], name: str
) -> None:
    fields, task, filled = CASES[name]
    answer = answered[name]
    assert answer.keys() == FIELDS | {
        *("id", "status", "model", "model_version", "task", "segments", "tokens"),
        *("timings_ms", "source"),
    }
    assert (answer["status"], answer["task"]) == ("ok", task)
    assert answer["model"] == fields.get("model", "topics")
    assert {field for field in FIELDS if answer[field] is not None} == filled
    timings = answer["timings_ms"]
    assert timings.keys() == {"queued", "inference", "total"}
    assert timings["inference"] > 0
    assert timings["queued"] >= 0
    assert timings["total"] == pytest.approx(timings["queued"] + timings["inference"], abs=0.01)


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_that_of_the_model_offline(
    answered: dict[str, dict[str, Any]], offline: dict[str, Prediction], name: str
) -> None:
    answer, expected = answered[name], msgspec.structs.asdict(offline[name])
    for field in ("score", "scores", "embedding"):
        assert answer[field] == pytest.approx(expected[field], abs=1e-5), field
    for field in ("model", "model_version", "task", "label", "labels", "segments", "tokens"):
        assert answer[field] == expected[field], field


def test_scores_are_sorted_and_as_many_as_were_asked_for(
    answered: dict[str, dict[str, Any]],
) -> None:
    counts = {"default": 4, "top-k": 2, "pair": 4, "tags": 5, "tags-top-k": 1}
    for name, count in counts.items():
        scores = list(answered[name]["scores"].values())
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == count
    for name in ("default", "top-k", "pair"):
        best, score = next(iter(answered[name]["scores"].items()))
        assert (answered[name]["label"], answered[name]["score"]) == (best, score)


def test_labels_are_those_above_the_threshold(answered: dict[str, dict[str, Any]]) -> None:
    above = [label for label, score in answered["tags"]["scores"].items() if score > 0.5]
    assert 0 < len(above) < 5
    assert answered["tags"]["labels"] == answered["tags-top-k"]["labels"] == above


def test_a_pair_and_a_single_text_are_answered_differently(
    answered: dict[str, dict[str, Any]],
) -> None:
    assert answered["pair"]["scores"] != pytest.approx(answered["default"]["scores"], abs=1e-3)
    assert answered["grade-of-a-pair"]["score"] != pytest.approx(
        answered["grade"]["score"], abs=1e-3
    )


def test_a_long_document_is_one_answer(answered: dict[str, dict[str, Any]]) -> None:
    for name in ("long", "vector-of-a-long-one"):
        assert answered[name]["segments"] > 10
    assert answered["long"]["tokens"] == 20 * answered["default"]["tokens"]
    assert len(answered["vector-of-a-long-one"]["embedding"]) == 32


def test_every_model_has_a_version_of_its_own(answered: dict[str, dict[str, Any]]) -> None:
    versions = {answer["model"]: answer["model_version"] for answer in answered.values()}
    assert set(versions) == set(CHECKPOINTS)
    assert len(set(versions.values())) == len(versions)
