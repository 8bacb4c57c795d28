"""Decodes that a gate saves on a stream of captions, at the caption score of decoding every frame.

    nice -n 10 python benchmarks/streams.py --scenes 60

A stream shows one scene after another, each for 2 to 20 frames. A frame has an embedding, its scene's random vector with noise
and a drift that turns it slowly, and a prompt, the scene's problem in one of its three wordings, which `tiny` answers: the
caption. A frame's caption is the answer of the last frame that was decoded; the score is the share of frames whose caption is
right for their scene, `own` that of captions made of a frame of the same scene. The threshold is the largest with own >= 0.99
on another stream; then, on this one, the gate beside decoding every frame and beside every k-th: the k of as many decodes, and
the largest of as good a score. Every frame is decoded once, so that all lines count the same answers. With --patience 2 a
new scene is captioned one frame late, and single odd frames pass.
"""

import argparse
import json
import random
from typing import Any

import numpy as np

import jaxdlm as jd
from jaxdlm.eval.task import TASKS

NAMES = ("copy", "reverse", "sort")


def stream(scenes: int, noise: float, drift: float, odd: float, seed: int) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """(embeddings [T, D], the problem of each frame, its scene)."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    width, frames, problems, of = 16, [], [], []
    for scene in range(scenes):
        task = TASKS[NAMES[scene % len(NAMES)]]
        key = rng.random()
        where, way = numbers.normal(0, 1, width), numbers.normal(0, 1, width)
        for at in range(rng.randint(2, 20)):
            strange = numbers.random() < odd
            frames.append(
                (numbers.normal(0, 1, width) if strange else where + drift * at * way)
                + noise * numbers.normal(0, 1, width)
            )
            problems.append(task.generate(random.Random(str(key)), "test", template=rng.randrange(3)))
            of.append(scene)
    return np.array(frames, np.float32), problems, np.array(of)


def last(opened: np.ndarray) -> np.ndarray:
    """The frame that each frame's caption was made of."""
    return np.maximum.accumulate(np.where(opened, np.arange(len(opened)), 0))


def own(of: np.ndarray, opened: np.ndarray) -> float:
    return float(np.mean(of[last(opened)] == of))


def right(problems: list[Any], of: np.ndarray, texts: list[str], opened: np.ndarray) -> float:
    """The caption score of decoding these frames only."""
    last = np.maximum.accumulate(np.where(opened, np.arange(len(of)), 0))
    return float(
        np.mean([TASKS[each.task].check(each, texts[at]).correct for each, at in zip(problems, last, strict=True)])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--drift", type=float, default=0.02)
    parser.add_argument("--odd", type=float, default=0.0, help="share of frames with an embedding of nothing")
    parser.add_argument("--patience", type=int, default=1)
    parser.add_argument("--own", type=float, default=0.99)
    args = parser.parse_args()
    lm, made = jd.load("tiny"), {}
    for seed in (1, 0):
        frames, problems, of = stream(args.scenes, args.noise, args.drift, args.odd, seed)
        prompts = sorted({each.prompt for each in problems})
        answers = dict(zip(prompts, jd.decode(lm, prompts, max_new=16, save="none").text, strict=True))
        made[seed] = frames, problems, of, [answers[each.prompt] for each in problems]
    taus = np.geomspace(0.1, 20, 60)
    fine = [tau for tau in taus if own(made[1][2], jd.streams.gate(made[1][0], tau, args.patience)) >= args.own]
    tau = max(fine, default=taus[0])
    frames, problems, of, texts = made[0]
    opened = jd.streams.gate(frames, tau, args.patience)
    count = len(frames)
    print(
        json.dumps(
            {
                "frames": count,
                "scenes": args.scenes,
                "decode": "every frame",
                "score": round(right(problems, of, texts, np.ones(count, bool)), 4),
            }
        )
    )
    score = right(problems, of, texts, opened)
    print(
        json.dumps(
            {
                "gate": round(float(tau), 3),
                "decodes": int(opened.sum()),
                "fewer": round(count / opened.sum(), 2),
                "score": round(score, 4),
                "own": round(own(of, opened), 4),
            }
        )
    )
    by = {k: (np.arange(count) % k == 0) for k in range(1, 12)}
    alike = min(by, key=lambda k: abs(by[k].sum() - opened.sum()))
    good = max(k for k in by if k == 1 or right(problems, of, texts, by[k]) >= score - 0.01)
    for name, k in (("as many decodes", alike), ("as good, within 0.01", good)):
        line = {"every": k, "decodes": int(by[k].sum()), "score": round(right(problems, of, texts, by[k]), 4)}
        print(json.dumps({"uniform": name, **line}))
    whole = jd.streams.segments(frames, threshold=tau)
    starts = np.concatenate([[True], np.diff(whole) > 0])
    line = {"decodes": int(starts.sum()), "score": round(right(problems, of, texts, starts), 4)}
    print(json.dumps({"segments of the whole stream": round(float(tau), 3), **line}))


if __name__ == "__main__":
    main()
