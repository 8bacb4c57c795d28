"""Decisions per core-minute, and which part of their time is the model's own forward; both in one run, in turns.

    taskset -c 1 python benchmarks/decisions.py                               # smollm2, 100-token prompts, yes or no
    taskset -c 1 python benchmarks/decisions.py --model tiny-ar --rows 256 --tokens 40 --kind ids

`decide`: from texts and questions to answers. `forward`: the stack over the same columns in programs of the same rows, and the
head at the one column that is read; nothing else of it. The best of `--rounds` each, in seconds of processor time, which
other processes lengthen least (`wall`: by the clock). Prints a JSON object.
"""

import argparse
import json
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdlm as jd
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import gather
from jaxdlm.decisions.render import Template, render
from jaxdlm.layout import bucket_of

WORDS = (
    "the parcel that we ordered in march has not arrived and nobody at your company answers our mails about it".split()
)


def texts(lm: Any, rows: int, tokens: int, question: Any) -> list[str]:
    """States whose whole prompts have `tokens` ids, or the next that words reach."""
    made = []
    for row in range(rows):
        words: list[str] = []
        random = np.random.default_rng(row)
        while True:
            words.append(str(random.choice(WORDS)))
            slot = render(lm, " ".join(words), question, (0, 1), Template(), "label", "row")
            if len(slot.prompt) >= tokens:
                made.append(" ".join(words))
                break
    return made


@compiled(static_argnums=0)
def forward(model: Any, params: Any, tokens: Any, valid: Any, at: Any) -> Any:
    """Logits at one column of each row."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    return model.head(params, gather(model.apply(params, tokens, position, valid).hidden, at))


def best(rounds: int, *runs: Any) -> list[tuple[float, float]]:
    """The least (processor, wall) seconds of each, in turns."""
    seconds: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(rounds):
        for own, run in zip(seconds, runs):
            begin = time.process_time(), time.perf_counter()
            run()
            own.append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    return [(min(processor for processor, _ in own), min(wall for _, wall in own)) for own in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description="Decisions per minute.")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--kind", choices=("words", "ids"), default="words", help="ids: prompts of token ids, for any model"
    )
    args = parser.parse_args()
    lm = jd.load(args.model)
    question: Any
    if args.kind == "words":
        question = jd.Predicate("late", "Is the parcel late?")
        prompts: list[Any] = texts(lm, args.rows, args.tokens, question)
        lengths = [len(render(lm, text, question, (0, 1), Template(), "label", "row").prompt) for text in prompts]
    else:
        random = np.random.default_rng(0)
        question = jd.Choice("q", [jd.Option(True, tokens=(20,)), jd.Option(False, tokens=(21,))])
        prompts = random.integers(12, lm.config.vocab_size - 16, (args.rows, args.tokens)).tolist()
        lengths = [args.tokens] * args.rows
    masked = lm.config.noise == "mask"
    width = bucket_of(max(lengths) + 2 * masked)
    tokens = np.full((args.batch, width), 1, np.int32)
    valid = np.broadcast_to(np.arange(width) < max(lengths), tokens.shape)
    at = np.full((args.batch, 1), max(lengths) - 1, np.int32)
    programs = -(-args.rows // args.batch)

    def alone() -> None:
        jax.block_until_ready([forward(lm.model, lm.params, tokens, valid, at) for _ in range(programs)])

    def decide() -> None:
        jd.decide(lm, prompts, [question], batch=args.batch)

    alone(), decide()
    (own, _), (whole, wall) = best(args.rounds, alone, decide)
    print(json.dumps({
        "model": args.model, "rows": args.rows, "tokens": max(lengths), "columns": width, "batch": args.batch,
        "cores": len(os.sched_getaffinity(0)), "decisions_per_core_minute": round(60 * args.rows / whole, 1),
        "decide_seconds": round(whole, 3), "forward_seconds": round(own, 3), "share": round(own / whole, 3),
        "wall": round(wall, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
