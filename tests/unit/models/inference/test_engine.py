"""Documents of every kind go through the three stages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.errors import (
    BertstreamError,
    InferenceFailed,
    ModelLoadError,
    OutOfMemory,
    UnsupportedInput,
)
from models.inference.checkpoint import load_checkpoint
from models.inference.engine import Engine
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, EncodedDocument, Prediction, Segment

Save = Callable[..., Path]

SCRIPTS = {
    "English": "The council voted on Tuesday to close the old bridge until the spring. ",
    "Chinese": "天气很好，我们去公园。新しい電車は来年の春から走ります。",
    "Thai": "รถไฟสายใหม่จะเปิดปีหน้า",
    "Arabic": "القطار الجديد يعمل في الربيع ",
    "emoji": "😀🚲",
    "one word": "a",
    "spaces": "  \n\t  ",
    "nulls": "\u0000",
}


def load(folder: Path, **settings: Any) -> Engine:
    return ModelRegistry.load(
        {"m": str(folder)}, device="cpu", dtype="float32", **settings
    ).engine()


def encode(engine: Engine, text: str, pair: str | None = None) -> EncodedDocument:
    encoded = engine.encode([Document(text, pair)])[0]
    assert isinstance(encoded, EncodedDocument), encoded
    return encoded


def reassembled(encoded: EncodedDocument, n_prefix: int = 1, n_suffix: int = 1) -> list[int]:
    """The document's tokens, the overlaps left out: a segment goes on where it may."""
    tokens: list[int] = []
    for segment in encoded.segments:
        piece = list(segment.token_ids[n_prefix : len(segment) - n_suffix])
        overlap = next(
            size
            for size in range(min(len(piece), len(tokens)), -1, -1)
            if tokens[len(tokens) - size :] == piece[:size]
        )
        tokens += piece[overlap:]
    return tokens


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("repeats", [1, 50])
def test_every_script_is_predicted_whole(
    family: str, script: str, repeats: int, save: Save
) -> None:
    engine = load(save(family, max_length=32, num_labels=3))
    text = SCRIPTS[script] * repeats

    encoded = encode(engine, text)
    prediction = engine.predict([Document(text)])[0]

    assert max(len(segment) for segment in encoded.segments) <= 32
    whole = encode(load(save(family, max_length=10**6, positions=2**14, num_labels=3)), text)
    assert len(whole.segments) == 1
    assert encoded.tokens == whole.tokens == len(whole.segments[0]) - 2
    assert sum(prediction.scores.values()) == pytest.approx(1)
    assert prediction.segments == len(encoded.segments)
    assert prediction.tokens == encoded.tokens


def test_segments_hold_every_word_of_a_long_document(save: Save) -> None:
    engine = load(save(max_length=32, num_labels=3), segment_overlap=6)
    # No two words are the same, so that overlaps are unambiguous.
    text = " ".join("".join(letters) for letters in product("thebridg", repeat=3))
    whole = load(save(max_length=10**6, positions=2**12, num_labels=3))
    expected = encode(whole, text).segments[0].token_ids[1:-1]

    encoded = encode(engine, text)

    assert reassembled(encoded) == list(expected)
    assert all(segment.weight == len(segment) - 2 for segment in encoded.segments)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_segments_end_at_words(family: str, save: Save) -> None:
    folder = save(family, max_length=32, num_labels=3)
    engine = load(folder)
    text = SCRIPTS["English"] * 20
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = set(text.replace(".", " .").split())
    for segment in encode(engine, text).segments:
        decoded = tokenizer.decode(segment.token_ids[1:-1]).replace(".", " .").split()
        for word in (decoded[0], decoded[-1]):
            assert word in {w.lower() if family == "bert" else w for w in words}


def test_overlap_is_the_setting(save: Save) -> None:
    folder = save("roberta", max_length=32, num_labels=3)
    text = "a " * 300
    without = encode(load(folder, segment_overlap=0), text)
    assert sum(segment.weight for segment in without.segments) == without.tokens
    much = encode(load(folder, segment_overlap=1000), text)
    assert len(much.segments) == pytest.approx(2 * len(without.segments), abs=2)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("unit", ["the old bridge ", "天气很好，", "😀", "a", "กขค", "a b "])
