"""Runs case files against our scorers and label builder: `python tests/golden_cases.py FILE.json ...`

A file holds {benchmark, cases: [{id, kind, input, expected, variants?}]}. For each file `NAME: N of M agree` is
printed, and every mismatch; the exit status is 1 if there is any. `--variants` also compares what lmms-eval and
VLMEvalKit make of the same inputs, as `NAME (variants): N of M agree`.
"""

import json
import math
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from vlmamba.eval.task import Question
from vlmamba.eval.tasks import gqa, mmbench, mme, mmmu, mmvet, pope, scienceqa, seed, textvqa, vqav2
from vlmamba.eval.vqa_accuracy import normalize, normalize_m4c, normalize_vlmevalkit
from vlmamba.eval.yes_no import find_yes_or_no
from vlmamba.processing import modality_length, square_padding
from vlmamba.template import IMAGE_TOKEN, LLAVA_PLAIN, LLAVA_V1, Piece, Turn, as_text

TOLERANCE = 1e-6
# Of the training recipe alone: its chunking and its sampler are not ours.
NOT_APPLICABLE = {("llava_train", "chunks"), ("llava_train", "sampler")}

Check = Callable[[dict[str, Any]], Any]


def agrees(ours: Any, expected: Any) -> bool:
    """Equal, floats within the tolerance, nan written as NaN; the keys that `expected` has are compared.

    Where the public scorer crashed (`error`), ours gives the defined zero, and the rest of the keys are compared.
    """
    if expected == "NaN":
        return isinstance(ours, float) and math.isnan(ours)
    if isinstance(expected, dict):
        keys = [key for key in expected if key != "error"]
        return isinstance(ours, dict) and all(
            key in ours and agrees(ours[key], expected[key]) for key in keys
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(ours, list | tuple)
            and len(ours) == len(expected)
            and all(map(agrees, ours, expected))
        )
    if isinstance(expected, bool) or isinstance(ours, bool):
        return ours is expected
    if isinstance(expected, int | float) and isinstance(ours, int | float):
        return math.isclose(ours, expected, rel_tol=0, abs_tol=TOLERANCE)
    return type(ours) is type(expected) and ours == expected


def string_keys(value: Any) -> Any:
    """As JSON would have it: keys are strings."""
    if isinstance(value, dict):
        return {str(key): string_keys(item) for key, item in value.items()}
    return value


def vqav2_dataset(given: dict[str, Any]) -> Any:
    pairs = []
    for item in given["items"]:
        gold = {
            "answers": item["answers"],
            "answer_type": item["answer_type"],
            "question_type": item["question_type"],
        }
        pairs.append((Question(str(item["question_id"]), "", gold), item["prediction"]))
    scores = vqav2.score(pairs)
    return {
        "overall": scores.value,
        "perQuestionType": scores.tables["question type"],
        "perAnswerType": scores.tables["answer type"],
    }


def vqav2_variants(given: dict[str, Any]) -> Any:
    text, answers = given["prediction"], given["answers"]
    return {
        "official_after_llava_submission_normaliser": vqav2.accuracy(normalize_m4c(text), answers),
        "lmms_eval": vqav2.accuracy(text, answers, "lmms-eval"),
        "vlmevalkit": vqav2.accuracy(text, answers, "vlmevalkit"),
    }


def gqa_dataset(given: dict[str, Any]) -> Any:
    texts = {record["question_id"]: record["text"] for record in given["predictions"]}
    return string_keys(gqa.evaluate(given["questions"], texts))


def scienceqa_item(given: dict[str, Any]) -> Any:
    letter, _ = scienceqa.parse(given["text"])
    index = scienceqa.choice_index(letter, given["num_choices"])
    return {"parsed": letter, "pred_idx": index, "correct": index == given["answer"]}


def scienceqa_dataset(given: dict[str, Any]) -> Any:
    records = {record["question_id"]: record for record in given["predictions"]}
    return scienceqa.evaluate(given["problems"], records)


def textvqa_dataset(given: dict[str, Any]) -> Any:
    pairs = [
        (Question(str(n), "", item["answers"]), item["prediction"])
        for n, item in enumerate(given["items"])
    ]
    return textvqa.score(pairs).value / 100


