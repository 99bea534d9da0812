"""How each benchmark reads an answer, on worked examples: the edges that its case file leaves open."""

import pytest

from vlmamba.eval.tasks import gqa, mmbench, mme, mmmu, mmvet, pope, scienceqa, seed, textvqa

CHOICES = {"A": "cat", "B": "dog", "C": "red bird"}
OPTIONS = ["cat", "dog", "red bird"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "yes"),
        ("NO", "yes"),
        ("no,", "no"),
        (".no", "yes"),
        ("no\tway", "yes"),
        ("it is , no", "no"),
        ("nö", "yes"),
    ],
)
def test_pope(text: str, said: str) -> None:
    assert pope.parse(text) == said


def test_pope_defines_what_divides_by_zero() -> None:
    nothing_said = pope.metrics(["no", "no"], ["yes", "no"])
    assert (nothing_said["precision"], nothing_said["recall"], nothing_said["f1"]) == (0, 0, 0)
    assert nothing_said["accuracy"] == 0.5
    no_true_yes = pope.metrics(["yes", "no"], ["no", "yes"])
    assert no_true_yes["f1"] == 0
    assert pope.metrics(["maybe", "yes"], ["no", "yes"])["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "other"), ("  ye", "other"), (" yes", "yes"), ("  yes", "other"), ("no yes", "no")],
)
def test_mme_looks_at_four_characters(text: str, said: str) -> None:
    assert mme.parse(text) == said


def test_mme_pairs() -> None:
    line = {"image": "a", "question": "?", "answer": "Yes", "response": "yes"}
    wrong = line | {"answer": "No"}
    assert mme.evaluate({"count": [line, wrong]})["perception"] == 50
    assert mme.evaluate({"code_reasoning": [line, line]})["cognition"] == 200
    with pytest.raises(ValueError, match="two an image"):
        mme.evaluate({"count": [line]})
    with pytest.raises(ValueError, match="not a pair"):
        mme.evaluate({"count": [line, wrong | {"image": "b"}]})


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is F.", "F"),
        ("The answer is B\n", "FAILED"),
        ("The answer is AThe answer is B.", "A"),
        ("E", "E"),
        ("F", "FAILED"),
        ("A. ", "A"),
        ("A.\t", "FAILED"),
        ("", "FAILED"),
    ],
)
def test_scienceqa(text: str, letter: str) -> None:
    assert scienceqa.parse(text)[0] == letter
    assert scienceqa.choice_index("C", 2) == -1


def test_scienceqa_missing_predictions() -> None:
    problems = {"1": {"choices": ["a", "b"], "answer": 0}, "2": {"choices": ["a"], "answer": 0}}
    result = scienceqa.evaluate(problems, {"1": {"text": "A", "prompt": "<image>\nq"}})
    assert (result["acc"], result["img_acc"], result["img_total"]) == (50, 100, 1)
    assert result["results"] == {"1": 0, "2": -1}
    assert scienceqa.evaluate(problems, {})["img_acc"] == 0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", None),
        ("well B is one two three", None),
        ("B is one two", "B"),
        ("B is one two three", None),
        ("I say it is not a doubt that the answer is apple", "A"),
        ("The Correct  Answer is **b** for a good many reasons here", "B"),
        ("so the answer is D for a good many reasons here", None),
        ("Cannot determine the answer", "Z"),
        ("Z", "Z"),
        ("a RED BIRD", "C"),
        ("cat and dog", None),
        ("x" * 25 + "cat", "A"),
        ("x" * 26 + "cat", None),
        ("", None),
    ],
)
def test_mmbench(text: str, letter: str | None) -> None:
    found = mmbench.infer(text, CHOICES)
    assert (found[0] if found else None) == letter


def test_mmbench_after_an_api_failure_only_texts_count() -> None:
    text = "Failed to obtain answer via API: B"
    assert mmbench.infer(text, {"A": "obtain answer via", "B": "a dog"}) == (
        "A",
        "the only option's text",
    )


@pytest.mark.parametrize("cell", [None, float("nan"), "", "nan", "NONE", "None", "N/A", "null"])
def test_mmbench_missing_cells(cell: object) -> None:
    assert mmbench.is_missing(cell)
    row = {"question": "q", "A": "a", "B": cell, "C": "c", "D": None}
    assert mmbench.prompt(row).startswith("q\nA. a\nAnswer")
    assert mmbench.options_of(row) == {"A": "a", "C": "c"}


