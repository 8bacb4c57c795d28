"""A model whose likelihoods tell how good its answers are (calibrated decoding, arXiv 2504.19044).

Of each prompt there are several candidate answers with a quality each, by any scorer. A low-rank update of the model learns to
order their log-likelihoods as their qualities (`losses.calibration`), with the likelihood of the best one as an anchor. Then the
likeliest answer (`beam`, `autoregressive`) is a good one, and log p(answer) an estimate of quality without a reference.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.layout import bucket_of
from jaxdlm.train import lora
from jaxdlm.train.batches import order
from jaxdlm.train.export import export_params
from jaxdlm.train.losses import calibration, log_likelihood
from jaxdlm.train.recipes._written import check_autoregressive
from jaxdlm.train.records import write_record
from jaxdlm.train.step import Batch, Budget, Recipe, adamw, train
from jaxdlm.typing import Array, Float32, PyTree

TARGETS, ALPHA = ("wq", "wv"), 32  # as released: q_proj and v_proj, and the numerator of the update's scale
LONGEST = 200  # tokens of an answer, besides its end

Scored = tuple[Any, Sequence[tuple[Any, float]]]  # a prompt, and answers with their qualities


class Groups(NamedTuple):
    """N candidates of each of G prompts: prompt and answer, padded on the right."""

    tokens: np.ndarray  # int32[G, N, L]
    scored: np.ndarray  # bool[G, N, L]: the answer with its end
    quality: np.ndarray  # float32[G, N], 0 to 1


def groups_of(lm: Any, texts: Sequence[Scored]) -> Groups:
    """The candidates as token ids; groups whose qualities are all the same teach nothing and are left out.

    Raises InputError where prompts have several numbers of candidates, or nothing is left.
    """
    size, end = len(texts[0][1]), list(lm.config.tokens.eos[:1])
    rows = []
    for number, (prompt, answers) in enumerate(texts):
        if len(answers) != size or size < 3:
            raise InputError(
                f"prompt {number} has {len(answers)} candidates, prompt 0 has {size}: give 3 or more of each"
            )
        quality = np.clip([score for _, score in answers], 0, 1)
        if quality.min() == quality.max():
            continue
        ids = lm.tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
        own = [lm.tokenizer.encode(text) if isinstance(text, str) else list(text) for text, _ in answers]
        rows.append((ids, [[*answer[:LONGEST], *end] for answer in own], quality))
    if not rows:
        raise InputError("all candidates of each prompt have the same quality: give some that differ")
    wide = bucket_of(max(len(ids) + len(answer) for ids, own, _ in rows for answer in own))
    tokens = np.full((len(rows), size, wide), lm.config.tokens.pad, np.int32)
    scored = np.zeros(tokens.shape, bool)
    for group, (ids, own, _) in enumerate(rows):
        for place, answer in enumerate(own):
            stop = len(ids) + len(answer)
            tokens[group, place, :stop] = [*ids, *answer]
            scored[group, place, len(ids) : stop] = True
    return Groups(tokens, scored, np.array([quality for *_, quality in rows], np.float32))


def batches(groups: Groups, count: int) -> Any:
    """batch_at(seed, step), a pure function: `count` whole groups, every group once before any comes again."""

    def batch_at(seed: int, step: int) -> Batch:
        total = len(groups.tokens)
        place = np.arange(step * count, (step + 1) * count)
        epochs = range(step * count // total, ((step + 1) * count - 1) // total + 1)
        orders = {epoch: np.random.default_rng([seed, epoch]).permutation(total) for epoch in epochs}
        chosen = np.array([orders[at // total][at % total] for at in place.tolist()])
        return {name: part[chosen] for name, part in groups._asdict().items()}

    return batch_at


def tuned_loss(model: Model, params: PyTree, batch: Batch, *, scale: float, **weights: Any) -> Float32[Array, ""]:
    """`calibration` of the frozen weights plus the low-rank update."""
    return calibration(model, lora.tuned(params, scale), batch, **weights)


def recipe_of(
    lm: Any, groups: Groups, *, rank: int, count: int, steps: int, rate: float, seed: int, **weights: Any
) -> Recipe:  # fmt: skip
    """The training recipe of a loaded causal model; weights: alpha, beta, gamma and normalize of `losses.calibration`."""

    def init(seed: int) -> PyTree:
        pairs = lora.init(lm.config, rank, jax.random.key(seed))
        own = {path: pair for path, pair in pairs.items() if path.rsplit(".", 1)[-1] in TARGETS}
        return {"base": jax.tree.map(jnp.copy, lm.params), "lora": own}  # the step donates its state; the model stays

    return Recipe(
        name="calibrated", model=lm.model, init=init, loss_fn=partial(tuned_loss, scale=ALPHA / rank, **weights),
        batch_at=batches(groups, count), optimizer=adamw(0.0), steps=steps, peak_lr=rate, warmup=max(1, steps // 20),
        trainable="lora/.*", seed=seed,
    )  # fmt: skip


def likelihoods(model: Model, params: PyTree, groups: Groups, count: int = 8) -> np.ndarray:
    """float32[G, N]: log p of each candidate."""
    read, parts = jax.jit(partial(log_likelihood, model)), []
    for part in order(len(groups.tokens), count):
        flat = {name: getattr(groups, name)[part].reshape(-1, groups.tokens.shape[2]) for name in ("tokens", "scored")}
        parts.append(np.asarray(read(params, flat)).reshape(len(part), -1))
    return np.concatenate(parts)[: len(groups.tokens)]


def pearson(u: np.ndarray, q: np.ndarray) -> float:
    """The mean over groups [G, N] of the correlation inside each; 0 where one side is constant."""
    u, q = (np.asarray(x, np.float64) - np.mean(x, axis=1, keepdims=True, dtype=np.float64) for x in (u, q))
    size = np.sqrt((u**2).sum(1) * (q**2).sum(1))
    return float(np.mean((u * q).sum(1) / np.where(size > 0, size, 1.0)))


def run(
    lm: Any, folder: Path, *, texts: Sequence[Scored] | None = None, steps: int | None = None, minutes: float | None = None,
    rank: int = 8, count: int = 16, rate: float = 5e-5, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.0,
    normalize: bool = False, seed: int = 0, resume: bool = False, source: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains and writes folder/{curve.jsonl, checkpoint, model}; returns the record.

    texts: prompts with scored candidates; one prompt in ten is held out. steps: None: every group once (the paper's epoch).
    count: groups per step (16). rank, rate: of the low-rank update (8, 5e-5). alpha, beta, gamma, normalize: see
    `losses.calibration` (1, 1, 0, False). source: folder whose tokenizer files are copied. resume: go on from the checkpoint.
    """
    check_autoregressive(lm, "calibrated")
    if texts is None:
        raise InputError("calibrated needs --prompts FILE: lines with a prompt, its candidates and their scores")
    groups = groups_of(lm, texts)
    side = np.arange(len(groups.tokens)) % 10 == 9
    held, mine = (Groups(*(part[each] for part in groups)) for each in (side, ~side))
    if not side.any():
        raise InputError(
            f"{len(side)} prompts whose candidates differ, of which one in ten is held out: give 10 or more"
        )
    steps = -(-len(mine.tokens) // count) if steps is None else steps
    weights = {"alpha": alpha, "beta": beta, "gamma": gamma, "normalize": normalize}
    recipe = recipe_of(lm, mine, rank=rank, count=count, steps=steps, rate=rate, seed=seed, **weights)
    state = train(recipe, folder, Budget(steps, minutes), resume=resume, every=min(20, steps))
    params = lora.merge(state.params["base"], state.params["lora"], ALPHA / rank)
    correlations = [round(pearson(likelihoods(lm.model, each, held), held.quality), 4) for each in (lm.params, params)]
    record = {
        "recipe": "calibrated", "command": f"python scripts/train.py --recipe calibrated --model {lm.name} --prompts FILE "
        "--output DIR", "model": str(lm.name), "seed": seed, "steps": int(state.step), "groups": len(mine.tokens),
        "held_out": len(held.tokens), "candidates": groups.tokens.shape[1], "rank": rank, "rate": rate, **weights,
        "pearson_before": correlations[0], "pearson_after": correlations[1],
    }  # fmt: skip
    export_params(lm.config, params, folder / "model", source)
    write_record(folder / "model" / "recipe.json", record)
    return record