def pope_dataset(given: dict[str, Any], protocol: Any = "official") -> Any:
    pairs = [
        (Question(f"{category} {n}", "", record["label"], category=category), record["text"])
        for category, records in given["categories"].items()
        for n, record in enumerate(records)
    ]
    scores = pope.score(pairs, protocol)
    return {"categories": scores.tables, "mean_f1": scores.value / 100}


def pope_variants(given: dict[str, Any]) -> Any:
    tables = pope_dataset(given, "lmms-eval")["categories"]
    for name, records in given["categories"].items():
        labels = [record["label"] for record in records]
        tables[name]["yes_ratio_of_LABELS"] = labels.count("yes") / len(labels)
    return {"lmms": tables}


def mme_variants(given: dict[str, Any]) -> Any:
    result = mme.evaluate(given["subtasks"], "lmms-eval")
    sums = {f"mme_{name}_score": result[name] for name in ("perception", "cognition")}
    return {"lmms": sums}


def mmbench_item(given: dict[str, Any]) -> Any:
    found = mmbench.infer(given["prediction"], mmbench.options_of(given["choices"]))
    return found[0] if found else False


def mmbench_item_variants(given: dict[str, Any]) -> Any:
    found = mmbench.infer_lmms_eval(given["prediction"], mmbench.options_of(given["choices"]))
    return {"lmms_prefetch": found[0] if found else False}


def mmbench_dataset_variants(given: dict[str, Any]) -> Any:
    return {"lmms_static_overall": mmbench.evaluate(given["rows"], "lmms-eval")["circular"]}


def mmmu_choice(given: dict[str, Any], protocol: Any = "official") -> str:
    found = mmmu.parse_choice(given["response"], given["options"], protocol)
    return found[0] if found else "RANDOM"


def mmmu_open(given: dict[str, Any]) -> Any:
    values = mmmu.parse_open(given["response"])
    kinds = [["str" if isinstance(value, str) else "num", value] for value in values]
    # As the case files are sorted: by kind, then by the value's text.
    return sorted(kinds, key=lambda pair: (pair[0], str(pair[1])))


def mmmu_batch(given: dict[str, Any]) -> Any:
    parse = mmmu.ChoiceParser(given["seed"])
    return [parse(item["response"], item["options"])[0] for item in given["items"]]


def mmmu_dataset(given: dict[str, Any]) -> Any:
    correct = []
    for item in given["items"]:
        if item["question_type"] == "multiple-choice":
            gold = item["answer"]
            right = (
                item["parsed_pred"] in gold
                if isinstance(gold, list)
                else item["parsed_pred"] == gold
            )
        else:
            right = mmmu.is_correct_open(mmmu.parse_open(item["response"]), item["answer"])
        correct.append((item["id"], right))
    return mmmu.evaluate(correct)


def mmvet_grade(given: dict[str, Any]) -> Any:
    replies = list(given["replies"])

    def judge(message: str, temperature: float) -> str:
        return replies.pop(0) if len(replies) > 1 else replies[0]

    # The public script lets nan pass, which the package refuses.
    grade = mmvet.grade(judge, "row", reject_nan=False)
    return {
        "score": grade.score,
        "calls": len(grade.replies),
        "temperatures": list(grade.temperatures),
    }


def llava_turns(conversations: list[dict[str, str]], has_image: bool) -> list[Turn]:
    """LLaVA's turns: a first one not the human's is dropped; image marks are taken out and the rest stripped."""
    if conversations[0]["from"] != "human":
        conversations = conversations[1:]
    turns = []
    for turn in conversations:
        text, role = turn["value"], "user" if turn["from"] == "human" else "assistant"
        pictured = has_image and IMAGE_TOKEN in text
        if pictured:
            text = text.replace(IMAGE_TOKEN, "").strip()
        turns.append(Turn(role, text, int(pictured)))
    return turns


