"""One training step for every recipe, and the loop around it with checkpoints that resume."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdlm.core.model import Model
from jaxdlm.models.params import path_name
from jaxdlm.sharding import batch_sharding
from jaxdlm.typing import Array, PyTree

Batch = dict[str, Any]


class State(NamedTuple):
    """Everything a run needs to go on: parameters, optimizer state, steps done, tokens seen."""

    params: PyTree
    opt: PyTree
    step: Array  # int32[]
    tokens: Array  # float32[], counts columns pushed through the model


@dataclass(frozen=True)
class Recipe:
    """The parts of one training run.

    loss_fn(model, params, batch) -> scalar; batch_at(seed, step) -> batch, a pure function; optimizer: a gradient
    transformation at unit learning rate, scaled by peak_lr and the schedule (linear warm-up, cosine to 5 %).
    trainable: regex of parameter paths that learn (the rest is frozen). mesh: devices to train on, where `init` has
    spread the parameters over one; None: every device holds everything, and rows are split where they divide.
    """

    name: str
    model: Model
    init: Callable[[int], PyTree]
    loss_fn: Callable[[Model, PyTree, Batch], Array]
    batch_at: Callable[[int, int], Batch]
    optimizer: optax.GradientTransformation
    steps: int
    peak_lr: float = 1e-2
    warmup: int = 200
    trainable: str = ".*"
    seed: int = 0
    mesh: Mesh | None = None


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """peak · min(1, step / warm-up) · (0.05 + 0.95 · (1 + cos(π · progress)) / 2), progress in 0..1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return recipe.peak_lr * min(1.0, (step + 1) / max(1, recipe.warmup)) * (0.05 + 0.95 * cosine)


def muon(params: PyTree) -> optax.GradientTransformation:
    """Muon for the matrices (stacked layers are batch axes), Adam for embeddings and norms, at unit learning rate."""
    dims = jax.tree_util.tree_map_with_path(_muon_dims, params)
    return optax.contrib.muon(learning_rate=1.0, muon_weight_dimension_numbers=dims)


def _muon_dims(path: tuple[Any, ...], leaf: Array) -> Any:
    name = str(getattr(path[-1], "key", path[-1]))
    numbers = optax.contrib.MuonDimensionNumbers
    if name in ("wq", "wk", "wv"):  # [R, D, N, H]
        return numbers(reduction_axis=1, output_axis=(2, 3))
    if name == "wo":  # [R, N, H, D]
        return numbers(reduction_axis=(1, 2), output_axis=3)
    if name in ("gate", "up", "down"):  # [R, in, out]
        return numbers(reduction_axis=1, output_axis=2)
    return None


def adamw(decay: float = 0.01) -> optax.GradientTransformation:
    """AdamW with clipping at norm 1, at unit learning rate."""
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(decay), optax.scale(-1.0)
    )


def accumulated(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """The optimizer on the mean gradient of every `steps` steps; the parameters rest in between."""
    return optimizer if steps == 1 else optax.MultiSteps(optimizer, steps).gradient_transformation()


def frozen_outside(recipe: Recipe, params: PyTree) -> optax.GradientTransformation:
    """The recipe's optimizer on the trainable leaves, zero updates on the others."""
    if recipe.trainable == ".*":
        return recipe.optimizer
    pattern = re.compile(recipe.trainable)
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "learn" if pattern.fullmatch(path_name(path)) else "freeze", params
    )
    return optax.multi_transform({"learn": recipe.optimizer, "freeze": optax.set_to_zero()}, labels)


def init_state(recipe: Recipe) -> State:
    """Fresh state from the recipe's seed."""
    params = recipe.init(recipe.seed)
    opt = frozen_outside(recipe, params).init(params)
    return State(params, opt, jnp.int32(0), jnp.float32(0))


