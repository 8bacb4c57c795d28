"""Files of trained drafters that read the target's hidden states: tensors under their released names, sizes as metadata."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Embeds
from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.visual import BRANCHES, QUERIES, STRIDE
from jaxdlm.trained import once
from jaxdlm.typing import Array

HEADS = ("wq", "wk", "wv")
ATTENTION = {
    "wq": "self_attn.q_proj.weight", "wk": "self_attn.k_proj.weight", "wv": "self_attn.v_proj.weight",
    "wo": "self_attn.o_proj.weight",
}  # fmt: skip
FEED = {
    "mlp_norm": "post_attention_layernorm.weight", "gate": "mlp.gate_proj.weight", "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}  # fmt: skip
COMPRESSOR = {
    "conv": "compressor.conv.weight", "conv_bias": "compressor.conv.bias", "queries": "compressor.queries",
    "seek": "compressor.q_proj.weight", "keys": "compressor.k_proj.weight", "values": "compressor.v_proj.weight",
    "out": "compressor.o_proj.weight", "choice": "compressor.gate.weight", "choice_bias": "compressor.gate.bias",
}  # fmt: skip
QK_NORM = {"q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight"}


class Format(NamedTuple):
    """Tensors of a kind of file, by leaf. layer: of each layer, behind `prefix`, whose {} is its number where they are several
    (leaves are stacked then); optional: leaves that a file may lack."""

    whole: Mapping[str, str]
    layer: Mapping[str, str]
    prefix: str
    optional: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()  # of `FURTHER`, what its metadata must state

    @property
    def stacked(self) -> bool:
        return "{}" in self.prefix

    def tensors(self, layers: int) -> dict[str, tuple[str, int]]:
        """tensor -> (leaf, number of the layer)."""
        own = {name: (leaf, 0) for leaf, name in self.whole.items()}
        numbered = ((number, self.prefix.format(number)) for number in range(layers))
        return own | {prefix + name: (leaf, n) for n, prefix in numbered for leaf, name in self.layer.items()}


FORMATS = {
    "eagle2": Format(
        {"fc": "fc.weight", "fc_bias": "fc.bias"} | COMPRESSOR,
        {"attn_norm": "input_layernorm.weight"} | ATTENTION | FEED, "layers.0.", ("fc_bias", "attn_norm", *COMPRESSOR),
    ),
    "eagle3": Format(
        {"fc": "fc.weight", "norm": "norm.weight", "lm_head": "lm_head.weight", "d2t": "d2t", "t2d": "t2d"},
        {"embed_norm": "input_layernorm.weight", "hidden_norm": "hidden_norm.weight"} | ATTENTION | FEED, "midlayer.",
    ),
    "dflash": Format(
        {"fc": "fc.weight", "hidden_norm": "hidden_norm.weight", "norm": "norm.weight", "mask": "mask_embedding"},
        {"attn_norm": "input_layernorm.weight"} | ATTENTION | QK_NORM | FEED, "layers.{}.", ("mask",),
        ("block_size",),
    ),
}  # fmt: skip
NEEDED = ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
FURTHER = ("block_size", "mask_token_id")


class Trained(NamedTuple):
    """A trained drafter: leaves in our order of axes, the shape of its layers, and what it was made for.

    taps: the target's layers that it reads. vocab: ids of the target. made_for: the target's fingerprint, "": not known.
    sizes: numbers of its kind alone, of `FURTHER`.
    """

    leaves: dict[str, Array]
    config: ModelConfig
    taps: tuple[int, ...]
    vocab: int
    made_for: str
    sizes: Mapping[str, int] = {}


def layer_config(
    *, hidden: int, heads: int, kv_heads: int, head_dim: int, feed: int, vocab: int, theta: float = 1e4,
    eps: float = 1e-6, dtype: str = "float32", layers: int = 1, **more: Any,
) -> ModelConfig:  # fmt: skip
    """The shape of Llama layers that draft."""
    return ModelConfig(
        family="llama", vocab_size=vocab, num_layers=layers, hidden_size=hidden, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=head_dim, intermediate_size=feed, max_position=2**20, norm_eps=eps, rope=RopeConfig(theta=theta),
        attention="causal", prediction="next", noise="none", tokens=TokenIds(), param_dtype=dtype, **more,
    )  # fmt: skip


def arranged(path: pathlib.Path, leaf: str, tensor: np.ndarray, config: ModelConfig) -> np.ndarray:
    """A released tensor ([out, in]) as a leaf ([in, out], heads apart). Raises InputError where that cannot be."""
    if tensor.ndim < 2 or leaf not in (*HEADS, "wo"):
        return tensor.T
    axis = 1 if leaf == "wo" else 0
    if tensor.shape[axis] % config.head_dim:
        raise InputError(f"{path.name}: {leaf} has {tensor.shape}, no multiple of heads of {config.head_dim}")
    if leaf == "wo":
        return tensor.T.reshape(-1, config.head_dim, tensor.shape[0])
    return tensor.T.reshape(tensor.shape[1], -1, config.head_dim)


def released(leaf: str, value: np.ndarray) -> np.ndarray:
    """Inverse of `arranged`."""
    if leaf == "wo":
        value = value.reshape(-1, value.shape[-1])
    value = value.reshape(value.shape[0], -1) if leaf in HEADS else value
    return value if value.ndim < 2 else np.ascontiguousarray(value.T)


@once
def read_trained(path: pathlib.Path, kind: str) -> Trained:
    """The drafter in a file of scripts/train.py --recipe KIND. Raises InputError for what is no such file."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    stored, notes = read_safetensors(path)
    sizes, further = _sizes(path, kind, notes)
    layers, tensors = _named(path, kind, stored)
    hidden, feed = (len(tensors[leaf, 0]) if tensors[leaf, 0].ndim == 2 else 0 for leaf in ("fc", "gate"))
    config = layer_config(
        hidden=hidden, heads=sizes["num_attention_heads"], kv_heads=sizes["num_key_value_heads"],
        head_dim=sizes["head_dim"], feed=feed, vocab=sizes["vocab_size"], theta=float(notes["rope_theta"]),
        eps=float(notes["rms_norm_eps"]), layers=layers, qk_norm=kind == "dflash",
    )  # fmt: skip
    taps = tuple(int(tap) for tap in notes["taps"].split(","))
    if kind == "eagle3":
        maps = tensors.pop(("d2t", 0)), tensors.pop(("t2d", 0))
        tensors["ids", 0] = vocabulary(path, *maps, tensors["lm_head", 0], config)
    made = {name: arranged(path, name[0], tensor, config) for name, tensor in tensors.items()}
    _check_shapes(path, kind, made, config, len(taps))
    leaves = {leaf: value for (leaf, _), value in made.items()}
    if FORMATS[kind].stacked:
        leaves |= {leaf: np.stack([made[leaf, n] for n in range(layers)]) for leaf in FORMATS[kind].layer}
    device = {leaf: jnp.asarray(value) for leaf, value in leaves.items()}
    return Trained(device, config, taps, sizes["vocab_size"], notes.get("fingerprint", ""), further)