def test_mmbench_groups_of_any_size() -> None:
    def row(index: int, prediction: str) -> dict[str, object]:
        return {"index": index, "prediction": prediction, "answer": "A", "category": "x"} | CHOICES

    rows = [row(5, "A"), row(3_000_005, "A"), row(6, "A"), row(1_000_006, "?"), row(1_000_008, "A")]
    result = mmbench.evaluate(rows)
    assert result["hits"] == {5: 1, 6: 0}
    assert (result["circular"], result["vanilla0"], result["vanilla_all"]) == (0.5, 1.0, 0.8)
    assert mmbench.evaluate([])["circular"] == 0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(A) or (C), (A)", "A"),
        ("A B A", "A"),
        ("A B", "B"),
        ("one two three four cat", None),
        ("one two three four five cat", "A"),
        ("one two three four a red bird", "C"),
        ("a cat. Surely not any red bird, cat", "A"),
        (",.B'.", "B"),
        ("'.B.'", None),
        ("D", None),
    ],
)
def test_mmmu_choice(text: str, letter: str | None) -> None:
    found = mmmu.parse_choice(text, OPTIONS)
    assert (found[0] if found else None) == letter


def test_mmmu_draws_in_order() -> None:
    first, second = mmmu.ChoiceParser(), mmmu.ChoiceParser()
    drawn = [first("?", OPTIONS)[0] for _ in range(20)]
    assert drawn == [second("?", OPTIONS)[0] for _ in range(20)]
    assert set(drawn) == set("ABC")
    later = mmmu.ChoiceParser()
    assert later("B", OPTIONS) == ("B", "X between spaces")
    assert later("?", OPTIONS)[0] == drawn[0]


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("", "1", False),
        ("nothing", "", True),
        ("1,250.0", "1250", True),
        ("x = 2\nso 3", "2", False),
        ("so 3\nx = 2", ["3", "2"], True),
        ("1e2", "100", True),
        ("mgso4", "MgSO4", True),
        ("12", "2", False),
    ],
)
def test_mmmu_open(text: str, answer: str | list[str], right: bool) -> None:
    assert mmmu.is_correct_open(mmmu.parse_open(text), answer) is right


def test_mmmu_subjects() -> None:
    assert mmmu.subject_of("validation_Basic_Medical_Science_12") == "Basic_Medical_Science"
    assert sum(map(len, mmmu.DOMAINS.values())) == 30
    result = mmmu.evaluate([("validation_Math_1", True), ("validation_Music_2", False)])
    assert result["overall"] == 0.5
    assert result["domains"]["Science"] == {"acc": 1.0, "num": 1}
    assert result["domains"]["Business"] == {"acc": 0.0, "num": 0}


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("0.5", 0.5),
        ("1", 1.0),
        ("", None),
        ("-0.1", None),
        ("inf", None),
        ("nan", None),
        (" 1", None),
    ],
)
def test_mmvet_reply(reply: str, value: float | None) -> None:
    assert mmvet.parse_reply(reply) == value


def test_mmvet_spread_of_runs() -> None:
    result = mmvet.aggregate([(["rec"], [1.0, 0.0]), (["rec", "ocr"], [0.5, 0.5])])
    assert result["runs"] == [75.0, 25.0]
    assert result["capability"] == {"rec": 50.0, "ocr": 50.0, "total": 50.0, "std": 25.0}
    with pytest.raises(ValueError, match="number of graded runs"):
        mmvet.aggregate([])


def test_gqa() -> None:
    assert gqa.convert("A.B...") == "a.b"
    assert gqa.convert("...") == ""
    assert gqa.count_words({"question": " Is\tit  red? "}) == 3
    assert gqa.distribution([(None, "a", "a")]) is None
    assert gqa.distribution([("g", "a", "a"), ("g", "a", "b")]) == pytest.approx(0.005)
    question = {"isBalanced": True, "answer": "a"}
    with pytest.raises(ValueError, match="no prediction"):
        gqa.evaluate({"1": question}, {})


def test_seed_without_right_answers_is_zero() -> None:
    question = {"question_id": "7", "data_type": "image", "question_type_id": 1, "answer": "A"}
    annotation = {"question_type": {"Scene": 1}, "questions": [question]}
    for predictions in ({}, {7: "A."}, {"v7": "A"}):
        result = seed.evaluate(annotation, predictions)
        assert result == {"total": 0, "image": 0, "video": 0, "per_type": {"Scene": 0}}
    assert seed.evaluate(annotation, {7: "A"})["image"] == 100


@pytest.mark.parametrize(
    "prompt", ["one line", "a\nb\nc", "OCR tokens: x", "a\nb\nc\nReference OCR token: x"]
)
def test_textvqa_prompts_of_no_known_form(prompt: str) -> None:
    with pytest.raises(ValueError, match="no question found"):
        textvqa.question_of(prompt)


def test_textvqa_needs_ten_answers() -> None:
    with pytest.raises(ValueError, match="9 answers"):
        textvqa.accuracy("x", ["x"] * 9)
    assert textvqa.accuracy("", ["the"] * 10) == 1.0
