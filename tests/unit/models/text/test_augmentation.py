"""Copies of documents: what changes in them, what never does, and how many are made."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import CorpusError
from models.text.augmentation import Augmentation, Copy, augment, read_synonyms

OFF = {"synonym_rate": 0.0, "swap_rate": 0.0, "deletion_rate": 0.0}
TOKENS = {"unknown_token": "[UNK]", "mask_token": "[MASK]"}
SYNONYMS = {"quick": ("fast", "rapid"), "new york": ("the big apple",), "e-mail": ("mail",)}
MANY = [f"word{'abcdefghijklmnopqrstuvwxyz'[number % 26]}{number}" for number in range(5000)]
DOCUMENTS = ["the quick brown fox", "it jumps over a lazy dog", "New York is far", "no e-mail yet"]

rates = st.sampled_from([0.0, 0.1, 0.5, 1.0])
sentences = st.lists(
    st.sampled_from(
        ["quick", "New", "York", "A", "a", "7", "(so)", "don't", "我们", "में", "\n", " "]
    )
).map(" ".join)
texts = st.text() | sentences
label_sets = st.lists(st.lists(st.sampled_from("abcd"), max_size=3).map(tuple), max_size=8)


def only(**options: Any) -> Augmentation:
    """Nothing but the steps that are asked for."""
    return Augmentation(**{**OFF, **TOKENS, **options})


def applied(text: str, seed: int = 0, **options: Any) -> str:
    return only(**options).apply(text, random.Random(seed))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@given(texts, st.integers(0, 100), st.tuples(*[rates] * 6))
def test_a_copy_is_never_empty(text: str, seed: int, drawn: tuple[float, ...]) -> None:
    names = ("synonym", "unknown", "mask", "noise", "swap", "deletion")
    chosen = {f"{name}_rate": rate for name, rate in zip(names, drawn, strict=True)}
    copy = applied(text, seed, synonyms=SYNONYMS, **chosen)
    assert bool(words(copy)) == bool(words(text))
    assert bool(copy) == bool(text)


@given(texts, st.integers(0, 100))
def test_without_rates_nothing_changes(text: str, seed: int) -> None:
    assert applied(text, seed, synonyms=SYNONYMS) == text


@given(sentences, st.integers(0, 100))
def test_synonyms_keep_everything_between_the_words(text: str, seed: int) -> None:
    copy = applied(text, seed, synonyms={"quick": ("fast",), "a": ("one",)}, synonym_rate=1.0)
    assert re.split(r"\w+", copy) == re.split(r"\w+", text)
    expected = {"quick": "fast", "a": "one"}
    assert words(copy) == [
        expected.get(word, "One" if word == "A" else word) for word in words(text)
    ]


@given(texts, st.integers(0, 100))
def test_swaps_move_words_and_nothing_else(text: str, seed: int) -> None:
    copy = applied(text, seed, swap_rate=0.5)
    assert sorted(copy) == sorted(text)
    assert [character for character in copy if character.isspace()] == [
        character for character in text if character.isspace()
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quick", "fast"),
        ("(Quick),  QUICK!\n", "(Fast),  FAST!\n"),
        ("quickly quick's unquick", "quickly quick's unquick"),
        ("NEW\n YORK, New Jersey new", "THE BIG APPLE, New Jersey new"),
        ("An E-mail", "An Mail"),
        ("I, i", "Me too, me too"),
        ("new york times", "the paper"),
        ("我们 quick", "我们 fast"),
    ],
)
def test_synonyms_stand_in_the_case_of_the_word(text: str, expected: str) -> None:
    synonyms = {
        **SYNONYMS,
        "Quick": ("fast",),
        "quick": ("fast",),
        "New York Times": ("the paper",),
        "I": ("me too",),
    }
    assert applied(text, synonyms=synonyms, synonym_rate=1.0) == expected


def test_every_synonym_is_drawn_in_its_turn() -> None:
    synonyms = {"Quick": ("fast",), "QUICK": ("rapid",)}
    copy = applied("quick " * 1000, synonyms=synonyms, synonym_rate=1.0)
    counts = Counter(words(copy))
    assert counts.keys() == {"fast", "rapid"}
    assert min(counts.values()) > 400


def test_rates_are_shares_of_the_words() -> None:
    text = " ".join(MANY)
    synonyms = dict.fromkeys(MANY, ("other",))
    shares = {
        "synonyms": words(applied(text, synonyms=synonyms, synonym_rate=0.3)).count("other"),
        "unknown": applied(text, unknown_rate=0.3).count("[UNK]"),
        "mask": applied(text, mask_rate=0.3).count("[MASK]"),
        "noise": sum(
            word != before
            for word, before in zip(words(applied(text, noise_rate=0.3)), MANY, strict=True)
        ),
        "deletion": len(MANY) - len(words(applied(text, deletion_rate=0.3))),
    }
    assert {name: count / len(MANY) for name, count in shares.items()} == pytest.approx(
        dict.fromkeys(shares, 0.3), abs=0.03
    )


def test_the_rate_of_swaps_is_that_of_neighbours_out_of_order() -> None:
    places = {word: place for place, word in enumerate(MANY)}
    copy = [places[word] for word in words(applied(" ".join(MANY), swap_rate=0.1))]
    # A word that is carried on through several swaps leaves one descent.
    assert sum(a > b for a, b in pairwise(copy)) / len(MANY) == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_deletion_takes_one_space_along(seed: int) -> None:
    copy = applied("One, two  (three)\nfour five.", seed, deletion_rate=0.5)
    expected = r"(One)?, ?(two)? {1,2}\((three)?\)\n(four)? ?(five)?\."
    assert re.fullmatch(expected, copy)
    assert applied("one two\nthree", seed, deletion_rate=1.0) in {"one\n", "two\n", "\nthree"}


@pytest.mark.parametrize(
    "word", ["don't", "he’s", "e\u0301t\u00e9", "हिन्दी", "ประเทศที่", "b2b", "a_b"]
)
def test_a_word_ends_where_its_readers_say(word: str) -> None:
    assert applied(f"'{word}', so", unknown_rate=1.0) == "'[UNK]', [UNK]"


@given(st.text("aZéжΩ漢हا1_", min_size=1, max_size=8), st.integers(0, 100))
def test_noise_is_one_slip_in_a_letter(word: str, seed: int) -> None:
    copy = applied(word, seed, noise_rate=1.0)
    if not any(map(str.isalpha, word)):
        assert copy == word
        return
    assert copy != word
    assert abs(len(copy) - len(word)) <= 1
    assert re.sub(r"[^\d_]", "", copy) == re.sub(r"[^\d_]", "", word), "digits stay"


def test_noise_slips_in_every_way() -> None:
    slips = {applied("Aж", seed, noise_rate=1.0) for seed in range(300)}
    assert slips >= {"A", "ж", "AAж", "Aжж", "жA"}
    assert "" not in {applied("a", seed, noise_rate=1.0) for seed in range(50)}
    replaced = slips - {"A", "ж", "AAж", "Aжж", "жA"}
    assert replaced
    for slip in replaced:
        assert re.fullmatch("[B-Z]ж|A[а-ез-я]", slip), "script and case are kept"


@pytest.mark.parametrize("field", ["synonym", "deletion", "swap", "unknown", "mask", "noise"])
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(field: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"`{field}_rate` is a share"):
        only(**{f"{field}_rate": rate})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown_rate": 0.1}, "no `unknown_token`"),
        ({"mask_rate": 0.1, "mask_token": ""}, "no `mask_token`"),
        ({"synonyms": {"quick": ()}}, "`synonyms` has a blank, or nothing, for 'quick'"),
        ({"synonyms": {"quick": ("fast", " ")}}, "`synonyms`"),
        ({"synonyms": {" ": ("fast",)}}, "`synonyms`"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@given(label_sets, st.integers(0, 6), st.integers(0, 2))
def test_every_label_has_its_minimum(
    labels: list[tuple[str, ...]], minimum: int, copies: int
) -> None:
    made = augment(MANY[: len(labels)], labels, only(), minimum=minimum, copies=copies, seed=0)
    numbers = Counter(copy.origin for copy in made)
    assert [copy.origin for copy in made] == sorted(numbers.elements())
    assert all(copy.text == MANY[copy.origin] for copy in made)
    counts = Counter(name for names in labels for name in set(names))
    counts.update(name for copy in made for name in set(labels[copy.origin]))
    assert all(count >= minimum for count in counts.values())
    assert all(numbers[document] >= copies for document in range(len(labels)))


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 9), st.integers(0, 2))
def test_no_label_gets_more_than_it_lacks(labels: list[str], minimum: int, copies: int) -> None:
    numbers = Counter(origins([(name,) for name in labels], minimum, copies))
    for name in labels:
        members = [document for document, other in enumerate(labels) if other == name]
        made = [numbers[document] for document in members]
        assert len(members) + sum(made) == max(minimum, len(members) * (1 + copies))
        assert made == sorted(made, reverse=True), "the first get one more"
        assert max(made) - min(made) <= 1


def origins(labels: Sequence[tuple[str, ...]], minimum: int, copies: int = 0) -> list[int]:
    made = augment(MANY[: len(labels)], labels, only(), minimum=minimum, copies=copies, seed=0)
    return [copy.origin for copy in made]


def test_a_label_gets_as_many_copies_as_it_lacks_spread_over_its_documents() -> None:
    labels = [("a",), ("b",), ("a",), ("b",), ("b",), ("a",), ("c",)]
    assert origins(labels, 5) == [0, 1, 2, 3, 6, 6, 6, 6]
    assert origins(labels, 5, copies=1) == [0, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    assert origins(labels, 1) == []


def test_copies_for_a_rare_label_count_for_the_others_of_its_documents() -> None:
    assert origins([("common",), ("common", "rare")], 3) == [1, 1]
    assert origins([("common",), ("common", "rare")], 5) == [1, 1, 1, 1]
    assert origins([("x", "x"), ()], 3) == [0, 0]


@given(st.integers(0, 1000), st.integers(0, 3))
def test_a_copy_follows_from_seed_document_and_number_alone(seed: int, place: int) -> None:
    options = Augmentation(synonyms=SYNONYMS, noise_rate=0.2)
    labels = [("a",)] * len(DOCUMENTS)
    first = augment(DOCUMENTS, labels, options, copies=3, seed=seed)
    others = [text if number == place else "" for number, text in enumerate(DOCUMENTS)]
    again = augment(others, [("b", "c")] * len(others), options, copies=5, seed=seed)
    assert [copy for copy in first if copy.origin == place] == [
        copy for copy in again if copy.origin == place
    ][:3]


def test_seeds_documents_and_numbers_each_draw_anew() -> None:
    options = Augmentation(deletion_rate=0.5)
    text, labels = " ".join(MANY[:50]), [("a",), ("a",)]
    made = [
        copy.text
        for seed in (1, 2)
        for copy in augment([text, text], labels, options, copies=2, seed=seed)
    ]
    assert len(set(made)) == len(made) == 8


def test_a_copy_is_drawn_again_until_it_differs() -> None:
    text = "quick quick quick"
    options = only(synonyms={"quick": ("fast",)}, synonym_rate=0.2)  # half of the draws alter none
    made = augment([text], [("a",)], options, copies=50, seed=0)
    assert sum(copy.text == text for copy in made) < 5


def test_a_copy_that_cannot_differ_is_kept() -> None:
    made = augment(["one", "…"], [("a",), ("b",)], Augmentation(), minimum=3, seed=0)
    assert made == [Copy(0, "one"), Copy(0, "one"), Copy(1, "…"), Copy(1, "…")]


@pytest.mark.parametrize("numbers", [{"copies": -1}, {"minimum": -1}])
def test_numbers_below_zero_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        augment(["one"], [("a",)], Augmentation(), seed=0, **numbers)


def test_every_text_has_labels() -> None:
    with pytest.raises(ValueError, match="shorter"):
        augment(["one", "two"], [("a",)], Augmentation(), copies=1, seed=0)


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "synonyms.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_list_of_synonyms_has_a_group_a_line(tmp_path: Path) -> None:
    content = (
        "\ufeff# speed, pace\r\nquick, fast,rapid\r\n\n \nNew  York\tthe Big Apple\nFast, tight,\n"
    )
    synonyms = read_synonyms(write(tmp_path, content))
    assert synonyms == {
        "quick": ("fast", "rapid"),
        "fast": ("quick", "rapid", "tight"),
        "rapid": ("quick", "fast"),
        "new york": ("the Big Apple",),
        "the big apple": ("New York",),
        "tight": ("Fast",),
    }
    assert applied("The Big Apple", synonyms=synonyms, synonym_rate=1.0) == "New York"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("quick, fast\n\nalone\n", "line 3: a group has two words"),
        ("Quick, quick ,", "line 1: a group has two words"),
        (" , \t", "line 1: a group has two words"),
        (b"quick, fast\n\xff, b\n", "line 2: not UTF-8"),
        ("# nothing yet\n", "no synonyms"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CorpusError, match=message) as caught:
        read_synonyms(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere\.txt: No such file"):
        read_synonyms(tmp_path / "nowhere.txt")
