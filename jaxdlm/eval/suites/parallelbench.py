"""ParallelBench (arXiv 2510.04767): 17 tasks that say what parallel decoding loses, in the layout of its repository.

Prompts and items are those of the files: `<group>/task_config.yaml` and `<group>/<task>.jsonl`. Where the second is not there,
its items are generated from the first (lists and Latin squares), in `waiting_line_nK` for any K.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError, shortened
from jaxdlm.eval.suites import _generate, _lists, _text
from jaxdlm.eval.suites._base import Asked, Item, Reading, Request, Suite, assistant, exactly, user
from jaxdlm.eval.suites._files import limited, rows
from jaxdlm.eval.sweeps import Settings
from jaxdlm.eval.tasks.base import Score
from jaxdlm.registry import suite

LISTS = "waiting_line"
EDITS = (
    "copy", "insert_index", "insert_random", "remove_index", "remove_random", "replace_index", "replace_random",
    "reverse", "shuffle", "sort",
)  # fmt: skip
TASKS = (
    *(f"{LISTS}/{name}" for name in EDITS), "puzzle/latin_square_n4", "puzzle/sudoku_n4_12", "words_to_sentence/easy",
    "words_to_sentence/medium", "words_to_sentence/hard", "paraphrase_summarize/chatgpt-paraphrases",
    "paraphrase_summarize/samsum",
)  # fmt: skip
FOLDERS = (".", "output/test", "dataset/parallel_bench/data/output/test")  # of the groups, below --data
CONFIG, NAMES = "task_config.yaml", "first_last_names.yaml"
SHORT, LONG = 32, 64  # tokens of the paper: lists of six at most, anything else
PER_PERSON, ROUND = 8, 32  # columns of a longer list, which the paper does not state
SCHEMA = {"input": argument.table}
FIELDS: Mapping[str, tuple[str, ...]] = {  # of the stored answer
    "list_shuffle_score": ("input",), "list_random_insert_score": ("input", "word"),
    "list_random_remove_score": ("input",), "list_random_replace_score": ("input", "word"),
    "latin_square_score": ("symbols",), **{name: fields for name, (_, fields, _) in _text.METRICS.items()},
}  # fmt: skip


def read(request: Request) -> Reading:
    """The 17 tasks, or those that are named; of free text only where its metrics can be computed."""
    if request.shots is not None:
        raise InputError("--shots means nothing for parallelbench: its files hold the worked examples")
    root = _root(request.data)
    asked, left_out, notes = [], {}, []
    for name in _names(root, request):
        config = _config(root, name)
        why = _text.missing(config["metric"]) if config["metric"] in _text.METRICS else None
        if why is not None:
            if request.tasks is not None and name in request.tasks:
                raise InputError(f"--tasks {name}: {why}")
            left_out[name] = why
            continue
        values, how = _items(root, request, name, config)
        notes += [f"{name}: {how}"] if how else []
        items = [_item(root, name, index, value, config) for index, value in enumerate(limited(values, request))]
        asked.append(_asked(name, items, config, values))
    return Reading(asked, left_out, notes)


def _root(data: pathlib.Path) -> pathlib.Path:
    for folder in FOLDERS:
        if any((data / folder).glob(f"*/{CONFIG}")):
            return data / folder
    raise InputError(
        f"--data {data} holds no GROUP/{CONFIG}: give the checkout of furiosa-ai/ParallelBench, or its folder {FOLDERS[-1]}"
    )


def _names(root: pathlib.Path, request: Request) -> list[str]:
    """The names of --tasks: a task `group/name`, a group, or the name alone of one of the 17."""
    if request.tasks is None:
        return list(TASKS)
    names: list[str] = []
    for word in request.tasks:
        group = word.split("/")[0]
        if "/" in word:
            names.append(word)
        elif some := [name for name in TASKS if word in (name.split("/")[0], name.split("/")[1])]:
            names += some
        elif _length(group) is not None:
            names += [f"{group}/{name}" for name in EDITS]
        else:
            known = [*dict.fromkeys(name.split("/")[0] for name in TASKS), *(name.split("/")[1] for name in TASKS)]
            argument.check_choice(word, "--tasks", known)
    return list(dict.fromkeys(names))


def _length(group: str) -> int | None:
    """K of `waiting_line_nK`."""
    number = group.removeprefix(f"{LISTS}_n")
    return int(number) if group != number and number.isdecimal() and int(number) > 1 else None


def _config(root: pathlib.Path, name: str) -> dict[str, Any]:
    """The task's entry of its group's configuration; of `waiting_line_nK` without one, that of waiting_line with K people."""
    group, _, task = name.partition("/")
    path, length = root / group / CONFIG, _length(group)
    if not path.is_file() and length is not None:
        several = {"min_length": length, "max_length": length}
        config = _config(root, f"{LISTS}/{task}")
        return {**config, **several, "name": name, "samples_per_length": config.get("num_samples")}
    values = _yaml(path)
    if not isinstance(values, Mapping) or name not in values:
        raise InputError(f"{path} has no task {name!r}: {_there(values)}")
    config = argument.record(
        values[name], f"{path} {name}", {"prompt": argument.text, "metric": argument.text}, required=True, dot=" "
    )
    known = (*_lists.NAMES, *_text.METRICS)
    if config["metric"] not in known:
        raise InputError(
            f"{path} {name}: metric {config['metric']!r} is not supported: those of {', '.join(known)} are"
        )
    return config


def _there(values: Any) -> str:
    return f"it has {', '.join(values)}" if isinstance(values, Mapping) and values else "copy it again"


def _yaml(path: pathlib.Path) -> Any:
    import yaml

    if not path.is_file():
        raise InputError(
            f"{path} is missing: copy it from the benchmark, or name the tasks that are there with --tasks"
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no YAML ({shortened(str(error), 80)}): copy it again") from None


def _items(
    root: pathlib.Path, request: Request, name: str, config: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """(rows of the task, how they came about where they are not read)."""
    path = root / f"{name}.jsonl"
    if path.is_file():
        return rows(path, SCHEMA), ""
    words = _words(root, request.data, config)
    needs = (
        "type",
        "num_samples",
        *(("size",) if config.get("type") == "latin_square" else ("min_length", "max_length")),
    )
    if any(key not in config for key in needs) or (words is None and config["type"] != "latin_square"):
        raise InputError(
            f"{path} is missing, and is not generated without {NAMES} and a configuration of a list or a Latin square: "
            f"copy it, or name the tasks that are there with --tasks"
        )
    config = {"seed": _generate.seed_of(name), **config}
    return _generate.items(config, words), f"{config['num_samples']} items generated, seed {config['seed']}"


def _words(root: pathlib.Path, data: pathlib.Path, config: Mapping[str, Any]) -> list[str] | None:
    """First and last names in all pairs; None where the file is not there."""
    name = pathlib.PurePath(str(config.get("words", NAMES))).name
    for folder in (data, data / "dataset/parallel_bench/data", root, *root.resolve().parents[:2]):
        if (folder / name).is_file():
            values = _yaml(folder / name)
            lists = argument.items(values, str(folder / name), argument.listed(argument.text))
            return [" ".join(pair) for pair in itertools.product(*lists)]
    return None


def _item(root: pathlib.Path, name: str, index: int, value: Mapping[str, Any], config: Mapping[str, Any]) -> Item:
    where = f"{root / name}.jsonl: item {index + 1}"
    given = value["input"]
    shots = argument.items(given.get("icl_examples") or [], f"{where}: icl_examples", argument.table)
    turns = []
    for shot in shots:
        turns += [user(_prompt(config, shot, where)), assistant(_text_of(shot.get("answer"), where))]
    truth = _truth(value.get("answer"), config["metric"], where)
    asked = [*turns, user(_prompt(config, value, where))]
    return Item(f"{name}-{index}", asked, _shown(value["answer"]), {"truth": truth})


def _prompt(config: Mapping[str, Any], value: Mapping[str, Any], where: str) -> str:
    """The configured words with the item's fields in their places; `\\n` spelled out is a line's end, as they have it."""
    try:
        return config["prompt"].format(**value["input"]).replace("\\n", "\n")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: its input has no {error} of the prompt: copy the file and {CONFIG} again") from None


def _text_of(answer: Any, where: str) -> str:
    """What the assistant said in a worked example."""
    text = answer if isinstance(answer, str) else (answer or {}).get("example") if isinstance(answer, Mapping) else None
    if not isinstance(text, str):
        raise InputError(f"{where}: its worked example has no answer: copy the file again")
    return text


def _truth(answer: Any, metric: str, where: str) -> Any:
    fields = FIELDS.get(metric)
    if fields is None:
        if not isinstance(answer, str):
            raise InputError(f"{where}: answer must be a text for {metric}: copy the file again")
        return answer
    if not isinstance(answer, Mapping) or any(name not in answer for name in fields):
        raise InputError(f"{where}: answer must have {', '.join(fields)} for {metric}: copy the file again")
    kept = ("input", "word", "symbols", "words", "summary", "text")
    return {name: answer[name] for name in kept if name in answer}


def _shown(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    return str(answer.get("example") or answer.get("summary") or json.dumps(answer, ensure_ascii=False))


def _asked(name: str, items: Sequence[Item], config: Mapping[str, Any], values: Sequence[Mapping[str, Any]]) -> Asked:
    metric, canvas = config["metric"], LONG
    if metric in _lists.OF_LISTS:
        longest = max((value.get("metadata") or {}).get("length") or 0 for value in values)
        canvas = SHORT if longest <= 6 else -(-longest * PER_PERSON // ROUND) * ROUND

    def grade(payload: Mapping[str, Any], text: str) -> Score:
        truth = payload["truth"]
        if metric in _text.METRICS:
            return _text.grade(metric, truth, text)
        loose, strict = (_lists.verdict(metric, text, truth, each) for each in (False, True))
        valid = _lists.grid(text) if metric == "sudoku_score" else text.strip() if metric in _lists.OF_TEXT else (
            _lists.parse(text, True)
        )  # fmt: skip
        return exactly(loose, strict, bool(valid))

    return Asked(name, items, canvas, grade)


def per_step(canvas: int) -> list[Settings]:
    """`steps` for k = 1, 2, 4, ... and all columns per forward."""
    return [{"steps": max(1, canvas // 2**i)} for i in range(canvas.bit_length())]


SUITE = suite(
    Suite(
        "parallelbench",
        "2510.04767",
        "lists, puzzles and short texts, of which some lose by parallel decoding and some do not",
        "`GROUP/task_config.yaml`, `GROUP/TASK.jsonl` of furiosa-ai/ParallelBench; or its checkout",
        read,
        methods="low_confidence,random,topk_margin,entropy,threshold,factor",
        sweeps={
            **dict.fromkeys(("low_confidence", "random", "topk_margin", "entropy"), per_step),
            "threshold": lambda canvas: [{"tau": tau} for tau in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)],
            "factor": lambda canvas: [{"factor": factor} for factor in (0.7, 1.0, 1.3, 1.6, 1.9)],
        },
        order=10,
    )
)