def learnt_segments(pieces: list[Piece]) -> list[str]:
    """The texts of the supervised stretches, eos as `</s>`."""
    return [
        "".join(as_text(piece, "</s>") for piece in stretch)
        for learnt, stretch in groupby(pieces, key=lambda piece: piece.learnt)
        if learnt
    ]


def llava_v1(given: dict[str, Any]) -> Any:
    turns = llava_turns(given["conversations"], given["has_image"])
    pieces = LLAVA_V1.pieces(turns)
    return {
        "prompt": LLAVA_V1.render(turns, "</s>"),
        "num_image_tokens": sum(piece.kind == "picture" for piece in pieces),
        "supervised_segments": learnt_segments(pieces),
        "warned": False,
    }


def llava_plain(given: dict[str, Any]) -> Any:
    turns = llava_turns(given["conversations"], has_image=True)
    pieces = LLAVA_PLAIN.pieces(turns)
    return {
        "text": LLAVA_PLAIN.render(turns, "</s>"),
        "num_image_tokens": sum(piece.kind == "picture" for piece in pieces),
        "supervised_segments": learnt_segments(pieces),
        "ends_with_eos": pieces[-1].kind == "eos",
    }


def llava_pad(given: dict[str, Any]) -> Any:
    side, offset, colour = square_padding(given["width"], given["height"], given["image_mean"])
    return {"size": [side, side], "background": list(colour), "offset": list(offset)}


def llava_modality_length(given: dict[str, Any]) -> Any:
    texts = [turn["value"] for turn in given["conversations"]]
    return modality_length(texts, given["has_image"])


CHECKS: dict[tuple[str, str], Check] = {
    ("vqav2", "normalize"): lambda given: normalize(given["text"]),
    ("vqav2", "accuracy"): lambda given: vqav2.accuracy(given["prediction"], given["answers"]),
    ("vqav2", "dataset"): vqav2_dataset,
    ("gqa", "item"): lambda given: {
        "converted": gqa.convert(given["text"]),
        "correct": gqa.is_correct(given["text"], given["answer"]),
    },
    ("gqa", "dataset"): gqa_dataset,
    ("scienceqa", "item"): scienceqa_item,
    ("scienceqa", "dataset"): scienceqa_dataset,
    ("textvqa", "normalize"): lambda given: normalize_m4c(given["text"]),
    ("textvqa", "accuracy"): lambda given: textvqa.accuracy(given["prediction"], given["answers"]),
    ("textvqa", "prompt_to_question"): lambda given: textvqa.question_of(given["prompt"]),
    ("textvqa", "dataset"): textvqa_dataset,
    ("pope", "item"): lambda given: pope.parse(given["text"]),
    ("pope", "dataset"): pope_dataset,
    ("mme", "item"): lambda given: mme.parse(given["response"]),
    ("mme", "dataset"): lambda given: mme.evaluate(given["subtasks"]),
    ("mmbench", "item"): mmbench_item,
    ("mmbench", "dataset"): lambda given: string_keys(mmbench.evaluate(given["rows"])),
    ("mmvet", "grade"): mmvet_grade,
    ("mmvet", "grader_row"): lambda given: mmvet.grader_row(**given),
    ("mmvet", "aggregate"): lambda given: mmvet.aggregate(
        [(item["capability"], item["scores"]) for item in given["items"]]
    ),
    ("mmmu", "mcq"): mmmu_choice,
    ("mmmu", "mcq_batch"): mmmu_batch,
    ("mmmu", "open"): mmmu_open,
    ("mmmu", "open_eval"): lambda given: mmmu.is_correct_open(
        mmmu.parse_open(given["response"]), given["answer"]
    ),
    ("mmmu", "dataset"): mmmu_dataset,
    ("llava_train", "v1"): llava_v1,
    ("llava_train", "plain"): llava_plain,
    ("llava_train", "pad"): llava_pad,
    ("llava_train", "modality_length"): llava_modality_length,
    ("seedbench", "item"): lambda given: seed.is_correct(given["text"], given["answer"]),
    ("seedbench", "dataset"): lambda given: seed.evaluate(
        given["annotation"], {r["question_id"]: r["text"] for r in given["predictions"]}
    ),
}

