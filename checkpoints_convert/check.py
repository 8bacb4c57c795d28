"""Does the converted checkpoint compute what the PyTorch model computes? Largest logit difference, by layer group."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints_convert import oracle
from checkpoints_convert.export import Back
from checkpoints_convert.verify import read_manifest, verify, verify_source
from jaxdlm.checkpoint.leaf import LeafSpec
from jaxdlm.checkpoint.quantised import Dequantised
from jaxdlm.checkpoint.restore import load_params
from jaxdlm.checkpoint.source import Checkpoint, open_folder
from jaxdlm.models import Backbone
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.segments import locate, segments

GROUPS = 4
ROWS, LENGTH, PADDED = 2, 37, 5
GGUF_ORACLES = {
    True: "of transformers with its own reading of the file",
    False: "of transformers with the tensors as read here (its own reader lacks this architecture, or accelerate)",
}
TOLERANCE = 1e-4  # for logits up to 10; in proportion beyond


class Agreement(NamedTuple):
    """Logits after layers 0..depth-1 (final norm and head applied there), ours against the oracle's."""

    depth: int
    difference: float
    largest: float
    argmax: float

    @property
    def good(self) -> bool:
        return self.difference <= TOLERANCE * max(1.0, self.largest / 10)


def check(out: Path, source: Checkpoint, stream: TextIO) -> int:
    """Write the report to `stream`; exit status 0 if all agrees, else 1.

    The oracle runs in float32 on the rounded weights, in a ragged batch under the family's own mask. Without
    transformers, without an oracle for the family, or without memory for both models: the checksums of the manifest.
    Of a quantised checkpoint the oracle gets what the codes stand for; what they do to weights and logits is said first.
    """
    converted = open_folder(out)
    quantised = any(isinstance(leaf.tensors, Dequantised) for leaf in converted.leaves)
    stated = introduced(converted, source, stream) if quantised else True
    why = _no_oracle(source)
    if why:
        parts, tensors = verify(out), verify_source(out, source.tensors)
        print(f"check: {why}; internal check instead", file=stream)
        print(
            f"check: {'ok' if stated else 'FAILED'}, {parts} parts and {tensors} source tensors equal their checksums",
            file=stream,
        )
        return 0 if stated else 1
    results = list(compare(out, replace(source, tensors=Back(converted)) if quantised else source))
    before = 0
    for result in results:
        print(
            f"layers {before:3d}..{result.depth - 1:<3d}  largest logit difference {result.difference:.2e} "
            f"(logits up to {result.largest:.1f})  argmax equal {result.argmax:.2%}",
            file=stream,
        )
        before = result.depth
    good = stated and all(result.good for result in results)
    worst = max(result.difference for result in results)
    name = oracle.class_name(source)
    how = "of transformers" if source.kind != "gguf" or quantised else GGUF_ORACLES[oracle.reads_itself(source)]
    print(f"check: {'ok' if good else 'FAILED'}, {name} {how}, largest difference {worst:.2e}", file=stream)
    return 0 if good else 1


def introduced(converted: Checkpoint, source: Checkpoint, stream: TextIO) -> bool:
    """What quantising did: the error of each tensor, read back and compared with the manifest, and that of the logits.

    Returns whether the weights that the codes stand for are as far from the source's as the manifest says.
    """
    stated = read_manifest(converted.folder)["quantised"]
    good = True
    print("quantised, relative error ||W - Ŵ|| / ||W||, read back:", file=stream)
    for path, facts in stated.items():
        error = _distance(source.leaf(path), converted.leaf(path))
        same = math.isclose(error, facts["relative_error"], rel_tol=1e-3, abs_tol=1e-7)
        good &= same
        wrong = "" if same else f"  FAILED: the manifest says {facts['relative_error']:.5f}"
        print(f"  {error:.5f}  int{facts['bits']} {facts['kind']}  {path}{wrong}", file=stream)
    why = _no_memory(source)
    if why:
        print(f"what it does to the logits is not computed: {why}", file=stream)
        return good
    exact, ours = (_log_probabilities(each) for each in (source, converted))
    divergence = float(np.mean(np.sum(np.exp(exact) * (exact - ours), -1)))
    print(
        f"logits in float32, quantised against not: KL {divergence:.5f} nats, largest difference of a log probability "
        f"{np.abs(exact - ours).max():.3f}, argmax equal {np.mean(exact.argmax(-1) == ours.argmax(-1)):.2%}",
        file=stream,
    )
    return good


def _distance(source: LeafSpec, converted: LeafSpec) -> float:
    """||W - Ŵ|| / ||W|| of two leaves, one index of the leading axis at a time where it counts layers."""
    error = square = 0.0
    for number in range(source.shape[0]) if source.stacked else (None,):
        index = None if number is None else tuple(
            slice(number, number + 1) if axis == 0 else slice(None) for axis in range(len(source.shape))
        )  # fmt: skip
        a, b = (leaf.astype(np.dtype(np.float32)).read(index) for leaf in (source, converted))
        error += float(np.square(a - b).sum(dtype=np.float64))
        square += float(np.square(a).sum(dtype=np.float64))
    return math.sqrt(error / square) if square else 0.0


def _log_probabilities(source: Checkpoint) -> np.ndarray:
    """log p at the valid columns of the sample, from the forward pass that decoding uses."""
    config = dataclasses.replace(source.config, param_dtype="float32")
    tokens, position, valid = sample(config)
    with jax.default_matmul_precision("highest"):
        logits = _logits(Backbone(config), load_params(source, dtype="float32"), tokens, position, valid)
    return np.asarray(jax.nn.log_softmax(logits))[valid]


