"""Draft and target: what speculative decoding saves on an autoregressive model, and whether its output is the same."""

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import _decode, policies
from jaxdlm._load import load
from jaxdlm.core.rule import Rule
from jaxdlm.errors import InputError
from jaxdlm.eval import metrics, prompts
from jaxdlm.eval.rows import Line
from jaxdlm.eval.run import Bench, Stopwatch, check
from jaxdlm.eval.sweeps import Choice, Settings, canonical, label
from jaxdlm.eval.task import TASKS, Example
from jaxdlm.eval.tasks.base import Score

BASELINE = "autoregressive"  # one token per target forward, from the key/value cache
DRAFT = "tiny-draft"  # of the embedded models
COLUMNS = 64  # of an answer to a prompt that is no task
TIMES = ("seconds", "seconds_baseline")  # of a row; all else in it is the same in every run

Key = tuple[str, str, str | None, int]  # name, settings, draft, batch


class Method(NamedTuple):
    name: str
    settings: Settings
    draft: str | None

    @property
    def label(self) -> str:
        return label(self.name, self.settings)

    def key(self, batch: int) -> Key:
        return self.name, canonical(self.settings), self.draft, batch


def key_of(row: Line) -> Key:
    return row["policy"], canonical(row["settings"]), row["draft"], row["batch"]


class Question(NamedTuple):
    """Token ids to go on from; task: of the benchmark, or a kind of prompt, which has no example to check."""

    id: str
    task: str
    prompt: list[int]
    example: Example | None = None


class Pool(NamedTuple):
    """Questions of one canvas in the order of their lengths, so that a batch pads little."""

    lm: Any
    questions: Sequence[Question]
    columns: int
    seed: int
    stop: bool
    tasks: Mapping[str, Any] = TASKS  # that check the answers


def pool(bench: Bench, tasks: Sequence[str]) -> Pool:
    """The examples of the tasks that share the first one's canvas."""
    columns = bench.geometry(tasks[0])[0]
    same = [task for task in tasks if bench.geometry(task)[0] == columns]
    asked = [Question(e.id, task, bench.prompts[e.id], e) for task in same for e in bench.examples[task]]
    return Pool(bench.lm, by_length(asked), columns, bench.seed, bench.stop, bench.tasks)


def pool_of_prompts(lm: Any, n: int, columns: int, seed: int, stop: bool) -> Pool:
    """The first n prompts of each kind, as chats."""
    if lm.tokenizer is None:
        raise InputError(f"model {lm.name!r} has no tokenizer: {lm.advice or 'the prompts are text'}")
    asked = [Question(p.id, p.kind, lm.tokenizer.encode_prompt(p.messages)) for p in prompts.of_each(n)]
    return Pool(lm, by_length(asked), columns, seed, stop)


def by_length(asked: Sequence[Question]) -> list[Question]:
    return sorted(asked, key=lambda question: (len(question.prompt), question.id))


def widest(pooled: Pool) -> int:
    """Columns of its longest row."""
    return pooled.columns + len(pooled.questions[-1].prompt)


def draft_of(lm: Any, name: str | None, dtype: str | None) -> Any:
    """The draft model: as named (the target's own name: itself), the embedded one for an embedded target, else None."""
    if name is None:
        return load(DRAFT, dtype=dtype) if lm.tokenizer is not None and lm.tokenizer.closed else None
    return lm if name == lm.name else load(name, dtype=dtype)


class Contest(NamedTuple):
    """Methods with their policies, the baseline first; and what is left out and why."""

    entered: list[tuple[Method, Any]]
    skipped: Mapping[str, str]


def contest(pooled: Pool, chosen: Sequence[Choice], draft: Any) -> Contest:
    """What can run of the chosen methods; of all methods, those for diffusion models are none of its business.

    Raises InputError, with the first reason, where nothing can run.
    """
    entered: dict[str, tuple[Method, Any]] = {}
    skipped: dict[str, str] = {}
    everything = len(chosen) == len(policies.RECIPES) and all(choice.settings is None for choice in chosen)
    longest = pooled.questions[-1].prompt
    for choice in [Choice(BASELINE, None), *chosen]:
        for settings in choice.settings or ({},):
            takes = "draft" in inspect.signature(policies.RECIPES[choice.name]).parameters and "draft" not in settings
            method = Method(choice.name, settings, draft.name if takes and draft is not None else None)
            try:
                policy = _policy(method, draft, takes, pooled.lm.name)
                _decode.prepare(pooled.lm, [longest], policy, max_new=pooled.columns)
            except Other as error:
                if not everything:
                    skipped[method.label] = str(error)
            except InputError as error:
                if choice.name == BASELINE:
                    raise
                skipped[method.label] = str(error)
            else:
                entered[method.label] = method, policy
    if skipped and len(entered) == 1:
        raise InputError(f"no method is left beside {BASELINE}: {next(iter(skipped.values()))}")
    return Contest(list(entered.values()), skipped)


class Other(InputError):
    """A method for another kind of model."""


def _policy(method: Method, draft: Any, takes: bool, target: str) -> Any:
    if takes and draft is None:
        raise InputError(f"{method.name} needs --draft, a smaller model with the tokenizer of {target}")
    made = policies.RECIPES[method.name](**method.settings, **({"draft": draft} if takes else {}))
    if isinstance(made, Rule):
        raise Other(f"{method.name} is for diffusion models, and {target} is autoregressive")
    return made