VARIANTS: dict[tuple[str, str], Check] = {
    ("vqav2", "normalize"): lambda given: {
        "llava_submission": normalize_m4c(given["text"]),
        "lmms_eval": normalize(given["text"]),
        "vlmevalkit": normalize_vlmevalkit(given["text"]),
    },
    ("vqav2", "accuracy"): vqav2_variants,
    ("textvqa", "normalize"): lambda given: {"vlmevalkit": normalize_vlmevalkit(given["text"])},
    ("textvqa", "accuracy"): lambda given: {
        "lmms_eval": textvqa.accuracy(given["prediction"], given["answers"], "lmms-eval"),
        "vlmevalkit": textvqa.accuracy(given["prediction"], given["answers"], "vlmevalkit"),
    },
    ("gqa", "item"): lambda given: {
        "lmms_exact_match": float(gqa.is_correct(given["text"], given["answer"], "lmms-eval")),
        "vlmevalkit": float(gqa.is_correct(given["text"], given["answer"], "vlmevalkit")),
    },
    ("scienceqa", "item"): lambda given: {
        "lmms_exact_match": float(scienceqa.is_correct_lmms_eval(given["text"], given["answer"]))
    },
    ("pope", "item"): lambda given: {
        "lmms_prediction": pope.parse(given["text"], "lmms-eval"),
        "vlmevalkit": find_yes_or_no(given["text"]),
    },
    ("pope", "dataset"): pope_variants,
    ("mme", "item"): lambda given: {
        "lmms": mme.parse(given["response"], "lmms-eval"),
        "vlmevalkit": find_yes_or_no(given["response"]),
    },
    ("mme", "dataset"): mme_variants,
    ("mmbench", "item"): mmbench_item_variants,
    ("mmbench", "dataset"): mmbench_dataset_variants,
    ("mmmu", "mcq"): lambda given: {"lmms": mmmu_choice(given, "lmms-eval")},
    ("seedbench", "item"): lambda given: {
        "lmms": float(seed.is_correct(given["text"], given["answer"], "lmms-eval"))
    },
}


def run(path: Path, checks: dict[tuple[str, str], Check], field: str) -> tuple[int, int, list[str]]:
    """How many cases agree, of how many, and a line for each that does not or that is of no known kind."""
    content = json.loads(path.read_text(encoding="utf-8"))
    name = content["benchmark"]
    num_agreeing, num_cases, lines = 0, 0, []
    for case in content["cases"]:
        kind = (name, case["kind"])
        if kind in NOT_APPLICABLE or field not in case:
            continue
        if kind not in checks and field == "variants":
            continue
        num_cases += 1
        if kind not in checks:
            lines.append(f"  {case['id']}: no check for kind {case['kind']!r} of {name!r}")
            continue
        try:
            ours = checks[kind](case["input"])
        except Exception as error:
            ours = f"{type(error).__name__}: {error}"
        if agrees(ours, case[field]):
            num_agreeing += 1
        else:
            lines.append(f"  {case['id']} {case['kind']}: ours {ours!r}, expected {case[field]!r}")
    return num_agreeing, num_cases, lines


def main(arguments: list[str]) -> int:
    """Prints the counts and the mismatches of the files; 1 if there are any, 2 without a file."""
    variants = "--variants" in arguments
    paths = [Path(argument) for argument in arguments if argument != "--variants"]
    if not paths:
        print(__doc__)
        return 2
    failed = False
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        name = content["benchmark"]
        runs = [(name, CHECKS, "expected")]
        if variants:
            runs.append((f"{name} (variants)", VARIANTS, "variants"))
        for title, checks, field in runs:
            num_agreeing, num_cases, lines = run(path, checks, field)
            print(f"{title}: {num_agreeing} of {num_cases} agree")
            print("\n".join(lines), end="\n" if lines else "")
            failed |= num_agreeing != num_cases
        skipped = sum((name, case["kind"]) in NOT_APPLICABLE for case in content["cases"])
        if skipped:
            kinds = ", ".join(sorted(kind for owner, kind in NOT_APPLICABLE if owner == name))
            print(f"{name}: {skipped} not applicable ({kinds})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
