"""Certainty-forcing distillation (dParallel, arXiv 2509.26488): a masked model on its own greedy answers.

Every sample gives two views: a block of the answer with a random half of its columns masked, and with the other half;
what comes before the block is clean, what comes after it is masked and carries no loss. End-of-text fill is answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm import _decode, layout
from jaxdlm.core.model import Model
from jaxdlm.core.rule import chain
from jaxdlm.errors import InputError
from jaxdlm.eval.task import TASKS
from jaxdlm.models.low_rank import merge
from jaxdlm.rules.sample import sample
from jaxdlm.rules.threshold import select_above
from jaxdlm.train import lora
from jaxdlm.train import prompts as sources
from jaxdlm.train.batches import filled
from jaxdlm.train.export import export_params
from jaxdlm.train.losses import certainty_forcing
from jaxdlm.train.records import write_record
from jaxdlm.train.step import Budget, Recipe, adamw, train
from jaxdlm.typing import Array, PyTree


class Pool(NamedTuple):
    """Distillation samples of one shape: prompts padded on the left, the teacher's answers with end-of-text fill."""

    prompt: np.ndarray  # int32[N, P]
    pads: np.ndarray  # int32[N]
    answer: np.ndarray  # int32[N, G]
    block: int


@dataclass(frozen=True)
class Canvas:
    """`rows` prompts answered on `columns` columns; `pad`: more end-of-text up to that many columns."""

    columns: int
    rows: int
    pad: int | None = None


# the embedded benchmark: its usual canvas, the one of the puzzles, and a long one
CANVASES = (Canvas(16, 12288), Canvas(32, 1536), Canvas(32, 256, pad=128))
TOKENS_PER_STEP = 3072
# share of the change that is kept when all weights learn: the mean of teacher and student (arXiv 2109.01903) keeps the
# answers that training alone forgets
STRENGTH = 0.5
# all columns this sure at once: the answers of one token per forward (wrong ones are removed), for a fifth of the time
TEACHER = chain(sample(), select_above(0.95))


def teach(
    lm: Any, texts: Sequence[Any], *, canvas: int, block: int, pad: int | None = None, batch: int = 64,
    policy: Any = "low_confidence",
) -> Pool:  # fmt: skip
    """The model's own answers, greedy in blocks; one token per forward unless another policy is asked for."""
    prompts, pads, answers = [], [], []
    for _, count, part in filled(texts, batch):
        out = _decode.decode(lm, part, policy, max_new=canvas, block=block, save="none", stop=False)
        laid = layout.lay_out(lm, part, max_new=canvas, block=block, seed=0, ids=None)
        prompts.append(np.asarray(laid.rows.tokens)[:count, : laid.geometry.prompt])
        pads.append(np.asarray(laid.rows.pads)[:count])
        answers.append(out.tokens[:count])
    width = max(part.shape[1] for part in prompts)  # chunks may have different buckets: the widest fits all
    shift = [width - part.shape[1] for part in prompts]
    fill = lm.config.tokens.pad
    prompt = np.concatenate(
        [np.pad(part, ((0, 0), (more, 0)), constant_values=fill) for part, more in zip(prompts, shift, strict=True)]
    )
    answer = np.concatenate(answers)
    if pad is not None:
        answer = np.pad(answer, ((0, 0), (0, pad - canvas)), constant_values=lm.config.tokens.eos[0])
    return Pool(prompt, np.concatenate([p + more for p, more in zip(pads, shift, strict=True)]), answer, block)


def benchmark_pools(lm: Any, seed: int, canvases: Sequence[Canvas] = CANVASES, block: int = 32) -> list[Pool]:
    """Answers on the benchmark's training split; wrong ones are removed, as in the paper."""
    pools = []
    for number, canvas in enumerate(canvases):
        examples = sources.benchmark(canvas.rows, seed + number, canvas=canvas.columns)
        examples = [e for e in examples if len(lm.tokenizer.encode_prompt(e.prompt)) <= 32]  # one prompt bucket
        examples.sort(key=lambda example: example.task)  # a batch takes as long as its slowest row
        texts = [example.prompt for example in examples]
        pool = teach(lm, texts, canvas=canvas.columns, block=min(block, canvas.columns), pad=canvas.pad, policy=TEACHER)
        right = [
            TASKS[example.task].check(example, row.tolist()).correct
            for example, row in zip(examples, pool.answer, strict=True)
        ]
        pools.append(Pool(pool.prompt[right], pool.pads[right], pool.answer[right], pool.block))
    return pools


