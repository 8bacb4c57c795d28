"""Calibrated decoding on a synthetic translation: quality and correlation of beam search before and after, against reranking.

    python benchmarks/calibrated.py --steps 300

Sentences of 6 words: adjective and noun in turn, the target has noun before adjective. Of every word there are two translations;
the corpus has the better one in 4 cases of 10, leaves one word in ten out, and keeps the source's order in 3 pairs of 10. So its
likeliest translation is a poor one, as of real corpora. Quality, from 0 to 1: the best alignment in order with the right
translation, 1 for the better word and 1/2 for the other, over the longer of the two lengths. A causal model of two layers learns
the corpus; 16 samples of it at temperature 1 for each of `--sources` sentences, and their qualities, are what
`train.recipes.calibrated` sees. Printed as JSON, all on sentences that neither saw: the mean quality by each way to decode with
the rows that it reads per sentence, and Pearson correlations of the log-likelihood of 16 samples with their quality, inside each
sentence and over all. "nll only" is the same training with beta = 0; "reranking" takes the best of N samples by the quality
itself, as by a perfect estimator; "mbr" the sample that is most like the others, by the same alignment of equal words.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jax
import numpy as np

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.config import RopeConfig, TokenIds
from jaxdlm.models.params import init_params
from jaxdlm.train import lora
from jaxdlm.train.losses import answer_loss
from jaxdlm.train.recipes import calibrated
from jaxdlm.train.step import Batch, Budget, Recipe, muon, train

WORDS, LENGTH, END, TURN = 24, 6, 0, 1  # source words: 12 adjectives, 12 nouns; TURN ends the source
FIRST = 2  # of the source words; behind them the better translations, then the others
SIZE, SAMPLES = FIRST + 3 * WORDS, 16


def sources(rng: np.random.Generator, count: int) -> np.ndarray:
    """int32[count, 6]: adjective, noun, adjective, noun, ..."""
    kind = np.arange(LENGTH) % 2 * (WORDS // 2)
    return (rng.integers(0, WORDS // 2, (count, LENGTH)) + kind[None, :]).astype(np.int32)


def ordered(source: np.ndarray) -> np.ndarray:
    """The words in the order of the target."""
    return source.reshape(-1, 2)[:, ::-1].ravel()


def translation(rng: np.random.Generator, source: np.ndarray) -> list[int]:
    """One as the corpus has them, as token ids without an end."""
    pairs = source.reshape(-1, 2)
    words = np.where(rng.random((len(pairs), 1)) < 0.3, pairs, pairs[:, ::-1]).ravel()
    ids = FIRST + WORDS + words + WORDS * (rng.random(LENGTH) < 0.6)
    return [int(each) for each in ids[rng.random(LENGTH) >= 0.1]]


def prompt(source: np.ndarray) -> list[int]:
    return [*(FIRST + int(word) for word in source), TURN]


def aligned(left: Any, right: Any, credit: Any) -> float:
    """The most credit of an alignment that keeps both orders, over the longer length."""
    table = np.zeros((len(left) + 1, len(right) + 1))
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            table[i + 1, j + 1] = max(table[i, j + 1], table[i + 1, j], table[i, j] + credit(one, other))
    return float(table[-1, -1] / max(len(left), len(right), 1))


def quality(source: np.ndarray, answer: list[int]) -> float:
    def credit(word: int, said: int) -> float:
        return {FIRST + WORDS + word: 1.0, FIRST + 2 * WORDS + word: 0.5}.get(said, 0.0)

    return aligned([int(word) for word in ordered(source)], answer, credit)


def alike(left: list[int], right: list[int]) -> float:
    return aligned(left, right, lambda one, other: float(one == other))


def batch_at(seed: int, step: int, rows: int = 128) -> Batch:
    rng = np.random.default_rng([seed, step])
    given = sources(rng, rows)
    target = np.full((rows, LENGTH + 1), END, np.int32)
    lengths = np.zeros(rows, np.int64)
    for row, source in enumerate(given):
        said = translation(rng, source)
        target[row, : len(said)], lengths[row] = said, len(said) + 1
    weight = (np.arange(LENGTH + 1)[None, :] < lengths[:, None]).astype(np.float32)
    tokens = np.concatenate([np.array([prompt(source) for source in given], np.int32), target], axis=1)
    return {"tokens": tokens, "target": target, "weight": weight / weight.sum()}


def base(folder: Path, steps: int, minutes: float, seed: int = 0) -> LM:
    config = ModelConfig(
        family="llama", vocab_size=SIZE, num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=4, head_dim=16,
        intermediate_size=128, max_position=64, norm_eps=1e-6, rope=RopeConfig(theta=10000.0), attention="causal",
        prediction="next", noise="none", tokens=TokenIds(pad=END, eos=(END,)), param_dtype="float32",
    )  # fmt: skip
    model = Backbone(config)

    def init(seed: int) -> Any:
        return init_params(config, jax.random.key(seed), init="train")

    recipe = Recipe(
        "corpus", model, init, answer_loss, batch_at, muon(jax.eval_shape(lambda: init(seed))), steps, warmup=30, seed=seed
    )  # fmt: skip
    state = train(recipe, folder, Budget(steps, minutes), resume=True)
    return LM(model, state.params, None, "translator")


def decoded(lm: LM, given: np.ndarray, policy: Any, seed: int = 0, **options: Any) -> list[list[int]]:
    """The answers without their ends."""
    out = jd.decode(lm, [prompt(source) for source in given], policy, max_new=LENGTH + 2, seed=seed, **options)
    return [[int(each) for each in row[: list(row).index(END) if END in row else len(row)]] for row in out.tokens]


def sampled(lm: LM, given: np.ndarray, seed: int) -> list[list[list[int]]]:
    """`SAMPLES` at temperature 1 of each."""
    parts = [decoded(lm, given[first : first + 64], jd.autoregressive(1.0), seed + first, n=SAMPLES)
             for first in range(0, len(given), 64)]  # fmt: skip
    every = [answer for part in parts for answer in part]
    return [every[first : first + SAMPLES] for first in range(0, len(every), SAMPLES)]


def scored(given: np.ndarray, answers: list[list[list[int]]]) -> list[Any]:
    """What the recipe reads."""
    return [
        (prompt(source), [(answer, quality(source, answer)) for answer in own])
        for source, own in zip(given, answers, strict=True)
    ]


def tuned(
    folder: Path, lm: LM, groups: calibrated.Groups, steps: int, rate: float, minutes: float, **weights: Any
) -> LM:
    recipe = calibrated.recipe_of(lm, groups, rank=8, count=16, steps=steps, rate=rate, seed=0, **weights)
    state = train(recipe, folder, Budget(steps, minutes), resume=True)
    return LM(lm.model, lora.merge(state.params["base"], state.params["lora"], calibrated.ALPHA / 8), None, lm.name)


def chosen(given: np.ndarray, answers: list[list[list[int]]], count: int, way: str) -> list[list[int]]:
    """The best of the first `count` samples of each sentence."""
    picks = []
    for source, every in zip(given, answers, strict=True):
        own = every[:count]
        worth = [
            quality(source, each) if way == "reranking" else sum(alike(each, other) for other in own) for each in own
        ]
        picks.append(own[int(np.argmax(worth))])
    return picks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of the calibration")
    parser.add_argument("--minutes", type=float, default=3.0, help="the most that each of the three trainings takes")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--sources", type=int, default=1024)
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--output", type=Path, help="keeps the trained models; the same command goes on there")
    args = parser.parse_args()
    begun, rng = time.time(), np.random.default_rng(1)
    folder = args.output or Path(mkdtemp())
    lm = base(folder / "base", 600, args.minutes)
    given, asked = sources(rng, args.sources), sources(rng, args.test)
    groups = calibrated.groups_of(lm, scored(given, sampled(lm, given, 0)))
    models = {
        "untuned": lm,
        "nll only": tuned(folder / "nll", lm, groups, args.steps, args.rate, args.minutes, beta=0.0),
        "calibrated": tuned(folder / "calibrated", lm, groups, args.steps, args.rate, args.minutes),
    }
    answers = sampled(lm, asked, 10_000)
    known = calibrated.groups_of(lm, scored(asked, answers))
    mean = lambda picks: round(float(np.mean([quality(s, a) for s, a in zip(asked, picks, strict=True)])), 4)  # noqa: E731
    for name, model in models.items():
        u = calibrated.likelihoods(model.model, model.params, known)
        within, overall = (
            calibrated.pearson(u, known.quality),
            calibrated.pearson(u.reshape(1, -1), known.quality.reshape(1, -1)),
        )
        print(
            json.dumps({"model": name, "pearson": round(within, 4), "pearson over all": round(overall, 4)}), flush=True
        )
        for way, policy, rows in (("greedy", "autoregressive", 1), ("beam", jd.beam(5), 5)):
            print(json.dumps({"model": name, "way": way, "rows": rows, "quality": mean(decoded(model, asked, policy))}))
    print(
        json.dumps({"model": "untuned", "way": "one sample", "rows": 1, "quality": mean([own[0] for own in answers])})
    )
    for way in ("reranking", "mbr"):
        for count in (5, SAMPLES):
            row = {"model": "untuned", "way": way, "rows": count, "quality": mean(chosen(asked, answers, count, way))}
            print(json.dumps(row), flush=True)
    print(json.dumps({"groups": len(groups.tokens), "minutes": round((time.time() - begun) / 60, 1)}))


if __name__ == "__main__":
    main()