def run(pooled: Pool, contest: Contest, batches: Sequence[int], done: Sequence[Line]) -> Iterator[list[Line]]:
    """New rows, those of one method on one batch at a time; the baseline and all methods take turns on every batch.

    A batch that a method has rows of already is not decoded by it again; the baseline is, where any other is: it has to
    be timed beside it.
    """
    ids: dict[Key, set[str]] = defaultdict(set)
    for row in done:
        ids[key_of(row)].add(row["id"])
    (slow, plain), *others = contest.entered
    beside = 0.0
    for size in batches:
        for first in range(0, len(pooled.questions), size):
            part = pooled.questions[first : first + size]
            todo = [(m, p) for m, p in others if not ids[m.key(size)].issuperset(q.id for q in part)]
            if not todo and ids[slow.key(size)].issuperset(question.id for question in part):
                continue
            for method, policy in [(slow, plain), *todo]:
                out, seconds = _decode_part(pooled, policy, part, size)
                beside = seconds if method is slow else beside
                new = _rows(pooled, method, size, part, out, seconds, beside)
                yield [row for row in new if row["id"] not in ids[key_of(row)]]


def _decode_part(pooled: Pool, policy: Any, part: Sequence[Question], size: int) -> tuple[Any, float]:
    """(Output, seconds) of one batch, filled up with its last question; a call that compiled is made again."""
    asked = [question.prompt for question in part]
    asked += [asked[-1]] * (size - len(part))
    for _ in range(2):
        with Stopwatch() as watch:
            out = _decode.decode(
                pooled.lm, asked, policy, max_new=pooled.columns, seed=pooled.seed, stop=pooled.stop, save="none"
            )
        if not watch.compiling:
            break
    return out, watch.seconds


def _rows(
    pooled: Pool, method: Method, size: int, part: Sequence[Question], out: Any, seconds: float, slow: float
) -> list[Line]:
    counted = metrics.tokens_to_end(out.tokens, pooled.lm.config.tokens.eos)
    lines = []
    for index, question in enumerate(part):
        tokens, forwards, text = out.tokens[index, : counted[index]], int(out.forwards[index]), out.text[index]
        example = question.example
        score = None if example is None else check(pooled.lm, pooled.tasks, example, out.tokens[index], text)
        lines.append({
            "kind": "row", "id": question.id, "task": question.task, "model": pooled.lm.name, "policy": method.name,
            "settings": method.settings, "draft": method.draft, "batch": size, "group": part[0].id, "text": text,
            "tokens": tokens.tolist(), "n_prompt": len(question.prompt), "n_tokens": len(tokens), "forwards": forwards,
            "accepted": 0 if out.accepted is None else round(float(out.accepted[index]) * forwards),
            "draft_forwards": 0 if out.draft_forwards is None else int(out.draft_forwards[index]),
            "correct": None if score is None else score.correct, **_verdict(score), "status": str(out.status[index]),
            "seconds": round(seconds / len(part), 7), "seconds_baseline": round(slow / len(part), 7),
        })  # fmt: skip
    return lines


def _verdict(score: Score | None) -> dict[str, Any]:
    return {} if score is None else {"strict": score.strict, **({"marks": dict(score.marks)} if score.marks else {})}


def summarise(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Per method and batch size, from rows alone; equality is with the baseline's rows at the smallest batch size."""
    groups: dict[Key, list[Line]] = defaultdict(list)
    for row in lines:
        groups[key_of(row)].append(row)
    slow = sorted((row for row in lines if row["policy"] == BASELINE), key=lambda row: -row["batch"])
    reference = {row["id"]: row["tokens"] for row in slow}
    return [_line(members, reference) for members in groups.values()]


def _line(members: Sequence[Line], reference: Mapping[str, list[int]]) -> dict[str, Any]:
    row, checked = members[0], [row["correct"] for row in members if row["correct"] is not None]
    by_group = {r["group"]: r["seconds_baseline"] / max(1e-9, r["seconds"]) for r in members}
    quartiles = np.quantile(list(by_group.values()), [0.25, 0.5, 0.75])
    seconds, slow = (sum(r[name] for r in members) for name in TIMES)
    tasks = dict.fromkeys(r["task"] for r in members)
    return {
        "label": label(row["policy"], row["settings"]), "policy": row["policy"], "draft": row["draft"],
        "batch": row["batch"], "n": len(members), "accuracy": round(sum(checked) / len(checked), 4) if checked else None,
        **_counts(members, reference), "draft_forwards": sum(r["draft_forwards"] for r in members),
        "speedup_wall": {name: round(float(x), 3) for name, x in zip(("p25", "p50", "p75"), quartiles)},
        "speedup_total": round(slow / max(1e-9, seconds), 3), "seconds": round(seconds, 5), "batches": len(by_group),
        "tokens_per_second": round(sum(r["n_tokens"] for r in members) / max(1e-9, seconds), 2),
        "tasks": {task: _counts([r for r in members if r["task"] == task], reference) for task in tasks},
    }  # fmt: skip


def _counts(members: Sequence[Line], reference: Mapping[str, list[int]]) -> dict[str, Any]:
    tokens, forwards, accepted = (sum(r[name] for r in members) for name in ("n_tokens", "forwards", "accepted"))
    return {
        "accepted": round(accepted / max(1, forwards), 4), "tokens_per_forward": round(tokens / max(1, forwards), 4),
        "forwards_per_token": round(forwards / max(1, tokens), 4),
        "equal": sum(r["tokens"] == reference.get(r["id"]) for r in members),
    }  # fmt: skip


def refuse_masked(lm: Any) -> None:
    """Raises InputError for a model that has a mask token."""
    if lm.config.tokens.mask is not None:
        raise InputError(f"--draft needs an autoregressive --model such as tiny-ar; {lm.name} is a diffusion model")
