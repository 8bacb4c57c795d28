"""A student that turns noise into what the model writes from it, in one forward (Distilled Decoding 1, arXiv 2412.17153).

The model is the teacher: from noise at every position of an answer it writes its text by the flow of `speculative.flow`, one
token after the other. The student, the model's own layers with an input for noise, learns to say token i at noise i, where it
sees the text up to there, or the noise that became it. Loss: cross-entropy of what is not written, up to the end of the text,
behind t written tokens: t = 0 in half of the rows, else anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.params import fingerprint
from jaxdlm.models.segments import segments
from jaxdlm.speculative import flow
from jaxdlm.speculative.distilled import FILE, Student, Trajectories, write_student
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.train import prompts as sources
from jaxdlm.train.recipes._written import answered, check_autoregressive
from jaxdlm.train.records import write_record
from jaxdlm.train.step import Batch, Budget, Recipe, State, muon, train
from jaxdlm.typing import Array, Float32, PyTree

SIZE, HELD = 16, 256  # of a code; pairs that are not trained on
TASKS = (
    "copy",
    "reverse",
    "sort",
    "shuffle",
)  # of the benchmark: more take longer than the minutes that this is made for
PAIRS = "pairs.npz"


class Pairs(NamedTuple):
    """Noise, and what the teacher writes from it behind a prompt, padded on the right."""

    tokens: np.ndarray  # int32[N, P + n]
    start: np.ndarray  # int32[N]: where the answer begins
    length: np.ndarray  # int32[N]: its tokens, with its end
    noise: np.ndarray  # float32[N, n, C]


def write(
    lm: Any, texts: Sequence[Any], codes: Array, *, length: int, temperature: float = 1.0, seed: int = 0, batch: int = 128
) -> Pairs:  # fmt: skip
    """The teacher's trajectory of each prompt, from noise of its own."""
    policy = Speculation(Nothing(), warp(temperature), search=Trajectories(codes))
    noise = lambda rows: (flow.noise_of(rows.key, rows.start, length, codes.shape[1]),)  # noqa: E731
    return Pairs(*answered(lm, texts, policy, canvas=length, batch=batch, seed=seed, more=noise))


def beginning(lm: Any, layers: int, size: int = SIZE) -> tuple[ModelConfig, PyTree]:
    """(the student's configuration, what it learns from the teacher's weights on): `layers` of its layers, evenly spread.

    Noise enters by the directions that codes are made by, so that it already speaks for the tokens it is near.
    """
    (segment,), count = segments(lm.config), lm.config.num_layers
    if segment.period != 1 or not 1 <= layers <= count:
        raise InputError(f"layers={layers}: must be from 1 to the {count} equal layers of {lm.name}")
    chosen = np.arange(layers) * count // layers
    kinds = tuple(lm.config.layer_kinds[layer] for layer in chosen) if lm.config.layer_kinds else ()
    config = replace(lm.config, num_layers=layers, layer_kinds=kinds, param_dtype="float32")
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), lm.params)
    params = {**params, "segments": jax.tree.map(lambda leaf: leaf[chosen], params["segments"])}
    width = lm.config.hidden_size
    return config, {"model": params, "noise": flow.basis_of(width, size), "bias": jnp.zeros(width, jnp.float32)}


def student_of(learned: PyTree, model: Backbone, length: int, temperature: float = 1.0, made_for: str = "") -> Student:
    return Student(learned["model"], learned["noise"], learned["bias"], model, length, temperature, made_for)


def loss(model: Model, learned: PyTree, batch: Batch) -> Float32[Array, ""]:
    """Mean cross-entropy of the tokens from `written` to the end of each text."""
    assert isinstance(model, Backbone)
    length = batch["noise"].shape[1]
    student = student_of(learned, model, length)
    logits = student.logits(batch["tokens"], batch["start"], batch["written"], batch["noise"])
    place = jnp.arange(length, dtype=jnp.int32)[None, :]
    target = jnp.take_along_axis(batch["tokens"], batch["start"][:, None] + place, axis=1)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, :, None], axis=2)[:, :, 0]
    counts = (place >= batch["written"][:, None]) & (place < batch["length"][:, None])
    return -jnp.sum(jnp.where(counts, picked, 0.0)) / jnp.maximum(jnp.sum(counts, dtype=jnp.float32), 1.0)