def views(
    answer: np.ndarray, block: int, rng: np.random.Generator, mask: int, q: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32[2B, G], masked bool[2B, G]): the two views of each row, all first views first.

    Per row: a block n uniform over the canvas; inside it m ~ Bernoulli(q) is masked in the first view, the rest of it
    in the second. Departures from released code: n and m are drawn per row, and never the empty block behind the end.
    """
    rows, canvas = answer.shape
    column = np.arange(canvas)[None, :]
    start = block * rng.integers(0, -(-canvas // block), rows)[:, None]
    inside = (column >= start) & (column < start + block)
    m = inside & (rng.random((rows, canvas)) < q)
    masked = np.concatenate([m, inside & ~m])
    hidden = masked | np.concatenate([column >= start + block] * 2)
    return np.where(hidden, mask, np.concatenate([answer] * 2)).astype(np.int32), masked


def batch_of(pool: Pool, rows: int, rng: np.random.Generator, mask: int, q: float = 0.5) -> dict[str, np.ndarray]:
    """Batch of `certainty_forcing`: `rows` samples of a pool, two views each."""
    chosen = rng.integers(0, len(pool.answer), rows)
    tokens, masked = views(pool.answer[chosen], pool.block, rng, mask, q)
    twice = np.concatenate([chosen, chosen])
    return {
        "tokens": np.concatenate([pool.prompt[twice], tokens], axis=1),
        "pads": pool.pads[twice],
        "target": pool.answer[twice],
        "masked": masked,
    }


def batches(pools: Sequence[Pool], mask: int, tokens: int, q: float = 0.5) -> Any:
    """batch_at(seed, step), a pure function: pools in proportion to their samples, about `tokens` columns a batch."""
    share = np.array([len(pool.answer) for pool in pools]) / sum(len(pool.answer) for pool in pools)

    def batch_at(seed: int, step: int) -> dict[str, np.ndarray]:
        point = (step * 0.6180339887498949) % 1  # a low-discrepancy walk: every window of steps has the mixture
        pool = pools[min(int(np.searchsorted(np.cumsum(share), point, side="right")), len(pools) - 1)]
        rows = max(1, tokens // (2 * (pool.prompt.shape[1] + pool.answer.shape[1])))
        return batch_of(pool, rows, np.random.default_rng([seed, step]), mask, q)

    return batch_at


def low_rank_loss(
    model: Model, params: PyTree, batch: dict[str, Any], *, scale: float, temperature: float, beta: float
) -> Array:
    """`certainty_forcing` of the frozen weights plus the low-rank update."""
    return certainty_forcing(model, lora.tuned(params, scale), batch, temperature=temperature, beta=beta)


def distillation(
    lm: Any,
    batch_at: Any,
    *,
    steps: int,
    seed: int = 0,
    rank: int = 0,
    temperature: float = 0.5,
    beta: float = 2.0,
    peak_lr: float | None = None,
    mesh: Any = None,
) -> Recipe:
    """The training recipe of a loaded model. rank: of the low-rank update (alpha = rank); 0: all weights learn.

    peak_lr: 2e-5 with a low-rank update (arXiv 2509.26488), 2e-4 for all weights of an embedded model.
    """
    if rank:
        loss: Any = partial(low_rank_loss, scale=1.0, temperature=temperature, beta=beta)
    else:
        loss = partial(certainty_forcing, temperature=temperature, beta=beta)

    def init(seed: int) -> PyTree:
        if not rank:
            return jax.tree.map(lambda leaf: leaf.copy(), lm.params)  # the step donates its state; the teacher stays
        # not copied: twice the frozen weights would not fit. The first step takes them over, and lm is spent.
        return {"base": lm.params, "lora": lora.init(lm.config, rank, jax.random.key(seed), mesh)}

    return Recipe(
        name="dparallel",
        model=lm.model,
        init=init,
        loss_fn=loss,
        batch_at=batch_at,
        optimizer=adamw(),
        steps=steps,
        peak_lr=peak_lr or (2e-5 if rank else 2e-4),
        warmup=max(1, steps // 20),
        trainable="lora/.*" if rank else ".*",
        seed=seed,
        mesh=mesh,
    )


def run(
    lm: Any,
    folder: Path,
    *,
    texts: Sequence[Any] | None = None,
    rows: int = 6912,
    canvas: int = 256,
    block: int = 32,
    steps: int = 1170,
    minutes: float | None = None,
    rank: int | None = None,
    seed: int = 0,
    mesh: Any = None,
    source: Path | None = None,
) -> dict[str, Any]:
    """Teaches, distils and writes folder/{curve.jsonl, checkpoint, model}; returns the record.

    texts: prompts for one canvas of `canvas` columns; None: the benchmark's training split on `CANVASES`. rank: of the
    low-rank update; default 32 with `texts`, else 0 (all weights). source: folder whose tokenizer files are copied.

    A low-rank update is merged as it is; of weights that all learned, `STRENGTH` of the change is kept.
    """
    if lm.config.tokens.mask is None:
        raise InputError(f"{lm.name} has no mask token: dparallel distils masked diffusion models")
    rank = (32 if texts is not None else 0) if rank is None else rank
    if texts is None:
        pools = benchmark_pools(lm, seed, block=block)
    else:
        pools = [teach(lm, list(texts)[:rows], canvas=canvas, block=min(block, canvas), batch=min(64, len(texts)))]
    batch_at = batches(pools, lm.config.tokens.mask, TOKENS_PER_STEP)
    recipe = distillation(lm, batch_at, steps=steps, seed=seed, rank=rank, mesh=mesh)
    state = train(recipe, folder, Budget(steps, minutes), every=min(20, steps))
    if rank:
        params = merge(state.params["base"], state.params["lora"], 1.0)
    else:
        params = jax.tree.map(lambda start, end: start + STRENGTH * (end - start), lm.params, state.params)
    record = {
        "recipe": "dparallel",
        "command": f"python scripts/train.py --recipe dparallel --steps {int(state.step)} --output DIR",
        "teacher": lm.name,
        "seed": seed,
        "steps": int(state.step),
        "tokens": int(state.tokens),
        "samples": [len(pool.answer) for pool in pools],
        "rank": rank,
        "strength": 1.0 if rank else STRENGTH,
    }
    export_params(lm.config, params, folder / "model", source)
    write_record(folder / "model" / "recipe.json", record)
    return record
