"""Distilled decoding of image tokens: total variation to the teacher, and forwards, by how often the student looks.

    python benchmarks/distilled.py --side 2 --minutes 3     # 256 images, the teacher's law computed exactly
    python benchmarks/distilled.py --side 8 --minutes 8     # compared by their 2 x 2 patches

The images are grids of 4 colours, of three kinds (rows, columns, or squares of two colours in turn), with one cell in twenty
at random; their kind is the prompt. A causal model of two layers learns them, and is the teacher. Printed for every way to
decode, as JSON: the forwards, and the total variation to the teacher, averaged over kinds; on 2 x 2 grids of whole images,
from `--draws` images a kind, else of the 256 patches of all images. "floor": of the same number of the teacher's own samples,
which is what no method can be below; "independent": every cell drawn from the teacher's law of that cell alone, in one forward.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.config import RopeConfig, TokenIds
from jaxdlm.models.params import init_params
from jaxdlm.speculative import flow
from jaxdlm.speculative.distilled import Student, Trajectories
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.train.losses import answer_loss
from jaxdlm.train.recipes import distilled
from jaxdlm.train.step import Batch, Budget, Recipe, muon, train

COLOURS, KINDS, CODE = 4, 3, 4
ROWS = 256  # images of a program


def images(rng: np.random.Generator, kind: int, count: int, side: int) -> np.ndarray:
    """int32[count, side^2] of one kind."""
    pair = np.argsort(rng.random((count, COLOURS)), axis=1)[:, :2]
    row, column = np.divmod(np.arange(side * side), side)
    turn = (row, column, row // 2 + column // 2 if side > 2 else row + column)[kind] % 2
    clean = np.take_along_axis(pair, np.broadcast_to(turn[None], (count, side * side)), axis=1)
    return np.where(rng.random(clean.shape) < 0.05, rng.integers(0, COLOURS, clean.shape), clean).astype(np.int32)


def batch_at(seed: int, step: int, *, side: int, rows: int = 64) -> Batch:
    rng = np.random.default_rng([seed, step])
    kind = rng.integers(0, KINDS, rows)
    target = np.concatenate([images(rng, int(each), 1, side) for each in kind])
    weight = np.full(target.shape, 1 / target.size, np.float32)
    tokens = np.concatenate([COLOURS + kind[:, None], target], axis=1).astype(np.int32)
    return {"tokens": tokens, "target": target, "weight": weight}


def teacher(folder: Path, side: int, budget: Budget, seed: int = 0) -> LM:
    config = ModelConfig(
        family="llama", vocab_size=COLOURS + KINDS, num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=4, head_dim=16,
        intermediate_size=128, max_position=side * side + 16, norm_eps=1e-6, rope=RopeConfig(theta=10000.0),
        attention="causal", prediction="next", noise="none",
        tokens=TokenIds(pad=0, eos=(), tokenizer_size=COLOURS), param_dtype="float32",
    )  # fmt: skip
    model = Backbone(config)
    init = lambda seed: init_params(config, jax.random.key(seed), init="train")  # noqa: E731
    recipe = Recipe(
        "images", model, init, answer_loss, partial(batch_at, side=side), muon(jax.eval_shape(partial(init, seed))),
        budget.steps, peak_lr=1e-2, warmup=30, seed=seed,
    )  # fmt: skip
    state = train(recipe, folder, budget, resume=True)
    return LM(model, state.params, None, "images")


def law(lm: LM, kind: int, side: int) -> np.ndarray:
    """float64[colours^cells]: the probability of every image, the first cell the most significant digit."""
    cells = side * side
    every = np.stack(np.unravel_index(np.arange(COLOURS**cells), (COLOURS,) * cells), axis=1).astype(np.int32)
    tokens = jnp.asarray(np.concatenate([np.full((len(every), 1), COLOURS + kind, np.int32), every], axis=1))
    position = jnp.broadcast_to(jnp.arange(cells + 1, dtype=jnp.int32)[None], tokens.shape)
    hidden = lm.model.apply(lm.params, tokens, position, jnp.ones(tokens.shape, bool)).hidden[:, :-1]
    logp = np.asarray(jax.nn.log_softmax(lm.model.head(lm.params, hidden)[:, :, :COLOURS], axis=2), np.float64)
    return np.exp(np.take_along_axis(logp, every[:, :, None], axis=2)[:, :, 0].sum(1))


def drawn(lm: LM, policy: Any, kind: int, side: int, count: int, seed: int) -> tuple[np.ndarray, float]:
    """(images, mean forwards) of so many decodes."""
    parts, forwards = [], []
    for first in range(0, count, ROWS):
        ids = range(first, first + ROWS)
        out = jd.decode(lm, [[COLOURS + kind]] * ROWS, policy, max_new=side * side, seed=seed, ids=ids, save="none")
        parts.append(out.tokens)
        forwards.append(np.mean(out.forwards))
    return np.concatenate(parts)[:count], float(np.mean(forwards))


def number(tokens: np.ndarray) -> np.ndarray:
    """Rows of colours as one number each."""
    return tokens.astype(np.int64) @ COLOURS ** np.arange(tokens.shape[-1])[::-1]


def histogram(pictures: np.ndarray, side: int) -> np.ndarray:
    """Shares of the 2 x 2 patches; of 2 x 2 images, of these."""
    grid = pictures.reshape(-1, side, side)
    patch = np.stack([grid[:, a : side - 1 + a, b : side - 1 + b] for a in (0, 1) for b in (0, 1)], axis=-1)
    counts = np.bincount(number(patch.reshape(-1, 4)), minlength=COLOURS**4)
    return counts / counts.sum()


def apart(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


def ways(student: Student, side: int) -> dict[str, Any]:
    """Name -> policy."""
    cells = side * side
    few = {f"{steps} steps": jd.distilled(student, steps=steps) for steps in (1, 2, 4, 8) if steps <= cells}
    redraws = {2: (1, 1), 8: (8, 8)}[side]
    mixed = {f"keep={redraws[0]}, redraw={redraws[1]}": jd.distilled(student, keep=redraws[0], redraw=redraws[1])}
    return few | mixed


def measured(lm: LM, student: Student, codes: Any, side: int, draws: int) -> list[dict[str, Any]]:
    """A row for each way to decode."""
    plain = jd.autoregressive(1.0)
    flowing = Speculation(Nothing(), warp(1.0), search=Trajectories(codes))
    rows: dict[str, list[tuple[float, float]]] = {}
    for kind in range(KINDS):
        own, forwards = drawn(lm, plain, kind, side, draws, seed=1)
        exact = law(lm, kind, side) if side == 2 else histogram(own, side)
        again, _ = drawn(lm, plain, kind, side, draws, seed=2)
        rng = np.random.default_rng(kind)
        alone = np.stack([rng.permutation(column) for column in again.T], axis=1)
        for name, pictures, spent in (("teacher (floor)", again, forwards), ("independent", alone, 1.0)):
            rows.setdefault(name, []).append((spent, apart(histogram(pictures, side), exact)))
        for name, policy in {"trajectories": flowing, **ways(student, side)}.items():
            pictures, spent = drawn(lm, policy, kind, side, draws, seed=3)
            rows.setdefault(name, []).append((spent, apart(histogram(pictures, side), exact)))
    table = {name: np.mean(values, axis=0) for name, values in rows.items()}
    return [{"way": name, "forwards": round(float(f), 2), "tv": round(float(tv), 4)} for name, (f, tv) in table.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, choices=(2, 8), default=2)
    parser.add_argument("--minutes", type=float, default=3.0, help="of the student's training")
    parser.add_argument("--pairs", type=int, default=8192)
    parser.add_argument("--draws", type=int, default=8192)
    parser.add_argument("--output", type=Path, help="keeps pairs and models; the same command goes on there")
    args = parser.parse_args()
    begun, cells, folder = time.time(), args.side**2, args.output or Path(mkdtemp())
    lm = teacher(folder / "teacher", args.side, Budget(400, args.minutes / 3))
    codes = flow.codes_of(lm.params["embed"], CODE)
    prompts = [[COLOURS + each % KINDS] for each in range(args.pairs)]
    file = folder / "pairs.npz"
    if not file.exists():
        np.savez(file, **distilled.write(lm, prompts, codes, length=cells, batch=ROWS)._asdict())
    known = distilled.Pairs(**np.load(file))
    held, mine = (distilled.Pairs(*(side[part] for side in known)) for part in (slice(256), slice(256, None)))
    settings = {"layers": 2, "steps": 20_000, "rows": 64, "rate": 1e-2, "minutes": args.minutes, "resume": True}
    model, state = distilled.fit(lm, mine, folder / "student", **settings)
    student = distilled.student_of(state.params, model, cells)
    facts = {"side": args.side, "pairs": len(mine.tokens), "steps": int(state.step), "draws": args.draws}
    facts |= {"agrees": distilled.agreement(student, held), "minutes": round((time.time() - begun) / 60, 1)}
    print(json.dumps(facts), flush=True)
    for row in measured(lm, student, codes, args.side, args.draws):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