def _sizes(path: pathlib.Path, kind: str, notes: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """(what every kind states, what this one does)."""
    sizes, further = (
        {name: int(notes[name]) for name in names if notes.get(name, "").isdigit()} for names in (NEEDED, FURTHER)
    )
    real = all(_is_real(notes.get(name, "")) for name in ("rope_theta", "rms_norm_eps"))
    taps = all(tap.isdigit() for tap in notes.get("taps", "-").split(","))
    if notes.get("method") != kind or len(sizes) < len(NEEDED) or not real or not taps:
        raise InputError(f"{path.name} is no {kind} head: train one with scripts/train.py --recipe {kind}")
    for name in FORMATS[kind].sizes:
        if name not in further:
            raise InputError(f"{path.name} states no {name}, which a {kind} head needs: add it to its metadata")
    return sizes, further


def _is_real(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _named(
    path: pathlib.Path, kind: str, stored: Mapping[str, np.ndarray]
) -> tuple[int, dict[tuple[str, int], np.ndarray]]:
    """(layers, tensors by leaf and layer). Raises InputError where one is missing, or is not one of these."""
    form = FORMATS[kind]
    first = form.layer["gate"]
    layers = sum(name.endswith(first) for name in stored) if form.stacked else 1
    names = form.tensors(layers)
    unknown = [name for name in stored if name not in names]
    missing = [name for name, (leaf, _) in names.items() if name not in stored and leaf not in form.optional]
    if unknown or missing or not layers:
        what = (
            f"{missing[0]} is missing" if missing else f"{unknown[0]} is not of it" if unknown else "it has no layers"
        )
        raise InputError(f"{path.name} is no {kind} head: {what}")
    return layers, {names[name]: np.asarray(tensor) for name, tensor in stored.items()}


def vocabulary(
    path: pathlib.Path, d2t: np.ndarray, t2d: np.ndarray, head: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """int32[Vd]: the target's id of each id of the draft, d + d2t[d]. Raises InputError for maps that do not fit."""
    count = head.shape[0]
    fits = d2t.shape == (count,) and t2d.shape == (config.vocab_size,)
    ids = np.arange(count) + d2t.astype(np.int64) if fits else np.zeros(0, np.int64)
    if not fits or (np.diff(ids) <= 0).any() or not np.array_equal(ids, np.flatnonzero(t2d)):
        raise InputError(
            f"{path.name}: its vocabulary maps do not fit: d2t must lead the {count} rows of lm_head to the ids, ascending, "
            f"that t2d marks among {config.vocab_size}"
        )
    return ids.astype(np.int32)


def shapes(
    kind: str, config: ModelConfig, taps: int, target: int, words: int, visual: bool = False
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(leaf, its shape in one layer) of a head for a target of this width. words: ids that it drafts (eagle3). visual: of a
    compressor, too (eagle2)."""
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    wide = 2 * d if kind == "eagle3" else d
    norms = {
        "eagle2": ("fc_bias", "attn_norm"), "eagle3": ("embed_norm", "hidden_norm", "norm"),
        "dflash": ("hidden_norm", "norm", "mask", "attn_norm"),
    }  # fmt: skip
    yield "fc", ((2 * d if kind == "eagle2" else taps * target), d)
    yield from ((name, (d,)) for name in norms[kind])
    if kind == "eagle3":
        yield from (("lm_head", (d, words)), ("ids", (words,)))
    if kind == "dflash":
        yield from ((name, (h,)) for name in ("q_norm", "k_norm"))
    if visual:
        yield from (("conv", (STRIDE, d, d)), ("conv_bias", (d,)), ("queries", (d, QUERIES)))
        yield from ((name, (d, d)) for name in ("seek", "keys", "values", "out"))
        yield from (("choice", (d, len(BRANCHES))), ("choice_bias", (len(BRANCHES),)))
    yield "wq", (wide, config.num_heads, h)
    yield from ((name, (wide, config.num_kv_heads, h)) for name in ("wk", "wv"))
    yield "wo", (config.num_heads, h, d)
    yield from (("mlp_norm", (d,)), ("gate", (d, f)), ("up", (d, f)), ("down", (f, d)))


def _check_shapes(
    path: pathlib.Path, kind: str, made: Mapping[tuple[str, int], np.ndarray], config: ModelConfig, taps: int
) -> None:
    words = made["lm_head", 0].shape[-1] if kind == "eagle3" else 0
    target = config.hidden_size if kind == "eagle2" else max(1, made["fc", 0].shape[0] // taps)
    wanted, names = (
        dict(shapes(kind, config, taps, target, words, kind == "eagle2")),
        FORMATS[kind].tensors(config.num_layers),
    )
    tensor_of = {place: name for name, place in names.items()}
    for place, value in made.items():
        name = tensor_of.get(place, place[0])
        if value.shape != wanted[place[0]]:
            raise InputError(f"{path.name}: {name} has {value.shape}, its sizes say {wanted[place[0]]}")
        if not np.isfinite(value.astype(np.float32)).all():
            raise InputError(f"{path.name}: {name} holds numbers that are not finite")


def blank(
    kind: str,
    config: ModelConfig,
    *,
    target: int,
    taps: tuple[int, ...],
    words: Any = None,
    seed: int = 0,
    visual: bool = False,
    **sizes: int,
) -> Trained:
    """A head that knows nothing: normal weights of variance 1 / inputs, the norms 1. words: ids that it drafts (eagle3). visual:
    with a compressor."""
    ids = np.arange(config.vocab_size) if words is None else words
    rng, leaves = np.random.default_rng(seed), {}
    for leaf, shape in shapes(kind, config, len(taps), target, len(ids), visual):
        shape = (config.num_layers, *shape) if FORMATS[kind].stacked and leaf in FORMATS[kind].layer else shape
        if leaf == "ids":
            leaves[leaf] = jnp.asarray(ids, jnp.int32)
        elif leaf.endswith(("norm", "bias")):
            leaves[leaf] = jnp.full(shape, 1.0 if leaf.endswith("norm") else 0.0, jnp.float32)
        else:
            inputs = (
                shape[-3] * shape[-2] if leaf == "wo" else 1 if leaf == "mask" else shape[-3 if leaf in HEADS else -2]
            )
            leaves[leaf] = jnp.asarray(rng.normal(size=shape) / np.sqrt(inputs), jnp.float32)
    return Trained(leaves, config, taps, config.vocab_size, "", sizes)


def write_trained(path: pathlib.Path, kind: str, trained: Trained, dtype: Any, **notes: str) -> None:
    """Writes what `read_trained` reads, weights in `dtype`."""
    from jaxdlm.checkpoint.safetensors import write_safetensors

    leaves, config = dict(trained.leaves), trained.config
    tensors: dict[str, np.ndarray] = {}
    if kind == "eagle3":
        ids = np.asarray(leaves.pop("ids"))
        tensors["d2t"] = ids.astype(np.int64) - np.arange(len(ids))
        tensors["t2d"] = np.isin(np.arange(trained.vocab), ids)
    for name, (leaf, number) in FORMATS[kind].tensors(config.num_layers).items():
        if leaf in leaves:
            value = np.asarray(leaves[leaf], np.float32)
            several = FORMATS[kind].stacked and leaf in FORMATS[kind].layer
            tensors[name] = released(leaf, value[number] if several else value).astype(dtype)
    sizes = {
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim,
        "rope_theta": config.rope.theta, "rms_norm_eps": config.norm_eps, "vocab_size": trained.vocab,
        "taps": ",".join(map(str, trained.taps)), "fingerprint": trained.made_for, **trained.sizes,
    }  # fmt: skip
    write_safetensors(
        path, tensors, {"format": "jaxdlm", "method": kind} | {k: str(v) for k, v in sizes.items()} | notes
    )


def check_target(lm: Any, trained: Any, kind: str, size: int) -> None:
    """Raises InputError where a head (its `vocab`, `made_for`) reads hidden states of `size` of another target."""
    again = f"train one with scripts/train.py --recipe {kind} --model {lm.name}"
    if not isinstance(lm.model, Embeds):
        raise InputError(f"{lm.name} does not tell its embeddings, which a draft head reads: use another method")
    if size != lm.config.hidden_size:
        raise InputError(
            f"the head reads hidden states of size {size}, target {lm.name} has {lm.config.hidden_size}: {again}"
        )
    if trained.vocab != lm.config.vocab_size:
        raise InputError(
            f"the head was made for {trained.vocab} words, target {lm.name} has {lm.config.vocab_size}: {again}"
        )
    if trained.made_for and trained.made_for != fingerprint(lm.params):
        raise InputError(f"the head was trained for another target than {lm.name}: {again}")