def _no_oracle(source: Checkpoint) -> str | None:
    if oracle.class_name(source) is None:
        return f"transformers has no oracle for {source.config.family}"
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return "transformers is not installed"
    return _no_memory(source)


def _no_memory(source: Checkpoint) -> str | None:
    need = 10 * sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in source.leaves)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"both models in float32 need {need / 1e9:.1f} GB, {free / 1e9:.1f} are free" if need > free else None


def compare(out: Path, source: Checkpoint) -> Iterator[Agreement]:
    """Ours against the oracle's logits after each of a few depths."""
    converted = open_folder(out)
    config = dataclasses.replace(converted.config, param_dtype="float32")
    params = load_params(converted, dtype="float32")
    dtypes = {name: leaf.dtype for leaf in converted.leaves for name in _sources(source, leaf.path)}
    dtypes = {} if isinstance(source.tensors, Back) else dtypes  # these are as the codes say already
    depths = depths_of(config)
    tokens, position, valid = sample(config)
    theirs = oracle_logits(oracle.build(source, dtypes), config, depths, tokens, position, valid)
    for depth, reference in zip(depths, theirs):
        cut, part = truncated(config, params, depth)
        with jax.default_matmul_precision("highest"):
            ours = np.asarray(_logits(Backbone(cut), part, tokens, position, valid))
        ours, reference = ours[valid], reference[valid]
        top = np.sort(reference, axis=-1)
        clear = top[:, -1] - top[:, -2] > 1e-3
        same = (ours.argmax(-1) == reference.argmax(-1))[clear]
        largest = float(np.abs(reference).max())
        yield Agreement(depth, float(np.abs(ours - reference).max()), largest, float(same.mean()) if same.size else 1.0)


def _sources(source: Checkpoint, path: str) -> list[str]:
    return [name for piece in source.leaf(path).pieces for name in piece.sources]


def _logits(model: Backbone, params: Any, tokens: np.ndarray, position: np.ndarray, valid: np.ndarray) -> Any:
    def run(params: Any) -> Any:
        hidden = model.apply(params, jnp.asarray(tokens), jnp.asarray(position), jnp.asarray(valid)).hidden
        return model.head(params, hidden)

    return jax.jit(run)(params)


def depths_of(config: ModelConfig) -> list[int]:
    """A few depths, the last layer among them."""
    count = min(GROUPS, config.num_layers)
    return [round(config.num_layers * (number + 1) / count) for number in range(count)]


def sample(config: ModelConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, positions, valid): two rows, the second left-padded, ids over the whole vocabulary."""
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    position = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    position[1] = np.maximum(position[1] - PADDED, 0)
    valid = np.ones((ROWS, LENGTH), bool)
    valid[1, :PADDED] = False
    return tokens, position, valid


def truncated(config: ModelConfig, params: Any, depth: int) -> tuple[ModelConfig, Any]:
    """The first `depth` layers as a model of its own."""
    cut = dataclasses.replace(
        config, num_layers=depth, layer_kinds=config.layer_kinds[:depth],
        first_dense_layers=min(config.first_dense_layers, depth),
    )  # fmt: skip

    def one(layer: int) -> dict[str, Any]:
        segment, place, index = locate(config, layer)
        return jax.tree.map(lambda leaf: leaf[index], params["segments"][segment][place])

    stacks = tuple(
        tuple(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one(layer) for layer in segment.layers(place)))
            for place in range(segment.period)
        )
        for segment in segments(cut)
    )
    rest = {name: leaf[:depth] if name.startswith("layer_scalar") else leaf for name, leaf in params.items()}
    return cut, rest | {"segments": stacks}


def oracle_logits(
    model: Any, config: ModelConfig, depths: list[int], tokens: np.ndarray, position: np.ndarray, valid: np.ndarray
) -> list[np.ndarray]:
    """Logits of the torch module after each depth, its attention given an explicit mask."""
    import torch

    def additive(window: int) -> Any:
        allow = torch.from_numpy(_allow(config, position, valid, window))[:, None]
        return torch.zeros(allow.shape).masked_fill(~allow, torch.finfo(torch.float32).min)

    mask: Any = additive(0)
    if config.layer_kinds:
        mask = {"full_attention": mask, "sliding_attention": additive(config.sliding_window)}
    seen: dict[int, Any] = {}
    for depth in depths:
        model.model.layers[depth - 1].register_forward_hook(
            lambda _module, _inputs, output, depth=depth: seen.__setitem__(
                depth, output[0] if isinstance(output, tuple) else output
            )
        )
    with torch.no_grad():
        model.model(
            input_ids=torch.from_numpy(tokens).long(), attention_mask=mask,
            position_ids=torch.from_numpy(position).long(), use_cache=False,
        )  # fmt: skip
        logits = [model.lm_head(model.model.norm(seen[depth])) for depth in depths]
        cap = config.final_softcap
        return [(x if cap is None else cap * torch.tanh(x / cap)).numpy() for x in logits]


def _allow(config: ModelConfig, position: np.ndarray, valid: np.ndarray, window: int) -> np.ndarray:
    """bool[B, T, T]: may query q see key k?"""
    q, k = position[:, :, None], position[:, None, :]
    block = max(config.block_size, 1)
    see = {"full": q == q, "causal": k <= q, "block_causal": k // block <= q // block}[config.attention]
    return valid[:, None, :] & see & ((q - k < window) if window else True)
