"""Every benchmark from its official files to scores and submissions, and what bad files get."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from layouts import LAYOUTS, Layout, llava_answer, write_json, write_lines
from pyarrow import parquet

from vlmamba.eval.prompts import LETTER, SHORT
from vlmamba.eval.score import score_file, submit_file, write_scores
from vlmamba.eval.task import Scores
from vlmamba.eval.tasks import NAMES, benchmark


def score(layout: Layout, *, allow_missing: bool = False, protocol: str = "official") -> Scores:
    return score_file(
        layout.task,
        layout.answers,
        layout.data,
        protocol=protocol,
        allow_missing=allow_missing,
        grades=layout.grades,
    )


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def drop_last_answer(layout: Layout) -> None:
    write_lines(layout.answers, read_lines(layout.answers)[:-1])


@pytest.fixture(params=NAMES)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    return LAYOUTS[request.param](tmp_path / request.param)


def test_every_layout_gets_its_score(layout: Layout, tmp_path: Path) -> None:
    scores = score(layout)
    low, high = scores.interval
    assert scores.value == pytest.approx(layout.value, abs=0.005)
    assert low - 0.01 <= scores.value <= high + 0.01
    assert scores.num_missing == 0
    assert scores.num_questions == len(scores.samples)
    assert all(sample.raw is not None and sample.rule for sample in scores.samples)

    write_scores(scores, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    evidence = read_lines(tmp_path / "out" / "samples.jsonl")
    assert content["value"] == scores.value
    assert len(evidence) == len(scores.samples)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"scores.json", "samples.jsonl"}


def test_data_may_be_llavas_folder_of_all_benchmarks(layout: Layout, tmp_path: Path) -> None:
    names = {"mme": "MME", "mmvet": "mm-vet", "seed": "seed_bench", "mmmu": "MMMU"}
    root = tmp_path / "eval"
    root.mkdir()
    layout.data.rename(root / names.get(layout.task, layout.task))
    inside = root / names.get(layout.task, layout.task)
    grades = inside / layout.grades.name if layout.grades else None
    moved = replace(layout, data=root, answers=inside / layout.answers.name, grades=grades)
    assert score(moved).value == pytest.approx(layout.value, abs=0.005)


def test_small_data_are_not_taken_for_the_published(layout: Layout) -> None:
    notes = " ".join(score(layout).notes)
    assert any(word in notes for word in ("published", "has", "released", "lack"))


def test_every_protocol_scores(layout: Layout) -> None:
    for protocol in benchmark(layout.task).PROTOCOLS:
        assert score(layout, protocol=protocol).protocol == protocol
    with pytest.raises(ValueError, match="no protocol 'guess'"):
        score(layout, protocol="guess")


def test_every_question_has_a_prompt_and_a_picture(layout: Layout) -> None:
    questions, _ = benchmark(layout.task).read(layout.data)
    for question in questions:
        assert question.prompt
        if isinstance(question.image, bytes):
            assert question.image.startswith(b"\x89PNG")
        elif question.image is not None:
            pictures = (str(path) for path in layout.data.rglob("*"))
            assert any(path.endswith(question.image) for path in pictures)
    assert any(question.image is not None for question in questions)


def test_a_missing_answer_is_an_error_or_stated(layout: Layout) -> None:
    drop_last_answer(layout)
    with pytest.raises(ValueError, match=r"1 of \d+ questions have no answer .*--allow-missing"):
        score(layout)
    if layout.task == "mmvet":
        write_json(layout.grades, {"v1_0": json.loads(layout.grades.read_text())["v1_0"]})
    scores = score(layout, allow_missing=True)
    assert any(note.startswith("PARTIAL: 1 of") for note in scores.notes)


def test_an_answer_given_twice_is_an_error(layout: Layout) -> None:
    lines = read_lines(layout.answers)
    write_lines(layout.answers, [*lines, lines[0]])
    place = f"a.jsonl:{len(lines) + 1}"
    with pytest.raises(ValueError, match=rf"{place}: question .* was answered before, at .*:1$"):
        score(layout)


def test_answers_to_other_questions_are_an_error(layout: Layout) -> None:
    prompt = str(read_lines(layout.answers)[0]["prompt"])
    lines = read_lines(layout.answers)
    write_lines(layout.answers, [*lines, llava_answer("other/999999.jpg", prompt, "yes")])
    with pytest.raises(
        ValueError, match=r"no question other/999999.jpg .* another split or version"
    ):
        score(layout)


def test_a_missing_folder_names_what_was_looked_for(layout: Layout, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="--data"):
        score_file(layout.task, layout.answers, empty)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a.jsonl:2: malformed JSON"),
        ("[1]", r"a.jsonl:2: a JSON object is needed, not list"),
        ('{"text": "yes"}', r"a.jsonl:2: an answer needs an id"),
        ('{"question_id": 1}', r"a.jsonl:2: an answer needs an id .* and a text"),
        ('{"question_id": 1.5, "text": ""}', r"a.jsonl:2: question_id must be"),
        ('{"question_id": 1, "text": null}', r"a.jsonl:2: text must be a string, not None"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    layout = LAYOUTS["pope"](tmp_path)
    first = layout.answers.read_text().splitlines()[0]
    layout.answers.write_text(f"{first}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        score(layout)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_answer_file_is_an_error(tmp_path: Path, content: str) -> None:
    layout = LAYOUTS["gqa"](tmp_path)
    layout.answers.write_text(content)
    with pytest.raises(ValueError, match="no answers in it"):
        score(layout)


def test_submissions(tmp_path: Path) -> None:
    def submit(task: str, name: str) -> Path:
        layout = LAYOUTS[task](tmp_path / task)
        submit_file(task, layout.answers, layout.data, tmp_path / name)
        return tmp_path / name

    assert json.loads(submit("vqav2", "v.json").read_text()) == [
        {"question_id": 42000, "answer": "yes"},
        {"question_id": 42001, "answer": "2"},
        {"question_id": 42002, "answer": "bird"},
    ]
    assert json.loads(submit("gqa", "g.json").read_text()) == [
        {"questionId": "100", "prediction": "yes"},
        {"questionId": "101", "prediction": "right"},
        {"questionId": "102", "prediction": "t-shirt"},
    ]
    results = json.loads(submit("scienceqa", "s.json").read_text())
    assert results == {"results": {"3": 1, "8": -1, "11": 2}}
    assert json.loads(submit("textvqa", "t.json").read_text())[1] == {
        "question_id": 34001,
        "answer": "seven",
    }
    assert json.loads(submit("mmvet", "m.json").read_text()) == {
        "v1_0": "answer 0",
        "v1_1": "answer 1",
    }
    assert json.loads(submit("mmmu", "u.json").read_text()) == {
        "validation_Accounting_1": "B",
        "validation_Accounting_2": "It is 3.141",
        "validation_Art_Theory_1": "A",
    }
    assert read_lines(submit("seed", "seed.jsonl"))[2] == {"question_id": "v3", "prediction": "D"}
    assert read_lines(submit("pope", "p.jsonl"))[0] == {"question_id": 1, "text": "Yes"}
    folder = submit("mme", "mme_results")
    assert (folder / "count.txt").read_text() == (
        "0001.txt\tIs it a? Please answer yes or no.\tYes\tyes\n"
        "0001.txt\tIs it b? Please answer yes or no.\tNo\tYes\n"
    )
    sheet = openpyxl.load_workbook(submit("mmbench", "b.xlsx")).worksheets[0]
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    assert rows[0] == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert rows[1] == [7, "Which?", "cat", "dog", None, None, "B", "B", "dev"]
    assert not list(tmp_path.glob(".*.part"))


def test_submissions_can_be_scored_again(tmp_path: Path) -> None:
    for task, name in (
        ("mme", "folder"),
        ("mmbench", "b.xlsx"),
        ("gqa", "g.json"),
        ("seed", "s.jsonl"),
    ):
        layout = LAYOUTS[task](tmp_path / task)
        submit_file(task, layout.answers, layout.data, tmp_path / name)
        again = score_file(task, tmp_path / name, layout.data)
        assert again.value == pytest.approx(layout.value)


def test_an_unfinished_submission_leaves_the_old_one(tmp_path: Path) -> None:
    layout = LAYOUTS["gqa"](tmp_path / "gqa")
    out = tmp_path / "out.json"
    out.write_text("old")
    drop_last_answer(layout)
    with pytest.raises(ValueError, match="no answer"):
        submit_file("gqa", layout.answers, layout.data, out)
    assert out.read_text() == "old"


def test_a_submission_never_replaces_a_folder_of_other_things(tmp_path: Path) -> None:
    for task in ("gqa", "mme"):
        layout = LAYOUTS[task](tmp_path / task)
        with pytest.raises(ValueError, match="other things"):
            submit_file(task, layout.answers, layout.data, tmp_path)
        assert layout.answers.exists()
    out = tmp_path / "mme_results"
    for _ in range(2):
        submit_file("mme", layout.answers, layout.data, out)
    assert len(list(out.iterdir())) == 14
    with pytest.raises(ValueError, match="gqa's submission is a file"):
        submit_file("gqa", tmp_path / "gqa" / "a.jsonl", tmp_path / "gqa", out)
    assert len(list(out.iterdir())) == 14


def test_vqav2_upload_holds_every_question(tmp_path: Path) -> None:
    layout = LAYOUTS["vqav2"](tmp_path)
    drop_last_answer(layout)
    out = tmp_path / "upload.json"
    notes = submit_file("vqav2", layout.answers, layout.data, out, allow_missing=True)
    assert json.loads(out.read_text())[2] == {"question_id": 42002, "answer": ""}
    assert any("PARTIAL: 1 of 3" in note for note in notes)


def test_vqav2_upload_from_llavas_lists(tmp_path: Path) -> None:
    records = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"What {n}?{SHORT}"} for n in range(3)
    ]
    write_lines(tmp_path / "llava_vqav2_mscoco_test-dev2015.jsonl", records[1:])
    write_lines(tmp_path / "llava_vqav2_mscoco_test2015.jsonl", records)
    said = [llava_answer(n, f"What {n}?{SHORT}", "A dog, it's.") for n in (1, 2)]
    answers = write_lines(tmp_path / "a.jsonl", said)
    out = tmp_path / "upload.json"
    submit_file("vqav2", answers, tmp_path, out)
    assert json.loads(out.read_text()) == [
        {"question_id": 1, "answer": "dog it 's"},
        {"question_id": 2, "answer": "dog it 's"},
        {"question_id": 0, "answer": ""},
    ]
    with pytest.raises(ValueError, match="EvalAI"):
        score_file("vqav2", answers, tmp_path)


def test_vqav2_without_annotations_cannot_be_scored(tmp_path: Path) -> None:
    layout = LAYOUTS["vqav2"](tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(ValueError, match="EvalAI"):
        score(layout)


def test_vqav2_mixed_files_are_named(tmp_path: Path) -> None:
    layout = LAYOUTS["vqav2"](tmp_path)
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(ValueError, match="EvalAI"):
        score(layout)
    one = {"question_id": 1, "question_type": "", "answer_type": "", "answers": [{"answer": "x"}]}
    annotations = {"annotations": [one]}
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", annotations)
    with pytest.raises(ValueError, match="its questions are not those of v2_OpenEnded"):
        score(layout)
    write_json(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", {})
    with pytest.raises(ValueError, match="keep one split"):
        score(layout)


def test_pope_versions_are_told_apart(tmp_path: Path) -> None:
    layout = LAYOUTS["pope"](tmp_path)
    labels = tmp_path / "coco" / "coco_pope_random.json"
    records = read_lines(labels)
    extra = {"question_id": 3, "image": "z.jpg", "text": "Is there a bus?", "label": "no"}

    write_lines(labels, [*records, extra])
    with pytest.raises(ValueError, match=r"lacks 1 questions of the label files .*2,910"):
        score(layout)
    write_lines(labels, [records[0], records[1] | {"text": "Is there a dog in the imange?"}])
    assert score(layout).value == pytest.approx(layout.value)
    write_lines(labels, [records[0], records[1] | {"text": "Is there a bus in the image?"}])
    with pytest.raises(ValueError, match=r"llava_pope_test.jsonl:4: .* different versions .*2,910"):
        score(layout)


def test_pope_prompts_must_be_those_of_their_ids(tmp_path: Path) -> None:
    layout = LAYOUTS["pope"](tmp_path)
    (tmp_path / "llava_pope_test.jsonl").unlink()
    assert score(layout).value == pytest.approx(layout.value)
    lines = read_lines(layout.answers)
    lines[0]["prompt"], lines[1]["prompt"] = lines[1]["prompt"], lines[0]["prompt"]
    write_lines(layout.answers, lines)
    with pytest.raises(ValueError, match="another version"):
        score(layout)


def test_seed_revisions_are_told_apart(tmp_path: Path) -> None:
    layout = LAYOUTS["seed"](tmp_path)
    path = tmp_path / "SEED-Bench.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"questions": content["questions"][:2]})
    with pytest.raises(ValueError, match=r"1 of its 3 questions are not in .*19,242"):
        score(layout)


def test_seed_pictures_without_llavas_list(tmp_path: Path) -> None:
    layout = LAYOUTS["seed"](tmp_path)
    listed = [question.image for question in benchmark("seed").read(layout.data)[0]]
    (tmp_path / "llava-seed-bench.jsonl").unlink()
    assert [question.image for question in benchmark("seed").read(layout.data)[0]] == listed
    assert score(layout).value == pytest.approx(layout.value)


def test_seed_and_scienceqa_may_leave_out_what_has_no_picture(tmp_path: Path) -> None:
    for task, value in (("seed", 50), ("scienceqa", 50)):
        layout = LAYOUTS[task](tmp_path / task)
        drop_last_answer(layout)
        scores = score(layout, allow_missing=True)
        assert scores.value == pytest.approx(value)
        assert scores.num_missing == 0
        assert any("were answered" in note for note in scores.notes)


def test_textvqa_other_forms(tmp_path: Path) -> None:
    layout = LAYOUTS["textvqa"](tmp_path)
    official = [{"question_id": 34000, "answer": "Pepsi"}, {"question_id": 34001, "answer": "7"}]
    path = write_json(tmp_path / "official.json", official)
    assert score_file("textvqa", path, tmp_path).value == pytest.approx(65)
    lines = read_lines(layout.answers)
    lines[0]["prompt"] = "one\ntwo\nthree\nfour"
    write_lines(layout.answers, lines)
    with pytest.raises(ValueError, match=r"a.jsonl:1: no question found in the prompt"):
        score(layout)
    prompts = tmp_path / "llava_textvqa_val_v051_ocr.jsonl"
    write_lines(prompts, read_lines(prompts)[:1])
    with pytest.raises(ValueError, match="another version"):
        score(layout)


def test_textvqa_may_ask_twice(tmp_path: Path) -> None:
    layout = LAYOUTS["textvqa"](tmp_path)
    path = tmp_path / "TextVQA_0.5.1_val.json"
    records = json.loads(path.read_text())["data"]
    again = records[0] | {"question_id": 34002, "answers": ["coke"] * 10}
    write_json(path, {"data": [*records, again]})
    lines = read_lines(layout.answers)
    write_lines(layout.answers, [*lines, lines[0] | {"text": "coke"}])
    scores = score(layout)
    assert [sample.score for sample in scores.samples] == pytest.approx([0, 0.3, 1])


def test_mme_answers_without_prompts_go_by_order(tmp_path: Path) -> None:
    layout = LAYOUTS["mme"](tmp_path)
    lines = read_lines(layout.answers)
    for line in lines:
        del line["prompt"]
    write_lines(layout.answers, lines)
    assert score(layout).value == pytest.approx(layout.value)


def test_mme_layout_errors(tmp_path: Path) -> None:
    layout = LAYOUTS["mme"](tmp_path)
    text = tmp_path / "MME_Benchmark_release_version" / "count" / "0001.txt"
    whole = text.read_text()
    for content, message in (
        (whole.splitlines()[0], "1 questions; two an image are needed"),
        (whole.replace("\tNo", "\tMaybe"), r"0001.txt:2: a question, a tab and Yes or No"),
    ):
        text.write_text(content)
        with pytest.raises(ValueError, match=message):
            score(layout)
    text.write_text(whole)
    text.with_suffix(".jpg").unlink()
    with pytest.raises(ValueError, match="no picture"):
        score(layout)
    text.unlink()
    text.parent.rmdir()
    with pytest.raises(FileNotFoundError, match="count are not there"):
        score(layout)


def test_mmbench_prompt_and_table_errors(tmp_path: Path) -> None:
    layout = LAYOUTS["mmbench"](tmp_path)
    questions, _ = benchmark("mmbench").read(tmp_path)
    assert questions[0].prompt == f"A hint.\nWhich?\nA. cat\nB. dog{LETTER}"
    assert questions[2].prompt == f"Which?\nA. red\nB. blue{LETTER}"

    path = tmp_path / "mmbench_dev_20230712.tsv"
    whole = path.read_text()
    for old, new, message in (
        ("\n7\t", "\nseven\t", r":2: index 'seven' is not a whole number"),
        ("\n9\t", "\n11\t", "row 1000009 is a rotation of 9, which is not there"),
        ("\tdev\n9\t", "\n9\t", r":3: 13 cells; the header has 14"),
        ("\tdev", "\tdev\t!", r":2: 15 cells"),
    ):
        path.write_text(whole.replace(old, new))
        with pytest.raises(ValueError, match=message):
            score(layout)
    path.write_text(whole.replace("\tindex", ""))
    (tmp_path / "mmbench_test.tsv").write_text(whole)
    with pytest.raises(ValueError, match="several tables"):
        score(layout)


def test_mmvet_needs_grades_for_every_answer(tmp_path: Path) -> None:
    layout = LAYOUTS["mmvet"](tmp_path)
    with pytest.raises(ValueError, match="must be graded first"):
        score_file("mmvet", layout.answers, tmp_path)
    grades = json.loads(layout.grades.read_text())
    for content, message in (
        ({"v1_0": grades["v1_0"]}, "1 answers have no grade, v1_1 first"),
        (grades | {"v1_1": {"score": [1.5]}}, "v1_1 is graded 1.5"),
        (grades | {"v1_1": {"score": []}}, "v1_1 has no list"),
        (grades | {"v1_1": {"score": [0.5, 0.5]}}, "the same number of graded runs"),
    ):
        write_json(layout.grades, content)
        with pytest.raises(ValueError, match=message):
            score(layout)
    foreign = {number: grade | {"model": ["other"]} for number, grade in grades.items()}
    write_json(layout.grades, foreign)
    assert any("other judges grade otherwise" in note for note in score(layout).notes)


def test_mmmu_letters_against_the_answer_dictionary(tmp_path: Path) -> None:
    golds = {
        "validation_Math_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Math_2": {"question_type": "short-answer", "ground_truth": ["0.5", "1/2"]},
    }
    write_json(tmp_path / "answer_dict_val.json", golds)
    said = {"validation_Math_1": "B", "validation_Math_2": "one half, 0.50"}
    path = write_json(tmp_path / "letters.json", said)
    scores = score_file("mmmu", path, tmp_path)
    assert scores.value == 100
    assert scores.tables["domain"] == {"Science": 100.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "not a list"}, "row 1: 'not a list' is not a list of options"),
        ({"options": "[]"}, r"row 1: '\[\]' is not a list of options"),
        ({"answer": None}, "row 1: answer must be a string, not None"),
        ({"id": "validation_Alchemy_1"}, "no subject of MMMU: Alchemy"),
    ],
)
def test_mmmu_parquet_errors(tmp_path: Path, change: dict[str, object], message: str) -> None:
    layout = LAYOUTS["mmmu"](tmp_path)
    path = tmp_path / "Accounting" / "validation-00000-of-00001.parquet"
    rows = parquet.read_table(path).to_pylist()
    parquet.write_table(pyarrow.Table.from_pylist([rows[0] | change, *rows[1:]]), path)
    with pytest.raises(ValueError, match=message):
        score(layout)
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="parquet"):
        score(layout)


def test_tables_that_are_none(tmp_path: Path) -> None:
    layout = LAYOUTS["mmbench"](tmp_path)
    path = tmp_path / "answers.xlsx"
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"answers\.xlsx: not an \.xlsx table"):
        score_file("mmbench", path, layout.data)


def test_unknown_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no benchmark 'vqa'; there are vqav2, gqa"):
        score_file("vqa", tmp_path, tmp_path)


@pytest.mark.parametrize("task", ["vqav2", "gqa", "pope"])
def test_short_prompts(task: str, tmp_path: Path) -> None:
    questions, _ = benchmark(task).read(LAYOUTS[task](tmp_path).data)
    assert all(question.prompt.endswith(SHORT) for question in questions)


def _mmmu_prompts(folder: Path) -> list[str]:
    return [question.prompt for question in benchmark("mmmu").read(LAYOUTS["mmmu"](folder).data)[0]]


def _stored_prompts(task: str) -> Callable[[Path], tuple[list[str], list[str]]]:
    def prompts(folder: Path) -> tuple[list[str], list[str]]:
        layout = LAYOUTS[task](folder)
        ours = [question.prompt for question in benchmark(task).read(layout.data)[0]]
        return ours, [
            str(line["prompt"]).removeprefix("<image>\n") for line in read_lines(layout.answers)
        ]

    return prompts


@pytest.mark.parametrize("task", ["vqav2", "gqa", "scienceqa", "textvqa", "mmvet", "seed"])
def test_our_prompts_are_llavas(task: str, tmp_path: Path) -> None:
    ours, stored = _stored_prompts(task)(tmp_path)
    assert ours == stored


def test_mmmu_prompts(tmp_path: Path) -> None:
    choice, open_, _ = _mmmu_prompts(tmp_path)
    assert choice == "<image 1> Which?\n(A) $6\n(B) $7\n" + LETTER
    assert open_ == "<image 1> Which?" + SHORT


def _spoilt(content: object) -> list[object]:
    """The content with one thing wrong: the whole of another type, or a field of a first record gone."""
    spoilt: list[object] = [[], {}, "text", 7, None, [None], {"x": None}, {"x": []}]
    if isinstance(content, dict):
        for key, value in content.items():
            spoilt.append({k: v for k, v in content.items() if k != key})
            spoilt.append(content | {key: None})
            if isinstance(value, dict | list) and value:
                spoilt += [content | {key: inner} for inner in _spoilt(value)[8:]]
    elif isinstance(content, list) and content:
        spoilt += [[inner, *content[1:]] for inner in _spoilt(content[0])[8:]]
    return spoilt


@pytest.mark.parametrize("task", [name for name in NAMES if name != "mmmu"])
def test_spoilt_files_get_one_clear_line(task: str, tmp_path: Path) -> None:
    layout = LAYOUTS[task](tmp_path)
    files = [p for p in tmp_path.rglob("*.json*") if p not in (layout.answers, layout.grades)]
    for path in files:
        whole = path.read_text()
        lines = whole.splitlines()
        by_line = path.suffix == ".jsonl" or path.parent.name == "coco"
        contents = _spoilt(json.loads(lines[0] if by_line else whole))
        texts = [json.dumps(content) for content in contents] + ["{", "\x00", "[[[["]
        for text in texts:
            path.write_text("\n".join([text, *lines[1:]]) if by_line else text)
            message = ""
            with suppress(FileNotFoundError):
                try:
                    score(layout)
                except ValueError as error:
                    message = str(error)
            assert "\n" not in message
            assert not message or any(word in message for word in (path.name, "answer", "question"))
        path.write_text(whole)


def test_scoring_needs_no_torch() -> None:
    code = (
        "import sys, vlmamba.eval.score\n"
        "from vlmamba.eval.tasks import NAMES, benchmark\n"
        "for name in NAMES: benchmark(name)\n"
        "print({'torch', 'pandas', 'pyarrow', 'openpyxl', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_rotation_may_name_the_row_that_has_its_picture(tmp_path: Path) -> None:
    layout = LAYOUTS["mmbench"](tmp_path)
    path = tmp_path / "mmbench_dev_20230712.tsv"
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows[1::2]:
        row[header.index("image")] = str(int(row[0]) % 1_000_000)
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)))
    first, turned, *_ = benchmark("mmbench").read(layout.data)[0]
    assert first.image == turned.image
    assert isinstance(first.image, bytes)
    assert first.image.startswith(b"\x89PNG")