def test_a_mebibyte_is_encoded_fast(family: str, unit: str, save: Save) -> None:
    engine = load(save(family, max_length=256, num_labels=2))
    text = unit * (1024 * 1024 // len(unit.encode()))
    started = time.process_time()
    encoded = encode(engine, text)
    assert time.process_time() - started < 30
    assert encoded.tokens >= sum(segment.weight for segment in encoded.segments) / 2


def test_of_a_pair_the_text_is_segmented_and_the_second_kept_whole(save: Save) -> None:
    engine = load(save(max_length=32, num_labels=3))
    second = "the old bridge"
    text = SCRIPTS["English"] * 5
    encoded = encode(engine, text, second)
    tail = encode(engine, second).segments[0].token_ids[1:]
    assert len(encoded.segments) > 2
    for segment in encoded.segments:
        assert segment.token_ids[-len(tail) :] == tail
        assert segment.type_ids is not None
        assert segment.type_ids.count(1) == len(tail)
        assert len(segment) <= 32
    assert encoded.tokens == encode(engine, text).tokens
    prediction = engine.predict([Document(text, second)])[0]
    assert isinstance(prediction, Prediction)
    assert prediction.task == "sentence-pair"


def test_a_second_text_that_leaves_no_room_is_refused(save: Save) -> None:
    engine = load(save(max_length=32, num_labels=3))
    outcome, fine = engine.predict(
        [Document("The old bridge", SCRIPTS["English"] * 3), Document("The old bridge", "a")]
    )
    assert isinstance(outcome, UnsupportedInput)
    assert "no room" in str(outcome)
    assert isinstance(fine, Prediction)


def test_an_embedding_model_refuses_a_pair(save: Save) -> None:
    engine = load(save())
    assert engine.describe()["takes_pairs"] is False
    outcome, fine = engine.predict([Document("a", "b"), Document("a")])
    assert isinstance(outcome, UnsupportedInput)
    assert isinstance(fine, Prediction)


def test_an_unreadable_text_does_not_trouble_its_neighbours(save: Save) -> None:
    engine = load(save(num_labels=2))
    first, broken, broken_pair, last = engine.predict(
        [Document("the"), Document("\ud800"), Document("a", "\ud800"), Document("old", "bridge")]
    )
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    assert isinstance(broken, UnsupportedInput)
    assert isinstance(broken_pair, UnsupportedInput)
    assert "surrogate" in str(broken)


def test_a_window_without_room_for_a_document_is_an_error(save: Save) -> None:
    with pytest.raises(ModelLoadError, match="window of 2 tokens leaves no room"):
        load(save(max_length=2, num_labels=2))


def test_a_token_without_an_embedding_is_refused(save: Save) -> None:
    folder = save(num_labels=2)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = {**tokenizer["added_tokens"][-1], "id": 5000, "content": "[NEW]"}
    tokenizer["added_tokens"].append(added)
    path.write_text(json.dumps(tokenizer))
    engine = load(folder)
    fine, unknown = engine.predict([Document("the"), Document("the [NEW] bridge")])
    assert isinstance(fine, Prediction)
    assert isinstance(unknown, UnsupportedInput)


def test_order_and_batches_do_not_change_the_answers(save: Save) -> None:
    engine = load(save(num_labels=3))
    texts = [SCRIPTS["English"] * (number % 7) + "the" for number in range(40)]
    documents = [Document(text) for text in texts]
    together = engine.predict(documents)
    small = engine.predict(documents, batch_size=3, batch_tokens=50)
    alone = [engine.predict([document])[0] for document in documents]
    for a, b, c in zip(together, small, alone, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)
        assert a.scores == pytest.approx(c.scores, abs=1e-5)
        assert a.tokens == c.tokens


def test_predict_of_nothing(save: Save) -> None:
    assert load(save()).predict([]) == []


def test_forward_gives_float32_rows_in_order(save: Save) -> None:
    engine = load(save(num_labels=3))
    segments = [encode(engine, text).segments[0] for text in ("the", "the old bridge", "old")]
    rows = engine.forward(segments)
    assert rows.shape == (3, 3)
    assert rows.dtype is torch.float32
    for segment, row in zip(segments, rows, strict=True):
        assert torch.allclose(engine.forward([segment])[0], row, atol=1e-5)


def test_stages_run_in_several_threads_at_once(save: Save) -> None:
    engine = load(save(num_labels=3))
    documents = [Document(SCRIPTS["English"] * (1 + number % 4)) for number in range(8)]
    expected = engine.predict(documents)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: engine.predict(documents), range(16)))
    for result in results:
        for a, b in zip(expected, result, strict=True):
            assert a.scores == pytest.approx(b.scores, abs=1e-5)


