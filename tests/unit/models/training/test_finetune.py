"""Whole models fine-tuned: they learn, repeatably, what they are told to, and are served."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import BertstreamError
from models.inference.checkpoint import Checkpoint, load_checkpoint, load_encoder
from models.inference.engine import Engine
from models.inference.tasks import Document, Prediction
from models.inference.transformer import Trust
from models.nn.classifier import ClassifierHead, Combination, HeadConfig
from models.training.classifier_run import ClassifierPlan, Copies, Place, run
from models.training.evaluate import evaluate, evaluate_sets
from models.training.finetune import Classifier, TuneOptions, fine_tune, shuffled_batches
from models.training.fitting import Epoch, Fit
from models.training.frozen import FitOptions
from models.training.labelled import LabelledCorpus
from models.training.objective import judge, make_targets
from models.training.segments import segment_corpus
from models.training.splits import split_by_label
from tests.checkpoints import FAMILIES, save_checkpoint

WriteCorpus = Callable[[str, Mapping[str, Sequence[str]]], Path]

CPU = torch.device("cpu")
PLACE = Place(device=CPU, trust=Trust(), segment_overlap=8)
OPTIONS = TuneOptions(learning_rate=5e-3, epochs=4, batch_size=4, precision="float32")


class Material:
    """A small encoder, and documents of one and of several segments that it is to tell apart."""

    def __init__(self, folder: Path, data: Path, family: str = "bert") -> None:
        self.checkpoint = load_encoder(str(save_checkpoint(folder, family)), "mean")
        corpus = LabelledCorpus.read(data)
        engine = engine_of(self.checkpoint)
        self.corpus = segment_corpus(engine, corpus)
        self.config = HeadConfig(
            encoder="encoder", layers=(32, 2), labels=("sport", "trade"), dropout=0.1
        )
        self.targets = make_targets(corpus.labels, self.config.labels, multi_label=False)

    def tune(self, options: TuneOptions = OPTIONS, **arguments: Any) -> Fit:
        split = split_by_label(self.targets, options.validation, options.seed)
        return fine_tune(
            self.checkpoint,
            self.corpus,
            self.targets,
            self.config,
            options,
            split,
            CPU,
            **arguments,
        )

    def weights(self) -> dict[str, Tensor]:
        return {name: w.clone() for name, w in self.checkpoint.model.state_dict().items()}

    def predict(self, fit: Fit) -> Tensor:
        return Classifier(self.checkpoint, fit.head, CPU).predict(self.corpus)


def engine_of(checkpoint: Checkpoint) -> Engine:
    return Engine(checkpoint, {CPU: checkpoint.network}, name="m", path="m", segment_overlap=8)


@pytest.fixture
def data(topics: dict[str, list[str]], write_corpus: WriteCorpus) -> Path:
    long = {label: [*texts, " ".join(texts)] for label, texts in topics.items()}
    return write_corpus("data.jsonl", long)


@pytest.fixture
def material(tmp_path: Path, data: Path) -> Material:
    return Material(tmp_path / "encoder", data)


def test_learns_what_can_be_learned(material: Material) -> None:
    assert len(material.corpus.segments) > len(material.corpus.parts) == 14
    before = material.weights()
    seen: list[Epoch] = []
    steps: list[int] = []
    fit = material.tune(
        replace(OPTIONS, epochs=12, validation=0), report=seen.append, advance=steps.append
    )
    assert sorted(set(material.targets.tolist())) == [0, 1]
    assert torch.equal(material.predict(fit).argmax(-1), material.targets)
    assert tuple(seen) == fit.epochs
    assert (fit.best, fit.held_out) == (fit.epochs[-1], 0)
    assert fit.best.validation_loss is None
    assert fit.best.training_loss < fit.epochs[0].training_loss / 4
    assert sum(steps) == 12 * len(material.corpus.segments)
    after = material.weights()
    assert all(not torch.equal(after[name], before[name]) for name in before if "embed" in name)
    assert not any(weight.requires_grad for weight in material.checkpoint.model.parameters())
    assert not fit.head.training
    assert not material.checkpoint.network.training


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, data: Path) -> None:
    ends = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        material = Material(tmp_path / str(number), data)
        state = torch.get_rng_state()
        fit = material.tune(replace(OPTIONS, epochs=2, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        ends.append((fit.epochs, fit.head.state_dict() | material.weights()))
    (epochs, one), (again, two), (_, other) = ends
    assert epochs == again
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_weights_of_the_best_pass_are_kept(material: Material) -> None:
    """At this rate the passes behind the best one are far worse."""
    options = replace(OPTIONS, epochs=40, learning_rate=2e-2, validation=0.3)
    fit = material.tune(options)
    assert len(fit.epochs) == fit.best.number + options.patience < 40
    held_out = split_by_label(material.targets, 0.3, options.seed).validation
    assert fit.held_out == len(held_out)
    loss, accuracy = judge(material.predict(fit)[held_out], material.targets[held_out])
    assert loss == pytest.approx(fit.best.validation_loss)
    assert accuracy == fit.best.validation_accuracy


def test_the_last_layers_alone(material: Material) -> None:
    before = material.weights()
    material.tune(replace(OPTIONS, epochs=1, last_layers=1))
    changed = {name for name, w in material.weights().items() if not torch.equal(w, before[name])}
    assert changed
    assert {name.partition(".attention")[0].partition(".")[0] for name in changed} == {"encoder"}
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    with pytest.raises(BertstreamError, match="the encoder has 2 layers, not 3"):
        material.tune(replace(OPTIONS, last_layers=3))


def test_a_rate_that_is_too_high_is_said(material: Material) -> None:
    with pytest.raises(BertstreamError, match="no number any more at step"):
        material.tune(replace(OPTIONS, learning_rate=1e30, warm_up=0, clip=1e30, epochs=30))


def test_a_step_that_finds_no_memory_is_said(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Classifier, "forward", refuse)
    with pytest.raises(BertstreamError, match="a step of 4 segments: try a smaller batch size"):
        material.tune()


def test_a_document_counts_as_one_however_many_segments(material: Material) -> None:
    """The mean loss of a pass is that of documents, not of segments."""
    parts = material.corpus.parts
    assert parts.shares.sum().item() == pytest.approx(14)
    options = replace(OPTIONS, epochs=1, learning_rate=1e-12, validation=0, batch_size=64)
    config = replace(material.config, dropout=0.0)
    for module in material.checkpoint.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    material.config = config
    material.checkpoint.model.config.attention_probs_dropout_prob = 0.0
    fit = material.tune(options)
    classifier = Classifier(material.checkpoint, fit.head, CPU)
    logits = torch.cat([classifier([(one,)]) for one in material.corpus.segments]).log_softmax(-1)
    losses = -logits[torch.arange(len(logits)), material.targets[parts.owners]]
    assert fit.best.training_loss == pytest.approx((losses @ parts.shares).item() / 14, rel=1e-4)


def test_batches_hold_every_row_once_and_rows_of_similar_length() -> None:
    random = torch.Generator().manual_seed(0)
    lengths = [1 + number * 37 % 211 for number in range(1000)]
    passes = [list(shuffled_batches(lengths, 8, random)) for _ in range(2)]
    for batches in passes:
        assert sorted(number for batch in batches for number in batch) == list(range(1000))
        assert max(map(len, batches)) == 8
        padded = sum(len(batch) * max(lengths[n] for n in batch) for batch in batches)
        assert padded < 1.2 * sum(lengths)
    assert passes[0] != passes[1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_every_family_is_served_as_it_was_measured(
    tmp_path: Path, data: Path, family: str, pooling: Any
) -> None:
    encoder = save_checkpoint(tmp_path / "encoder", family)
    plan = ClassifierPlan(
        data=data,
        options=replace(OPTIONS, epochs=1),
        evaluation=data,
        encoder=str(encoder),
        pooling=pooling,
        hidden=(8,),
    )
    record, scores = run(plan, tmp_path / "tuned", PLACE)
    assert record["encoder"]["family"] == family
    assert not record["frozen"]
    assert scores is not None
    served = engine_of(load_checkpoint(str(tmp_path / "tuned")))
    corpus = LabelledCorpus.read(data)
    outcomes = served.predict([Document(document.text) for document in corpus.documents])
    predicted = [one.label for one in outcomes if isinstance(one, Prediction)]
    expected = [label for (label,) in corpus.labels]
    assert evaluate(expected, predicted, corpus.classes).facts() == scores.facts()
    before = load_encoder(str(encoder), pooling).model.state_dict()
    after = load_encoder(str(tmp_path / "tuned" / "encoder"), pooling).model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert ClassifierHead.load(tmp_path / "tuned").config.encoder == "encoder"


@pytest.mark.parametrize(("segments", "slots"), [("sum", 1), ("concatenation", 3)])
@pytest.mark.parametrize("frozen", [False, True])
def test_joined_segments_are_served_as_they_were_measured(
    tmp_path: Path, data: Path, segments: Combination, slots: int, frozen: bool
) -> None:
    encoder = save_checkpoint(tmp_path / "encoder", "bert")
    plan = ClassifierPlan(
        data=data,
        options=FitOptions(epochs=5) if frozen else replace(OPTIONS, epochs=2),
        evaluation=data,
        encoder=str(encoder),
        hidden=(8,),
        segments=segments,
        slots=slots,
    )
    record, scores = run(plan, tmp_path / "tuned", PLACE)
    assert record["head"]["layers"] == (32 * slots, 8, 2)
    assert scores is not None
    served = engine_of(load_checkpoint(str(tmp_path / "tuned")))
    assert served.describe()["aggregation"] == segments
    assert served.describe()["labels"] == ["sport", "trade"]
    corpus = LabelledCorpus.read(data)
    outcomes = served.predict([Document(document.text) for document in corpus.documents])
    predicted = [one.label for one in outcomes if isinstance(one, Prediction)]
    assert max(one.segments for one in outcomes if isinstance(one, Prediction)) > 1
    expected = [label for (label,) in corpus.labels]
    assert evaluate(expected, predicted, corpus.classes).facts() == scores.facts()


def test_independent_labels_are_learned_and_served(
    tmp_path: Path, topics: dict[str, list[str]]
) -> None:
    """Sport has its label, trade has none, and both together have both."""
    rows: list[dict[str, Any]] = []
    for sport, trade in zip(topics["sport"], topics["trade"], strict=True):
        rows.append({"text": sport, "labels": ["sport", "short"]})
        rows.append({"text": trade, "labels": ["short"]})
        rows.append({"text": f"{sport} {trade} {sport} {trade}", "labels": ["sport"]})
        rows.append({"text": f"{trade} {trade} {trade} {trade}", "labels": []})
    data = tmp_path / "labels.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    plan = ClassifierPlan(
        data=data,
        options=replace(OPTIONS, epochs=40, validation=0),
        evaluation=data,
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
    )
    record, scores = run(plan, tmp_path / "tuned", PLACE)
    assert record["head"]["multi_label"]
    assert scores is not None
    assert scores.accuracy > 0.8
    served = engine_of(load_checkpoint(str(tmp_path / "tuned")))
    assert served.describe()["task"] == "multi-label-classification"
    outcomes = served.predict([Document(row["text"]) for row in rows])
    predictions = [one for one in outcomes if isinstance(one, Prediction)]
    assert all(one.label is None for one in predictions)
    expected, predicted = [row["labels"] for row in rows], [one.labels for one in predictions]
    assert evaluate_sets(expected, predicted, ["short", "sport"]).facts() == scores.facts()


def test_copies_are_learned_from_beside_their_originals(tmp_path: Path, data: Path) -> None:
    plan = ClassifierPlan(
        data=data,
        options=replace(OPTIONS, epochs=1),
        encoder=str(save_checkpoint(tmp_path / "encoder", "bert")),
        copies=Copies(of_each=2, rates={"mask_rate": 0.2}),
    )
    record, _ = run(plan, tmp_path / "tuned", PLACE)
    assert record["copies"]["made"] == 2 * record["data"]["documents"] == 28
    assert record["held_out"] == 2
    plain = replace(plan, copies=None)
    other, _ = run(plain, tmp_path / "plain", PLACE)
    assert other["copies"] is None
    assert record["best"]["training_loss"] != other["best"]["training_loss"]
