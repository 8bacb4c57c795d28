"""Draft and target: what speculative decoding saves on an autoregressive model, and whether its output is the same."""

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm import _decode, policies
from jaxdlm.core.rule import Rule
from jaxdlm.errors import InputError
from jaxdlm.eval import metrics
from jaxdlm.eval.run import Bench, canvas_of, check
from jaxdlm.eval.sweeps import Choice, Settings, label
from jaxdlm.eval.task import Example

BASELINE = "autoregressive"  # one token per target forward, from the key/value cache
WARM, REPEATS = 1, 3


class Method(NamedTuple):
    name: str
    settings: Settings
    draft: str | None

    @property
    def label(self) -> str:
        return label(self.name, self.settings)

    def build(self) -> Any:
        extra = {} if self.draft is None else {"draft": self.draft}
        return policies.RECIPES[self.name](**self.settings, **extra)


def autoregressive_recipes() -> list[str]:
    """Recipes that need an autoregressive target."""
    return [name for name in policies.RECIPES if not isinstance(policies.RECIPES[name](), Rule)]


def methods(chosen: Sequence[Choice], draft: str) -> list[Method]:
    """The baseline, then what was asked for; recipes for masked models are left out."""
    known = autoregressive_recipes()
    found = [Method(BASELINE, {}, None)]
    for choice in chosen:
        takes = choice.name in known and "draft" in inspect.signature(policies.RECIPES[choice.name]).parameters
        if choice.name in known:
            found += [Method(choice.name, settings, draft if takes else None) for settings in choice.settings or ({},)]
    return list({method.label: method for method in found}.values())


class Pool(NamedTuple):
    """Examples of one canvas, in batches of one size."""

    bench: Bench
    examples: Sequence[Example]
    columns: int

    def decode(self, policy: Any, size: int) -> dict[str, np.ndarray]:
        """Arrays over all examples; the last batch is filled up with its last row."""
        parts = []
        for first in range(0, len(self.examples), size):
            part = self.examples[first : first + size]
            prompts = [self.bench.prompts[example.id] for example in part]
            prompts += [prompts[-1]] * (size - len(part))
            out = _decode.decode(
                self.bench.lm, prompts, policy, max_new=self.columns, seed=self.bench.seed, stop=self.bench.stop
            )
            drafts = np.zeros(size, np.int32) if out.draft_forwards is None else out.draft_forwards
            accepted = np.zeros(size, np.float32) if out.accepted is None else out.accepted
            named = {"tokens": out.tokens, "forwards": out.forwards, "accepted": accepted, "draft_forwards": drafts}
            parts.append({name: value[: len(part)] for name, value in named.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def pool(bench: Bench, tasks: Sequence[str]) -> Pool:
    """The examples of the tasks that share the first one's canvas."""
    columns = canvas_of(tasks[0], bench.canvas)
    same = [task for task in tasks if canvas_of(task, bench.canvas) == columns]
    return Pool(bench, [example for task in same for example in bench.examples[task]], columns)


def measure(pooled: Pool, found: Sequence[Method], batches: Sequence[int], timed: int) -> Iterator[dict[str, Any]]:
    """Per method and batch size: accepted tokens, target forwards per token, equality, and wall clock on `timed` rows.

    Equality compares ids over the whole pool, at every batch size, with the baseline at the first of them.
    """
    slow = found[0].build()
    reference = pooled.decode(slow, batches[0])
    few = pooled._replace(examples=pooled.examples[:timed])
    for method in found:
        policy = method.build()
        for size in batches:
            out = pooled.decode(policy, size)
            times = None if method.name == BASELINE else _in_turn(few, slow, policy, size)
            yield _row(pooled, method, size, out, reference, times)


def _row(
    pooled: Pool, method: Method, size: int, out: Mapping[str, Any], reference: Mapping[str, Any], times: Any
) -> dict[str, Any]:
    ends = pooled.bench.lm.config.tokens.eos
    counted = metrics.tokens_to_end(out["tokens"], ends)
    texts = [pooled.bench.lm.tokenizer.decode(row.tolist()) for row in out["tokens"]]
    scores = [check(pooled.bench.lm, e, row, text) for e, row, text in zip(pooled.examples, out["tokens"], texts)]
    forwards = int(out["forwards"].sum())
    equal = [same_answer(a, b, ends) for a, b in zip(out["tokens"], reference["tokens"])]
    ratio = [1.0, 1.0, 1.0] if times is None else np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    return {
        "label": method.label, "policy": method.name, "draft": method.draft, "batch": size, "n": len(pooled.examples),
        "accuracy": round(float(np.mean([score.correct for score in scores])), 4),
        "accepted": round(float((out["accepted"] * out["forwards"]).sum() / max(1, forwards)), 4),
        "tokens_per_forward": round(float(counted.sum() / max(1, forwards)), 4),
        "forwards_per_token": round(float(forwards / max(1, counted.sum())), 4),
        "draft_forwards": int(out["draft_forwards"].sum()), "equal": int(sum(equal)),
        "speedup_wall": {name: round(float(x), 3) for name, x in zip(("p25", "p50", "p75"), ratio)},
        "seconds": None if times is None else round(float(np.median(times[:, 1])), 5),
    }  # fmt: skip


def same_answer(a: np.ndarray, b: np.ndarray, ends: Sequence[int]) -> bool:
    """Same ids up to and including the first end of text."""
    lengths = metrics.tokens_to_end(np.stack([a, b]), ends)
    return bool(lengths[0] == lengths[1] and np.array_equal(a[: lengths[0]], b[: lengths[0]]))


def _in_turn(few: Pool, slow: Any, fast: Any, size: int) -> np.ndarray:
    """Seconds [repeats, (baseline, method)] of all rows, the calls compiled before."""

    def once(policy: Any) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(few.decode(policy, size)["tokens"])
        return time.perf_counter() - begin

    for _ in range(WARM):
        once(slow), once(fast)
    return np.array([[once(slow), once(fast)] for _ in range(REPEATS)])


def refuse_masked(lm: Any) -> None:
    """Raises InputError for a model that has a mask token."""
    if lm.config.tokens.mask is not None:
        raise InputError(f"--draft needs an autoregressive --model such as tiny-ar; {lm.name} is a diffusion model")
