"""What other runtimes make of an exported folder is what bertstream answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LongformerConfig, LongformerForSequenceClassification

from models.errors import BertstreamError
from models.export import onnx as export_module
from models.export.onnx import OPSETS, TOLERANCE, check_file, compare, export_onnx
from models.inference.checkpoint import load_checkpoint
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction, Segment
from models.inference.transformer import PADDING_DISTURBS
from models.nn.classifier import ClassifierHead, HeadConfig
from models.quiet import quiet_transformers
from tests.checkpoints import FAMILIES, make_tokenizer, save_checkpoint

Rows = NDArray[np.float32]
Save = Callable[..., Path]

TEXTS = [
    "The old bridge",
    "Shares fell",
    "新しい電車は来年の春から走ります。",
    "A striker scored twice in the last minutes, and the visitors went home with nothing.",
    "😀",
]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Make a checkpoint folder: `save("bert", num_labels=3)`; without labels a plain encoder."""

    def save(name: str = "bert", *, folder: str = "checkpoint", **options: Any) -> Path:
        # Of ModernBERT every second layer sees a part of the tokens.
        layers = 2 if name == "modernbert" else 1
        settings = {"max_length": 64, "num_hidden_layers": layers, **options}
        return save_checkpoint(tmp_path / folder, name, **settings)

    return save


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return tmp_path / "exported"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported classifier, for tests that only read."""
    folder = tmp_path_factory.mktemp("classifier")
    save_checkpoint(folder / "checkpoint", max_length=64, num_hidden_layers=1, num_labels=3)
    export_onnx(str(folder / "checkpoint"), folder / "exported")
    return folder / "exported"


def serve(folder: Path, texts: list[str]) -> Rows:
    """Do what a server elsewhere does, with nothing but the folder: rows (n_texts, width)."""
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=record["pad_id"])
    encodings = tokenizer.encode_batch([record["prompt"] + text for text in texts])
    inputs = {
        "input_ids": np.array([one.ids for one in encodings]),
        "attention_mask": np.array([one.attention_mask for one in encodings]),
        "token_type_ids": np.array([one.type_ids for one in encodings]),
    }
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    rows: Rows = session.run([record["output"]], {name: inputs[name] for name in record["inputs"]})[
        0
    ]
    return rows


def predict(folder: Path, texts: list[str]) -> list[Prediction]:
    """What bertstream answers of the same checkpoint."""
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()
    outcomes = engine.predict([Document(text) for text in texts])
    assert all(isinstance(outcome, Prediction) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


def softmax(logits: Rows) -> Rows:
    probabilities: Rows = torch.from_numpy(logits).softmax(-1).numpy()
    return probabilities


def sigmoid(logits: Rows) -> Rows:
    probabilities: Rows = torch.from_numpy(logits).sigmoid().numpy()
    return probabilities


def assert_scores(record: dict[str, Any], rows: Rows, predictions: list[Prediction]) -> None:
    for prediction, row in zip(predictions, rows, strict=True):
        scores = dict(zip(record["labels"], row.tolist(), strict=True))
        assert prediction.scores == pytest.approx(scores, abs=1e-5)


def assert_embeddings(rows: Rows, predictions: list[Prediction]) -> None:
    for prediction, row in zip(predictions, rows, strict=True):
        assert prediction.embedding == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - PADDING_DISTURBS))
def test_every_family_is_served_elsewhere(family: str, save: Save, exported: Path) -> None:
    folder = save(family, id2label={0: "World", 1: "Sports", 2: "Business"})
    record = export_onnx(str(folder), exported)

    assert json.loads((exported / "export.json").read_text(encoding="utf-8")) == record
    assert (record["family"], record["output"], record["activation"]) == (
        family,
        "logits",
        "softmax",
    )
    predictions = predict(folder, TEXTS)
    assert_scores(record, softmax(serve(exported, TEXTS)), predictions)
    assert record["model_version"] == predictions[0].model_version
    assert record["check"]["longest"] == record["window"]
    assert record["check"]["inputs"] > 20
    assert 0 < record["check"]["difference"] < TOLERANCE / 5

    model = onnx.load(exported / "model.onnx")
    shapes = {
        one.name: [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        **{name: ["batch", "length"] for name in record["inputs"]},
        "logits": ["batch", 3],
    }
    again = AutoTokenizer.from_pretrained(exported)
    plain = Tokenizer.from_file(str(exported / "tokenizer.json"))
    assert again(TEXTS)["input_ids"] == [one.ids for one in plain.encode_batch(TEXTS)]
    assert again.model_max_length == record["window"]


def longformer(folder: Path) -> Path:
    tokenizer = make_tokenizer("bert", 32)
    config = LongformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        attention_window=8,
        num_labels=2,
    )
    with quiet_transformers():
        LongformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("convbert", "convbert models are not exported: padding changes what they compute"),
        ("fnet", "fnet models are not exported: padding changes what they compute"),
        ("longformer", "torch's exporter cannot take this longformer model: "),
    ],
)
def test_families_that_are_not_exported(family: str, said: str, save: Save, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    if family == "longformer":
        longformer(folder)
    else:
        save(family, num_labels=2)
    with pytest.raises(BertstreamError) as raised:
        export_onnx(str(folder), tmp_path / "exported")
    assert str(raised.value).startswith(f"{folder}: {said}")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def save_head(folder: Path, encoder: Path, **config: Any) -> Path:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"layers": (32, 8, 3), "labels": ("a", "b", "c"), **config}
    ClassifierHead(HeadConfig(encoder=str(encoder), **settings)).save(folder)
    return folder


def test_a_head_on_the_encoders_own_pooler(save: Save, tmp_path: Path, exported: Path) -> None:
    folder = save_head(tmp_path / "head", save(), pooling="pooled", normalize=True)
    record = export_onnx(str(folder), exported)
    assert record["task"] == "text-classification"
    assert_scores(record, softmax(serve(exported, TEXTS)), predict(folder, TEXTS))


def test_a_head_of_several_labels(save: Save, tmp_path: Path, exported: Path) -> None:
    folder = save_head(tmp_path / "head", save("distilbert"), multi_label=True)
    record = export_onnx(str(folder), exported, aggregation="max", segment_overlap=5)
    assert record["inputs"] == ["input_ids", "attention_mask"]
    assert (record["activation"], record["threshold"]) == ("sigmoid", 0.5)
    assert (record["long_documents"]["aggregation"], record["long_documents"]["overlap"]) == (
        "max",
        5,
    )
    predictions = predict(folder, TEXTS)
    assert_scores(record, sigmoid(serve(exported, TEXTS)), predictions)


def test_a_head_on_whole_documents_is_refused(save: Save, tmp_path: Path, exported: Path) -> None:
    folder = save_head(tmp_path / "head", save(), segments="sum")
    with pytest.raises(BertstreamError, match="stands on all segments of a document at once"):
        export_onnx(str(folder), exported)
    assert not exported.exists()


def test_a_regressor_gives_its_number(save: Save, exported: Path) -> None:
    folder = save(num_labels=1, problem_type="regression")
    record = export_onnx(str(folder), exported)
    assert (record["task"], record["activation"]) == ("regression", None)
    for prediction, row in zip(predict(folder, TEXTS), serve(exported, TEXTS), strict=True):
        assert prediction.score == pytest.approx(float(row[0]), abs=1e-5)


def test_a_plain_encoder_gives_the_mean_of_its_tokens(save: Save, exported: Path) -> None:
    folder = save("roberta")
    record = export_onnx(str(folder), exported)
    assert (record["output"], record["labels"]) == ("embedding", None)
    assert_embeddings(serve(exported, TEXTS), predict(folder, TEXTS))


@pytest.mark.parametrize("mode", ["weightedmean", "lasttoken"])
def test_sentence_embeddings_are_pooled_and_normalised(
    mode: str, save: Save, tmp_path: Path, exported: Path
) -> None:
    encoder = Transformer(str(save(folder="encoder")), do_lower_case=True)
    folder = tmp_path / "sentences"
    SentenceTransformer(
        modules=[encoder, Pooling(32, mode), Normalize()],
        device="cpu",
        prompts={"query": "the train to "},
        default_prompt_name="query",
    ).save(str(folder))
    record = export_onnx(str(folder), exported)
    assert (record["task"], record["normalizes"]) == ("embedding", True)
    assert record["prompt"] == "the train to "
    assert record["long_documents"]["how"].endswith("and scaled to length 1")
    rows = serve(exported, TEXTS)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert_embeddings(rows, predict(folder, TEXTS))


def test_the_tokenizer_lowers_what_it_should(save: Save, exported: Path) -> None:
    folder = save("roberta")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    export_onnx(str(folder), exported)
    upper, lower = serve(exported, ["THE OLD BRIDGE", "the old bridge"])
    assert upper.tolist() == pytest.approx(lower.tolist(), abs=1e-5)
    assert_embeddings(serve(exported, TEXTS), predict(folder, TEXTS))


def test_many_weights_lie_beside_the_graph(
    save: Save, tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MOST_INLINE_BYTES", 0)
    folder = save(num_labels=3)
    record = export_onnx(str(folder), exported)
    assert set(record["files"]) >= {"model.onnx", "model.onnx.data"}
    moved = exported.rename(tmp_path / "moved")
    assert_scores(record, softmax(serve(moved, TEXTS)), predict(folder, TEXTS))


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_the_opset_is_the_one_asked_for(opset: int, save: Save, exported: Path) -> None:
    record = export_onnx(str(save(num_labels=3)), exported, opset=opset)
    [needed] = onnx.load(exported / "model.onnx").opset_import
    assert (needed.domain, needed.version, record["opset"]) == ("", opset, opset)


def test_nothing_of_this_machine_is_in_the_file(classifier: Path) -> None:
    graph = (classifier / "model.onnx").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in graph
    assert b"stack_trace" not in graph


def test_what_differs_is_refused_and_removed(
    save: Save, tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(num_labels=3)
    monkeypatch.setattr(export_module, "TOLERANCE", 0.0)
    with pytest.raises(BertstreamError, match="ONNX Runtime differs from torch by"):
        export_onnx(str(folder), exported)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_file_of_another_model_is_found_out(save: Save, classifier: Path) -> None:
    same = load_checkpoint(str(save(folder="same", num_labels=3)))
    check_file(same, classifier / "model.onnx")
    other = load_checkpoint(str(save(folder="other", num_labels=3, seed=1)))
    with pytest.raises(BertstreamError, match="differs from torch"):
        check_file(other, classifier / "model.onnx")
    wider = load_checkpoint(str(save(folder="wider", num_labels=4)))
    with pytest.raises(BertstreamError, match=r"gives \(1, 3\) .*, torch \(1, 4\)"):
        check_file(wider, classifier / "model.onnx")


def test_a_file_that_cannot_be_run_is_refused(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BertstreamError, match="ONNX Runtime cannot run the exported bert model"):
        check_file(load_checkpoint(str(save(num_labels=3))), path)


class Broken(torch.nn.Linear):
    def forward(self, *_: torch.Tensor | None) -> torch.Tensor:
        raise RuntimeError("no kernel\nfor this")


def test_a_model_that_torch_cannot_run_is_refused(save: Save, classifier: Path) -> None:
    broken = replace(load_checkpoint(str(save(num_labels=3))), network=Broken(1, 1))
    with pytest.raises(BertstreamError, match=r"run this bert model .*: no kernel for this"):
        check_file(broken, classifier / "model.onnx")


BATCH = [Segment([1, 2], None, 1), Segment([1], None, 1)]


def rows(*numbers: list[float]) -> list[Rows]:
    return [np.array(numbers, np.float32)]


def test_differences_are_relative_to_the_largest_number() -> None:
    expected = rows([200.0, 1.0], [0.0, 5.0])
    found = rows([200.0, 1.01], [0.0, 5.0])
    check = compare(expected, found, [BATCH], is_classifier=True)
    assert (check.inputs, check.longest) == (2, 2)
    assert check.difference == pytest.approx(0.01 / 200, rel=1e-3)
    with pytest.raises(BertstreamError, match=r"by 1\.5e-04 on 2 inputs of up to 2 tokens"):
        compare(expected, rows([200.0, 1.03], [0.0, 5.0]), [BATCH], is_classifier=True)


def test_numbers_near_zero_are_held_against_a_least_scale() -> None:
    compare(rows([1e-7], [0.0]), rows([0.0], [1e-7]), [BATCH], is_classifier=False)
    with pytest.raises(BertstreamError, match="differs from torch by"):
        compare(rows([1e-5], [0.0]), rows([0.0], [1e-5]), [BATCH], is_classifier=False)


def test_another_best_label_is_refused() -> None:
    expected, found = rows([1.0, 1.00001], [0.0, 5.0]), rows([1.00001, 1.0], [0.0, 5.0])
    compare(expected, found, [BATCH], is_classifier=False)
    with pytest.raises(BertstreamError, match="another best label than torch on 2 inputs"):
        compare(expected, found, [BATCH], is_classifier=True)


@pytest.mark.parametrize("expected", [1.0, float("nan")])
def test_numbers_that_are_not_finite_are_refused(expected: float) -> None:
    with pytest.raises(BertstreamError, match="no finite numbers on 2 inputs"):
        compare(rows([expected], [0.0]), rows([float("nan")], [0.0]), [BATCH], is_classifier=False)


def test_a_folder_in_use_is_left_alone(save: Save, exported: Path) -> None:
    exported.mkdir()
    (exported / "precious").touch()
    with pytest.raises(BertstreamError, match="exists; choose another folder"):
        export_onnx(str(save(num_labels=3)), exported)
    assert [path.name for path in exported.iterdir()] == ["precious"]