class Failing(torch.nn.Module):
    """A network that fails on batches with a certain token, or on large ones."""

    def __init__(self, error: Exception, token: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.error = error
        self.token = token

    def forward(self, token_ids: Tensor, mask: Tensor, type_ids: Tensor | None) -> Tensor:
        culprit = (
            len(token_ids) > 2 if self.token is None else bool((token_ids == self.token).any())
        )
        if culprit:
            raise self.error
        return torch.zeros(len(token_ids), 3)


def failing_engine(folder: Path, error: Exception, token: int | None = None) -> Engine:
    checkpoint = load_checkpoint(str(folder))
    replicas = {torch.device("cpu"): Failing(error, token)}
    return Engine(checkpoint, replicas, name="m", path=str(folder))


def test_a_batch_without_memory_is_halved(save: Save) -> None:
    engine = failing_engine(save(num_labels=3), torch.OutOfMemoryError("CUDA out of memory"))
    outcomes = engine.predict([Document("the old bridge")] * 9)
    assert all(isinstance(outcome, Prediction) for outcome in outcomes)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("shapes do not fit"), InferenceFailed),
    ],
)
def test_a_culprit_fails_alone(error: Exception, expected: type[Exception], save: Save) -> None:
    folder = save(num_labels=3)
    culprit = encode(load(folder), "bridge").segments[0].token_ids[1]
    engine = failing_engine(folder, error, culprit)
    outcomes = engine.predict([Document(text) for text in ("the", "bridge", "old", "voted")])
    assert [isinstance(outcome, Prediction) for outcome in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1], expected)


def test_numbers_that_are_not_finite_are_a_failure(save: Save) -> None:
    engine = load(save(num_labels=3))
    encoded = encode(engine, "the old bridge")
    with pytest.raises(InferenceFailed, match="not finite"):
        engine.decode(encoded, torch.tensor([[1.0, float("nan"), 0.0]]), 1.0)


def test_description(save: Save) -> None:
    folder = save(id2label={0: "World", 1: "Sports"}, max_length=48)
    engine = load(folder, aggregation="max")
    description = engine.describe()
    assert description == {
        "name": "m",
        "version": engine.version,
        "task": "text-classification",
        "takes_pairs": True,
        "labels": ["World", "Sports"],
        "family": "bert",
        "parameters": description["parameters"],
        "window": 48,
        "aggregation": "max",
        "device": "cpu",
        "dtype": "float32",
        "engine": "padding-free",
        "path": str(folder),
    }
    assert description["parameters"] > 10_000
    json.dumps(description)


def test_a_closed_engine_says_so(save: Save) -> None:
    engine = load(save(num_labels=3))
    encoded = encode(engine, "the")
    engine.close()
    for call in (
        lambda: engine.encode([Document("the")]),
        lambda: engine.forward(encoded.segments),
    ):
        with pytest.raises(BertstreamError, match="closed"):
            call()


def test_warm_up(save: Save) -> None:
    load(save("roberta", max_length=20, num_labels=3)).warm_up()


def test_a_model_that_computes_nothing_is_found_out_at_the_start(save: Save) -> None:
    engine = failing_engine(save(num_labels=3), RuntimeError("not implemented for 'Half'"), 0)
    with pytest.raises(ModelLoadError, match="computes nothing on cpu in float32: not implemented"):
        engine.warm_up()


def segments_of(lengths: Sequence[int]) -> list[Segment]:
    return [Segment([5] * length, None, length) for length in lengths]


def test_padding_is_masked(save: Save) -> None:
    engine = load(save("mpnet", max_length=32))
    rows = engine.forward(segments_of([4, 30, 17]))
    for length, row in zip([4, 30, 17], rows, strict=True):
        assert torch.allclose(engine.forward(segments_of([length]))[0], row, atol=1e-5)
