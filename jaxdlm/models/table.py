"""From hub tensors to parameter leaves, as data.

A family is a dict of leaf name -> hub tensor name. How the axes move follows from the leaf (`_arrange`), and every
move has an exact inverse, so that an export is bit-identical to what was read.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.argument import Kind
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.params import ParamSpec, param_specs
from jaxdlm.models.segments import segments
from jaxdlm.registry import LAST


class Piece(NamedTuple):
    """The part start:stop along `axis` of a source tensor that several leaves share."""

    axis: int
    start: int
    stop: int


class Op(NamedTuple):
    """How sources become a leaf: take `piece`, reshape to `split`, permute by `axes`, stack over the sources.

    Only moves of numbers: `inverse(forward(x))` is bit-identical to x (or to its piece). `taken` is the shape of the
    piece, or of the whole source where `piece` is None.
    """

    taken: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]
    piece: Piece | None = None
    stack: bool = False

    def forward(self, sources: Sequence[np.ndarray]) -> np.ndarray:
        """The leaf (one layer of it) from whole source tensors."""
        parts = [self.arrange(self.cut(source)) for source in sources]
        return np.stack(parts) if self.stack else parts[0]

    def inverse(self, leaf: np.ndarray) -> list[np.ndarray]:
        """For each source what `forward` took from it: the tensor, or its piece."""
        back = np.argsort(self.axes)
        return [part.transpose(back).reshape(self.taken) for part in (leaf if self.stack else [leaf])]

    def single(self) -> "Op":
        """The same move for one source of a stack."""
        return self._replace(stack=False)

    def cut(self, source: np.ndarray) -> np.ndarray:
        """The piece of a whole source that this op reads."""
        if self.piece is None:
            return source
        where = [slice(None)] * source.ndim
        where[self.piece.axis] = slice(self.piece.start, self.piece.stop)
        return source[tuple(where)]

    def arrange(self, taken: np.ndarray) -> np.ndarray:
        """Reshape and permutation of one piece (a view where possible)."""
        return taken.reshape(self.split).transpose(self.axes)


class TensorMap(NamedTuple):
    """One leaf, or one layer of a stacked leaf (`layer` indexes its leading axis), and where it comes from.

    `sources` are hub names, each of shape `source_shape`; `shape` is the leaf's, without the layer axis.
    """

    path: tuple[str | int, ...]
    layer: int | None
    sources: tuple[str, ...]
    op: Op
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]


@dataclass(frozen=True)
class Joint:
    """A hub tensor that holds several leaves, one after the other along `axis` (in the order of `leaves`)."""

    name: str
    leaves: tuple[str, ...]
    axis: int = 0


Names = Mapping[str, str | Joint]  # leaf -> hub name; {i} is the layer, {e} the expert


@dataclass(frozen=True)
class Family:
    """A checkpoint family.

    `config(fields)` gives the ModelConfig of a config.json; `tensors(config, names)` yields every TensorMap (`names`,
    the tensor names present, only chooses between released spellings). `ignore` are fnmatch patterns of tensors that
    carry no weight of ours; `heads` are the names of the head tensor, which a model that is tied under `tie_key` may store
    beside the embedding or instead of it; `twins` are two prefixes, of which the first gives second names to the tensors
    of the other.

    `defaults` are the values that the family's configuration class fills in where config.json has none. A release may rely
    on it: the `text_config` of Gemma-3 4B states eight keys of some twenty. For classes of transformers and their heirs
    (Dream and Fast-dLLM v2 of Qwen2, SDAR of Qwen3, A2D of all three) they are the class's, key by key, and a test compares
    the two; LLaDA, LLaDA-MoE and LLaDA2 bring classes of their own, whose numbers stand in their repositories. None: the
    class leaves it to be derived (heads from hidden_size, key/value heads from the heads). Keys that are not listed must be
    stated, such as those whose default would only show that the file is of another network. Ids of special tokens are no
    defaults, since a vocabulary decides what they mean.

    `keys` are the kinds of keys that no other family has, see `hub_config.CONFIG`. `released`: short name -> config.json of
    a released model, reduced to what decides the shape, for benchmarks and plans, never for loading weights. `hub`: short
    name -> Hub id of the one that people talk to, for `jaxdlm pull`. `lead_bos`: trained with bos before every text. `claims`:
    whether a config.json of another family's architecture says that it is this one's.
    """

    name: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    config: Callable[[Fields], ModelConfig]
    tensors: Callable[..., Iterator[TensorMap]]
    ignore: tuple[str, ...] = ("*.rotary_emb.inv_freq", "*.masked_bias")
    heads: tuple[str, ...] = ("lm_head.weight",)
    tie_key: str = "tie_word_embeddings"
    twins: tuple[str, str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Kind] = field(default_factory=dict)
    released: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hub: Mapping[str, str] = field(default_factory=dict)
    lead_bos: bool = False
    claims: Callable[[Mapping[str, Any]], bool] = lambda values: False
    order: int = LAST

    def read_config(self, values: Mapping[str, Any], hints: Hints) -> ModelConfig:
        """ModelConfig of a config.json of the family."""
        return self.config(Fields(values, self.name, hints, self.defaults, self.keys))


def tensor_maps(config: ModelConfig, names: Names) -> Iterator[TensorMap]:
    """Every leaf of `param_specs(config)` through its name in `names`, in the order of the tree."""
    tree = param_specs(config)
    for leaf in ("embed", "final_norm", "lm_head"):
        if leaf in tree:
            yield _map((leaf,), None, names[leaf], tree[leaf], tree)
    for number, segment in enumerate(segments(config)):
        for position, leaves in enumerate(tree["segments"][number]):
            one_layer = {name: spec._replace(shape=spec.shape[1:]) for name, spec in leaves.items()}
            for name, spec in one_layer.items():
                for index, layer in enumerate(segment.layers(position)):
                    path = ("segments", number, position, name)
                    yield _map(path, index, names[name], spec, one_layer, layer)
    for leaf in ("layer_scalar_prefix", "layer_scalar_canvas"):
        for layer in range(config.num_layers if leaf in tree else 0):
            source = str(names[leaf]).format(i=layer)
            yield TensorMap((leaf,), layer, (source,), Op((1,), (), ()), (), (1,))
    for leaf, spec in tree.get("self_cond", {}).items():
        yield _map(("self_cond", leaf), None, names[f"self_cond/{leaf}"], spec, tree["self_cond"])


def _map(
    path: tuple[str | int, ...],
    index: int | None,
    name: str | Joint,
    spec: ParamSpec,
    siblings: Mapping[str, ParamSpec],
    layer: int = 0,
) -> TensorMap:
    pattern = name.name if isinstance(name, Joint) else name
    per_expert = "{e}" in pattern
    leaf = str(path[-1])
    op = _arrange(leaf, spec.shape[1:] if per_expert else spec.shape)._replace(stack=per_expert)
    source_shape = op.taken
    if isinstance(name, Joint):
        sizes = [_arrange(part, siblings[part].shape).taken[name.axis] for part in name.leaves]
        start = sum(sizes[: name.leaves.index(leaf)])
        op = op._replace(piece=Piece(name.axis, start, start + op.taken[name.axis]))
        source_shape = (*op.taken[: name.axis], sum(sizes), *op.taken[name.axis + 1 :])
    experts = range(spec.shape[0]) if per_expert else (0,)
    sources = tuple(pattern.format(i=layer, e=expert) for expert in experts)
    return TensorMap(path, index, sources, op, spec.shape, source_shape)


def _arrange(leaf: str, shape: tuple[int, ...]) -> Op:
    """The op of a leaf by its meaning; PyTorch stores a matrix as [out, in], we as [in, out] with the heads split."""
    if leaf in ("wq", "wk", "wv"):
        d, n, h = shape
        return Op((n * h, d), (n, h, d), (2, 0, 1))
    if leaf == "wo":
        n, h, d = shape
        return Op((d, n * h), (d, n, h), (1, 2, 0))
    if leaf in ("bq", "bk", "bv"):
        return Op((math.prod(shape),), shape, (0, 1))
    if leaf == "embed" or len(shape) == 1:
        return Op(shape, shape, tuple(range(len(shape))))
    *batch, rows, columns = shape
    taken = (*batch, columns, rows)
    last = len(shape) - 1
    return Op(taken, taken, (*range(len(batch)), last, last - 1))


DECODER: dict[str, str] = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
    "attn_norm": "model.layers.{i}.input_layernorm.weight",
    "mlp_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "wq": "model.layers.{i}.self_attn.q_proj.weight",
    "wk": "model.layers.{i}.self_attn.k_proj.weight",
    "wv": "model.layers.{i}.self_attn.v_proj.weight",
    "wo": "model.layers.{i}.self_attn.o_proj.weight",
    "bq": "model.layers.{i}.self_attn.q_proj.bias",
    "bk": "model.layers.{i}.self_attn.k_proj.bias",
    "bv": "model.layers.{i}.self_attn.v_proj.bias",
    "q_norm": "model.layers.{i}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{i}.self_attn.k_norm.weight",
    "gate": "model.layers.{i}.mlp.gate_proj.weight",
    "up": "model.layers.{i}.mlp.up_proj.weight",
    "down": "model.layers.{i}.mlp.down_proj.weight",
    "router": "model.layers.{i}.mlp.gate.weight",
    "e_gate": "model.layers.{i}.mlp.experts.{e}.gate_proj.weight",
    "e_up": "model.layers.{i}.mlp.experts.{e}.up_proj.weight",
    "e_down": "model.layers.{i}.mlp.experts.{e}.down_proj.weight",
}
"""The names that Llama, Qwen and their descendants share."""


FUSED: dict[str, str | Joint] = {
    "e_gate": Joint("model.layers.{i}.mlp.experts.gate_up_proj", ("e_gate", "e_up"), axis=1),
    "e_up": Joint("model.layers.{i}.mlp.experts.gate_up_proj", ("e_gate", "e_up"), axis=1),
    "e_down": "model.layers.{i}.mlp.experts.down_proj",
}
"""All experts of a layer in one tensor, gate and up one above the other: [E, 2 F, D] and [E, D, F]."""


def fused(names: Collection[str]) -> Mapping[str, str | Joint]:
    """`FUSED` where a checkpoint has these, else nothing."""
    return FUSED if any(name.endswith(".mlp.experts.gate_up_proj") for name in names) else {}


def decoder_tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """The table of every family that uses `DECODER`, with experts one by one or fused as `names` has them."""
    return tensor_maps(config, {**DECODER, **fused(names)})
