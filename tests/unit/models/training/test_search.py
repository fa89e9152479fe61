"""Options judged by cross-validation, and searched for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.errors import BertstreamError
from models.inference.checkpoint import load_encoder
from models.inference.engine import Engine
from models.inference.transformer import Trust
from models.nn.classifier import HeadConfig
from models.training.classifier_run import ClassifierPlan, Place, run
from models.training.classifier_training import ClassifierTraining, Material
from models.training.finetune import TuneOptions
from models.training.frozen import FitOptions
from models.training.labelled import LabelledCorpus
from models.training.objective import judge, make_targets
from models.training.search import SPACES
from models.training.segments import segment_corpus
from models.training.splits import folds_by_label
from models.training.stages import silent
from tests.checkpoints import save_checkpoint

WriteCorpus = Callable[[str, Mapping[str, Sequence[str]]], Path]
CPU = torch.device("cpu")
PLACE = Place(device=CPU, trust=Trust(), segment_overlap=8)
TUNE = TuneOptions(learning_rate=2e-4, epochs=2, batch_size=4, precision="float32")
FIT = FitOptions(epochs=6, batch_size=4, patience=3)
HEAD = HeadConfig(encoder="encoder", layers=(32, 2), labels=("sport", "trade"), dropout=0.1)


@pytest.fixture
def data(topics: dict[str, list[str]], write_corpus: WriteCorpus) -> Path:
    return write_corpus("data.jsonl", topics)


@pytest.fixture
def training(tmp_path: Path, data: Path) -> ClassifierTraining:
    checkpoint = load_encoder(str(save_checkpoint(tmp_path / "encoder", "bert")), "mean")
    engine = Engine(checkpoint, {CPU: checkpoint.network}, name="m", path="m", segment_overlap=8)
    corpus = LabelledCorpus.read(data)
    material = Material(
        segment_corpus(engine, corpus),
        make_targets(corpus.labels, corpus.classes, multi_label=False),
        torch.arange(len(corpus.documents)),
    )
    return ClassifierTraining(checkpoint, engine, material, CPU, silent)


@pytest.mark.parametrize("options", [TUNE, FIT], ids=["whole", "frozen"])
def test_each_training_begins_where_the_first_did(
    training: ClassifierTraining, options: TuneOptions | FitOptions
) -> None:
    fits = [training.fit(options, HEAD) for _ in range(2)]
    assert fits[0].epochs == fits[1].epochs
    one, two = (fit.head.state_dict() for fit in fits)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("options", [TUNE, FIT], ids=["whole", "frozen"])
def test_a_part_is_measured_by_what_was_learned_from_the_others(
    training: ClassifierTraining, options: TuneOptions | FitOptions
) -> None:
    seen: list[int] = []
    found = training.cross_validate(options, HEAD, 3, report=lambda part, so_far: seen.append(part))
    assert seen == [1, 2, 3]
    material = training._material
    folds = list(folds_by_label(material.targets, 3, options.seed))
    for fold, loss, accuracy in zip(folds, found.losses, found.accuracies, strict=True):
        fit = training.fit(options, HEAD, fold.training)
        held_out = material.select(fold.validation)
        judged = judge(training.predict(fit.head, held_out.corpus, ""), held_out.targets)
        assert judged == pytest.approx((loss, accuracy))
    assert found.facts()["loss"] == pytest.approx(sum(found.losses) / 3)


def test_more_parts_than_documents_cannot_be(training: ClassifierTraining) -> None:
    with pytest.raises(BertstreamError, match="fewer documents than 13 parts"):
        training.cross_validate(FIT, HEAD, 13)


@pytest.mark.parametrize("folds", [None, 2])
@pytest.mark.parametrize("options", [TUNE, FIT], ids=["whole", "frozen"])
def test_the_best_of_the_trials_is_trained(
    tmp_path: Path, data: Path, options: TuneOptions | FitOptions, folds: int | None
) -> None:
    plan = ClassifierPlan(
        data=data,
        options=options,
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
        trials=3,
        folds=folds,
        fixed=frozenset({"epochs", "batch_size"}),
    )
    record, _ = run(plan, tmp_path / "found", PLACE)
    searched = set(SPACES[type(options)]) - plan.fixed
    trials = record["search"]["trials"]
    assert [trial["number"] for trial in trials] == [1, 2, 3]
    assert trials[0]["options"]["learning_rate"] == options.learning_rate
    assert all(set(trial["options"]) == searched for trial in trials)
    best = trials[record["search"]["best"] - 1]
    assert best["loss"] == min(trial["loss"] for trial in trials)
    for name in searched & set(record["options"]):
        assert record["options"][name] == best["options"][name]
    assert record["head"]["dropout"] == best["options"]["dropout"]
    if folds is None:
        assert record["best"]["validation_loss"] == pytest.approx(best["loss"])
        assert record["best"]["validation_accuracy"] == pytest.approx(best["accuracy"])
    again, _ = run(plan, tmp_path / "again", PLACE)
    assert json.dumps(again["search"]) == json.dumps(record["search"])


def test_a_search_with_everything_given_is_refused(tmp_path: Path, data: Path) -> None:
    plan = ClassifierPlan(
        data=data,
        options=FIT,
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
        trials=3,
        fixed=frozenset(SPACES[FitOptions]),
    )
    with pytest.raises(BertstreamError, match="every option that could be searched for is given"):
        run(plan, tmp_path / "found", PLACE)
    assert not (tmp_path / "found").exists()


def test_options_are_cross_validated_without_a_search(tmp_path: Path, data: Path) -> None:
    plan = ClassifierPlan(
        data=data,
        options=replace(TUNE, validation=0),
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
        folds=2,
    )
    record, _ = run(plan, tmp_path / "found", PLACE)
    crossed = record["cross_validation"]
    assert crossed["folds"] == len(crossed["accuracies"]) == 2
    assert crossed["accuracy"] == pytest.approx(sum(crossed["accuracies"]) / 2)
    assert "search" not in record


def test_a_trial_that_fails_is_not_the_best(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At such a rate the loss is soon no number; the given one is the first trial's."""
    monkeypatch.setitem(SPACES, TuneOptions, {"learning_rate": (1e-4, 1e30)})
    options = replace(TUNE, learning_rate=1e-4, epochs=20, warm_up=0.0, clip=1e30)
    plan = ClassifierPlan(
        data=data,
        options=options,
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
        trials=3,
    )
    record, _ = run(plan, tmp_path / "found", PLACE)
    assert [trial["state"] for trial in record["search"]["trials"]].count("fail") >= 1
    assert record["search"]["trials"][record["search"]["best"] - 1]["state"] == "complete"
    monkeypatch.setitem(SPACES, TuneOptions, {"learning_rate": (1e29, 1e30)})
    plan = replace(plan, options=replace(options, learning_rate=1e30))
    with pytest.raises(BertstreamError, match="the loss is no number any more"):
        run(plan, tmp_path / "none", PLACE)
    assert not (tmp_path / "none").exists()


def test_heads_that_all_fail_end_the_search_with_their_reason(tmp_path: Path, data: Path) -> None:
    plan = ClassifierPlan(
        data=data,
        options=replace(FIT, learning_rate=1e30),
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
        trials=2,
        fixed=frozenset({"learning_rate"}),
    )
    with pytest.raises(BertstreamError, match="the loss is no number any more"):
        run(plan, tmp_path / "found", PLACE)


def test_parts_that_leave_a_label_one_document_are_said(
    training: ClassifierTraining,
) -> None:
    training._material = replace(training._material, targets=torch.arange(12))
    with pytest.raises(BertstreamError, match="part 1 of 12, nothing can be held out: no label"):
        training.cross_validate(FIT, HEAD, 12)