def make_step(recipe: Recipe) -> Callable[[State, Batch, Array], tuple[State, Array]]:
    """jitted (state, batch, learning rate) -> (state, loss); the state's buffers are donated."""

    def step(state: State, batch: Batch, rate: Array) -> tuple[State, Array]:
        loss, grads = jax.value_and_grad(partial(recipe.loss_fn, recipe.model))(state.params, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, opt = frozen_outside(recipe, state.params).update(grads, state.opt, state.params)
        params = jax.tree.map(lambda p, u: p + (rate * u).astype(p.dtype), state.params, updates)
        seen = state.tokens + jnp.float32(batch["tokens"].size)
        return State(params, opt, state.step + jnp.int32(1), seen), loss

    return jax.jit(step, donate_argnums=0)


def placement(rows: int) -> tuple[Any, Any]:
    """(sharding of a batch, sharding of the state): rows split over all devices, where they divide, else one device."""
    devices = jax.devices()
    if rows % len(devices):
        devices = devices[:1]
    mesh = jax.sharding.Mesh(np.asarray(devices), ("data",))
    spec = jax.sharding.PartitionSpec
    return jax.sharding.NamedSharding(mesh, spec("data")), jax.sharding.NamedSharding(mesh, spec())


def place(state: State, batch: Batch, mesh: Mesh | None = None) -> tuple[State, Batch]:
    """State copied to, and rows split over, the devices of `placement`; no copy where they are there already.

    With a mesh the state stays where it lies, and rows are split over the mesh's data axes.
    """
    if mesh is not None:
        return state, {name: jax.device_put(value, batch_sharding(mesh)) for name, value in batch.items()}
    split, whole = placement(batch["tokens"].shape[0])
    return jax.device_put(state, whole), {name: jax.device_put(value, split) for name, value in batch.items()}


def save_state(folder: Path, state: State) -> None:
    """Orbax checkpoint under folder/checkpoint, replacing the last one only when it is complete."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as saver:
        saver.save((folder / "checkpoint").resolve(), state._asdict(), force=True)


def load_state(folder: Path, like: State) -> State:
    """Inverse of `save_state`."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as saver:
        return State(**saver.restore((folder / "checkpoint").resolve(), like._asdict()))


@dataclass(frozen=True)
class Budget:
    """When to stop: after `steps`, or earlier after `minutes` of wall clock (the schedule follows either)."""

    steps: int
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        share = step / self.steps
        return share if self.minutes is None else max(share, seconds / (60 * self.minutes))


def train(recipe: Recipe, folder: Path, budget: Budget, *, resume: bool = False, every: int = 100) -> State:
    """Runs the recipe; appends {step, loss, tokens, seconds, lr} to folder/curve.jsonl every `every` steps."""
    folder.mkdir(parents=True, exist_ok=True)
    state = init_state(recipe)
    offset = 0.0
    if resume and (folder / "checkpoint").exists():
        state = load_state(folder, state)
        offset = _resumed_curve(folder, int(state.step))
    step_fn, start, saved = make_step(recipe), time.time() - offset, time.time()
    losses: list[Array] = []
    for step in _steps(int(state.step), budget, start):
        rate = learning_rate(recipe, step, budget.progress(step, time.time() - start if budget.minutes else 0.0))
        state, batch = place(state, recipe.batch_at(recipe.seed, step), recipe.mesh)
        state, loss = step_fn(state, batch, jnp.float32(rate))
        losses.append(loss)
        if (step + 1) % every == 0:
            mean = float(np.mean([float(x) for x in losses]))
            losses = []
            if not math.isfinite(mean):
                raise FloatingPointError(f"loss is not finite at step {step + 1}")
            _log(folder, step + 1, mean, float(state.tokens), time.time() - start, rate)
            if time.time() - saved > 120:
                save_state(folder, state)
                saved = time.time()
    if losses:  # what a resumed run must know of the seconds
        _log(
            folder,
            int(state.step),
            float(np.mean([float(x) for x in losses])),
            float(state.tokens),
            time.time() - start,
            rate,
        )
    save_state(folder, state)
    return state


def _steps(first: int, budget: Budget, start: float) -> Iterator[int]:
    step = first
    while step < budget.steps and (budget.minutes is None or time.time() - start < 60 * budget.minutes):
        yield step
        step += 1


def _log(folder: Path, step: int, loss: float, tokens: float, seconds: float, rate: float) -> None:
    row = {"step": step, "loss": round(loss, 5), "tokens": int(tokens), "seconds": round(seconds, 1), "lr": rate}
    with (folder / "curve.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _resumed_curve(folder: Path, step: int) -> float:
    """Seconds that a run had taken at its checkpoint; what the curve says of steps behind it is removed."""
    curve = folder / "curve.jsonl"
    lines = curve.read_text().splitlines() if curve.exists() else []
    earlier = [line for line in lines if json.loads(line)["step"] <= step]
    if len(earlier) < len(lines):
        curve.write_text("".join(line + "\n" for line in earlier))
    return float(json.loads(earlier[-1])["seconds"]) if earlier else 0.0
