"""Superposed decoding beside greedy decoding, beam search and independent samples: time, perplexity and how many texts differ.

    taskset -c 1 python benchmarks/superposed.py --model tiny-ar
    taskset -c 1 python benchmarks/superposed.py --model smollm2 --prompts 48 --rounds 5

tiny-ar: prompts of its tasks that have several right answers, n-grams of 400 other problems of these with their answers.
Others: the first 15 tokens of sections of docs/*.md, ten tokens each; n-grams of the pages that the prompts are not from.
Perplexity is exp(mean over prompts of -log p per token), by the model itself: of the text that comes first, of the best of the k,
and of all k. Time is that of the loop without the prompts, in turns, as a multiple of greedy decoding's; median of the rounds.
Streams are rows of keys and values that the forwards of a prompt read: with one, k texts cost the forwards of one.
"""

import argparse
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contest import contest, ratio

import jaxdlm as jd
from jaxdlm.core.compiled import compiled
from jaxdlm.eval.task import make
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import loop
from jaxdlm.speculative.decode import begin
from jaxdlm.speculative.policy import Decoding

DOCS = pathlib.Path(jd.__file__).parents[1] / "docs"
TASKS = ("shuffle", "insert_random", "remove_random")


@compiled()
def _advance(carry: Any, decoding: Decoding) -> Any:
    return loop.run(carry, 2**30, decoding)


def of_tasks(lm: Any, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """(prompts, a corpus)."""
    tokens = lm.tokenizer
    problems = [one for task in TASKS for one in make(task, -(-count // len(TASKS)), seed=1)]
    others = [one for task in TASKS for one in make(task, 400 // len(TASKS), "train", seed=2)]
    corpus = [[*tokens.encode_prompt(one.prompt), *tokens.encode_inside(one.answer)] for one in others]
    return [list(tokens.encode_prompt(one.prompt)) for one in problems[:count]], corpus


def of_pages(lm: Any, count: int, prefix: int = 15) -> tuple[list[list[int]], list[list[int]]]:
    """(prompts, a corpus): sections of every fourth page, and the other pages."""
    pages = sorted(DOCS.glob("*.md"))
    sections = [part for page in pages[::4] for part in page.read_text().split("\n\n") if len(part.split()) > 40]
    prompts = [list(lm.tokenizer.encode_inside(part.replace("\n", " ")))[:prefix] for part in sections]
    corpus = [
        lm.tokenizer.encode_inside(page.read_text().replace("\n", " ")) for at, page in enumerate(pages) if at % 4
    ]
    step = max(1, len(prompts) // count)
    return prompts[::step][:count], corpus


def methods(table: Any, k: int, temperature: float) -> dict[str, tuple[Any, int]]:
    """name -> (policy, answers per prompt)."""
    return {
        "greedy": (jd.autoregressive(), 1),
        f"superposed k={k}": (jd.superposed(k), k),
        f"superposed k={k}, n-grams": (jd.superposed(k, table), k),
        f"beam width={k}": (jd.beam(k), k),
        f"{k} samples": (jd.autoregressive(temperature, top_p=0.9), k),
    }


def likelihoods(lm: Any, prompts: list[list[int]], out: Any, each: int) -> np.ndarray:
    """Mean log p of a token of each answer, [prompts, each]."""
    ends = set(lm.config.tokens.eos)
    texts, length = [], []
    for row, answer in enumerate(out.tokens.tolist()):
        cut = next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))
        texts.append([*prompts[row // each], *answer[:cut]])
        length.append(len(texts[-1]))
    tokens = np.zeros((len(texts), max(length)), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    start = np.array([len(prompts[row // each]) for row in range(len(texts))], np.int32)
    judged = jax.jit(lambda reward, *row: reward(*row))
    score = judged(jd.rewards.likelihood(lm), jnp.asarray(tokens), jnp.asarray(start), jnp.asarray(length, jnp.int32))
    return np.asarray(score).reshape(-1, each)


def times(
    lm: Any, prompts: list[list[int]], chosen: dict[str, Any], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """rows -> name -> time as a multiple of greedy decoding's."""
    made = {}
    for rows in args.rows:
        laid = lay_out_rows(lm, (prompts * rows)[:rows], max_new=args.max_new, seed=0, ids=None, raw=True)
        begun = {}
        for name, (policy, each) in chosen.items():
            policy = policy if policy.search is not None else policy.replace(samples=each)
            decoding = Decoding(lm.model, lm.params, policy)
            carry = begin(laid[0]._replace(ends=None), decoding, laid[1], args.max_new, "none")
            begun[name] = lambda c=carry, d=decoding: _advance(c, d)
        seconds = contest(begun, args.rounds)
        made[f"{rows} rows"] = {name: round(ratio(seconds, name, "greedy"), 3) for name in begun}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-ar")
    parser.add_argument("--parts", nargs="+", default=["perplexity", "time"], choices=["perplexity", "time"])
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--max-new", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples, with top_p 0.9")
    args = parser.parse_args()
    lm = jd.load(args.model)
    prompts, corpus = (of_tasks if args.model == "tiny-ar" else of_pages)(lm, args.prompts)
    table = jd.speculative.count_ngrams(lm, corpus, ends=args.model == "tiny-ar")
    chosen, rows = methods(table, args.k, args.temperature), {}
    for name, (policy, each) in chosen.items() if "perplexity" in args.parts else ():
        out = jd.decode(lm, prompts, policy, max_new=args.max_new, n=each, rows_per_program=8 * each, raw=True)
        score = likelihoods(lm, prompts, out, each)
        ppl = lambda values: round(float(np.exp(-np.mean(values))), 3)  # noqa: E731
        texts = out.tokens.reshape(len(prompts), each, -1)
        rows[name] = {
            "perplexity of the first": ppl(score[:, 0]), "of the best": ppl(score.max(1)), "of all": ppl(score),
            "different": round(float(np.mean([len({tuple(t) for t in one.tolist()}) for one in texts])), 2),
            "streams": policy.streams if policy.search is not None else each,
        }  # fmt: skip
        print(name, rows[name], flush=True)
    seconds = times(lm, prompts, chosen, args) if "time" in args.parts else {}
    print(json.dumps({"prompts": len(prompts), "n-grams": len(table.grams.token), "methods": rows, "time": seconds}))


if __name__ == "__main__":
    main()