def batches(known: Pairs, rows: int) -> Any:
    """batch_at(seed, step), a pure function: `rows` pairs at random, and how many tokens of each are written."""

    def batch_at(seed: int, step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(0, len(known.tokens), rows)
        written = np.where(rng.random(rows) < 0.5, 0, rng.integers(0, known.length[chosen])).astype(np.int32)
        return {**{name: part[chosen] for name, part in known._asdict().items()}, "written": written}

    return batch_at


def fit(
    lm: Any, known: Pairs, folder: Path, *, layers: int, steps: int, rows: int, rate: float = 6e-3, seed: int = 0,
    minutes: float | None = None, resume: bool = False,
) -> tuple[Backbone, State]:  # fmt: skip
    """(the student's model, what it has learned), by Muon with a warm-up and a cosine."""
    config, start = beginning(lm, layers, known.noise.shape[2])
    model = Backbone(config)
    recipe = Recipe(
        name="distilled", model=model, init=lambda _: jax.tree.map(jnp.copy, start), loss_fn=loss,
        batch_at=batches(known, rows), optimizer=muon(jax.eval_shape(lambda: start)), steps=steps, peak_lr=rate,
        warmup=max(1, steps // 20), seed=seed,
    )  # fmt: skip
    return model, train(recipe, folder, Budget(steps, minutes), resume=resume, every=min(20, steps))


@jax.jit
def _best(student: Student, batch: Batch) -> Array:
    logits = student.logits(batch["tokens"], batch["start"], batch["written"], batch["noise"])
    return jnp.argmax(logits, axis=2)


def agreement(student: Student, known: Pairs, written: int = 0, batch: int = 64) -> dict[str, float]:
    """Share of tokens, and of texts, that the student has from noise (and `written` tokens) as the teacher has."""
    place, right, texts = np.arange(student.length)[None, :], [], []
    for first in range(0, len(known.tokens), batch):
        part = Pairs(*(side[first : first + batch] for side in known))
        behind = np.full(len(part.start), written, np.int32)
        said = np.asarray(_best(student, {**part._asdict(), "written": behind}))
        same = said == np.take_along_axis(part.tokens, part.start[:, None] + place, axis=1)
        counts = (place >= written) & (place < part.length[:, None])
        right.append(same[counts])
        texts.append((same | ~counts).all(axis=1))
    return {
        "tokens": round(float(np.concatenate(right).mean()), 4), "texts": round(float(np.concatenate(texts).mean()), 4)
    }  # fmt: skip


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 4096, canvas: int = 16, steps: int = 900,
    minutes: float | None = None, layers: int | None = None, temperature: float = 1.0, batch: int = 32, seed: int = 0,
    resume: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Distils and writes folder/{distilled.safetensors, distilled.json, curve.jsonl}; returns the record.

    texts: prompts; None: `rows` problems of `TASKS`, the benchmark's training split. canvas: tokens of an answer. layers: of
    the student, None: half of the teacher's. A run that was cut goes on with resume=True: its pairs lie in folder/pairs.npz.
    """
    check_autoregressive(lm, "distilled")
    if temperature <= 0:
        raise InputError(f"temperature={temperature}: at 0 nothing is drawn from noise, which the student learns from")
    if texts is None:
        texts = [example.prompt for example in sources.benchmark(rows, seed, canvas=canvas, names=TASKS)]
    folder.mkdir(parents=True, exist_ok=True)
    codes = flow.codes_of(lm.params["embed"], SIZE)
    if resume and (folder / PAIRS).is_file():
        known = Pairs(**np.load(folder / PAIRS))
    else:
        known = write(lm, texts, codes, length=canvas, temperature=temperature, seed=seed)
        np.savez(folder / PAIRS, **known._asdict())
    held, mine = (Pairs(*(side[part] for side in known)) for part in (slice(HELD), slice(HELD, None)))
    if not len(mine.tokens):
        raise InputError(f"{len(known.tokens)} prompts, of which {HELD} are held out: give more")
    count = max(1, lm.config.num_layers // 2) if layers is None else layers
    model, state = fit(
        lm, mine, folder, layers=count, steps=steps, rows=batch, seed=seed, minutes=minutes, resume=resume
    )
    mark, clock = fingerprint(lm.params), "" if minutes is None else f" --minutes {minutes:g}"
    student = student_of(state.params, model, canvas, temperature, mark)
    write_student(folder / FILE, student, target=str(lm.name))
    record = {
        "recipe": "distilled",
        "command": f"python scripts/train.py --recipe distilled --model {lm.name}{clock} --output DIR",
        "target": str(lm.name), "target_fingerprint": mark, "pairs": len(mine.tokens), "steps": int(state.step),
        "layers": count, "length": canvas, "temperature": temperature, "seed": seed,
        "agrees_of_noise": agreement(student, held), "agrees_behind_half": agreement(student, held, canvas // 2),
        "teacher_forwards": round(float(known.length.mean()), 2),
    }  # fmt: skip
    write_record(folder / "distilled.json", record)
    return record
