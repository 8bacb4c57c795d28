"""Folders in the layout of published benchmarks, with items of our own."""

import json
import random

from jaxdlm.eval.suites import _generate
from jaxdlm.eval.suites.parallelbench import EDITS

FIRST, LAST = ["Ada", "Bo", "Cy", "Dee"], ["Ash", "Elm", "Fern"]
METRICS = {"shuffle": "list_shuffle_score"} | {
    f"{k}_random": f"list_random_{k}_score" for k in ("insert", "remove", "replace")
}


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_of(name):
    kind = name.partition("_")[0]
    return {
        "type": kind, "metric": METRICS.get(name, "list_match_score"), "random_index": name.endswith("random"),
        "prompt": f"{name} this line: {{context}}" + (" with {word}" if kind in ("insert", "replace") else "")
        + (" at {index}" if name.endswith("index") else ""),
        "num_samples": 8, "samples_per_length": 2, "icl_example_count": 1, "min_length": 3, "max_length": 6,
        "seed": _generate.seed_of(name), "words": "first_last_names.yaml",
    }  # fmt: skip


def parallelbench(data, lists=True):
    """All 17 tasks; without lists their items are left to the generator."""
    (data / "waiting_line").mkdir(parents=True)
    configs = {f"waiting_line/{name}": config_of(name) for name in EDITS}
    (data / "waiting_line/task_config.yaml").write_text(json.dumps(configs))  # JSON is YAML
    (data / "first_last_names.yaml").write_text(json.dumps([FIRST, LAST]))
    words = [f"{a} {b}" for a in FIRST for b in LAST]
    for name, config in configs.items():
        if lists:
            lines(data / f"{name}.jsonl", _generate.items(config, words))
    square = {"metric": "latin_square_score", "prompt": "Square of {size} with {symbols}.", "type": "latin_square"}
    square |= {"size": 4, "num_samples": 4, "icl_example_count": 1, "seed": 5}
    sudoku = {"metric": "sudoku_score", "prompt": "Fill:\\n{sudoku}\\n"}
    puzzle = {"puzzle/latin_square_n4": square, "puzzle/sudoku_n4_12": sudoku}
    lines(data / "puzzle/latin_square_n4.jsonl", _generate.items(square, None))
    lines(data / "puzzle/sudoku_n4_12.jsonl", [
        {"input": {"sudoku": "1230\n3412\n2143\n4321"}, "answer": "1234\n3412\n2143\n4321", "metadata": {"length": 12}}
    ] * 3)  # fmt: skip
    (data / "puzzle/task_config.yaml").write_text(json.dumps(puzzle))
    sentences = {}
    for level in ("easy", "medium", "hard"):
        sentences[f"words_to_sentence/{level}"] = {"metric": "sentence_to_words_score", "prompt": "Use {words}."}
        words = {"input": {"words": "mill and rain"}, "answer": {"words": ["mill", "rain"]}, "metadata": {}}
        lines(data / f"words_to_sentence/{level}.jsonl", [words] * 3)
    (data / "words_to_sentence/task_config.yaml").write_text(json.dumps(sentences))
    texts = {
        "paraphrase_summarize/chatgpt-paraphrases": {"metric": "paraphrase_score", "prompt": "Otherwise: {text}"},
        "paraphrase_summarize/samsum": {"metric": "summary_score", "prompt": "Short: {text}"},
    }
    said = {
        "input": {"text": "Rain fell."},
        "answer": {"text": "Rain fell.", "summary": "Rain."},
        "metadata": {"length": 1},
    }
    for name in texts:
        lines(data / f"{name}.jsonl", [said] * 3)
    (data / "paraphrase_summarize/task_config.yaml").write_text(json.dumps(texts))
    return data


def gsm8k(data):
    def row(n):
        return {"question": f"Ada has {n} pears and eats one. How many?", "answer": f"{n} - 1 = {n - 1}\n#### {n - 1}"}

    lines(data / "test.jsonl", [row(n) for n in (3, 4, 1202)])
    lines(data / "train.jsonl", [row(n) for n in range(5, 12)])
    return data


def math(data):
    for split, count in (("test", 3), ("train", 5)):
        for n in range(count):
            path = data / split / "algebra" / f"{n}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({
                "problem": f"What is ${n}/2$?", "level": "Level 1", "type": "Algebra",
                "solution": rf"It is $\boxed{{\frac{{{n}}}{{2}}}}$.",
            }))  # fmt: skip
    return data


def humaneval(data):
    rows = []
    for n in (2, 3):
        prompt = f'from typing import List\n\n\ndef times_{n}(xs: List[int]) -> List[int]:\n    """Each times {n}."""\n'
        test = f"def check(candidate):\n    assert candidate([1, 2]) == [{n}, {2 * n}]\n"
        rows.append({
            "task_id": f"HumanEval/{n}", "prompt": prompt, "entry_point": f"times_{n}", "test": test,
            "canonical_solution": f"    return [{n} * x for x in xs]\n",
        })  # fmt: skip
    lines(data / "HumanEval.jsonl", rows)
    return data


def mbpp(data):
    rows = [
        {
            "task_id": n, "text": f"Write a function that adds {n}.", "code": f"def add(x):\n    return x + {n}",
            "test_list": [f"assert add({k}) == {k + n}" for k in range(3)], "test_setup_code": "", "challenge_test_list": [],
        }
        for n in (2, 3, 4, 11, 12)
    ]  # fmt: skip
    lines(data / "mbpp.jsonl", rows)
    return data


def specbench(data):
    kinds = ("writing", "math", "translation", "summarization", "qa", "math_reasoning", "rag")
    rng, words = random.Random(1), "reverse sort copy add shuffle".split()
    chat = lambda kind: [rng.choice(words) for _ in range(2 if kind in kinds[:2] else 1)]  # noqa: E731
    lines(data / "question.jsonl", [
        {"question_id": n, "category": kind, "turns": chat(kind)} for n, kind in enumerate(kinds)
    ])  # fmt: skip
    return data


ALL = {each.__name__: each for each in (parallelbench, gsm8k, math, humaneval, mbpp, specbench)}
