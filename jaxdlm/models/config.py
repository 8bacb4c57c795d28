"""`ModelConfig`: every number that decides what a decoder stack computes. Hashable, validated, exact in JSON."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from jaxdlm.errors import InputError

ROPE_KINDS = ("default", "linear", "llama3", "proportional")
ATTENTIONS = ("full", "causal", "block_causal", "prefix_canvas")
ACTIVATIONS = ("silu", "gelu_tanh", "relu2")

# No released model comes near these; a larger number is a damaged or hostile file, refused before any name set or
# array is built from it.
_LIMITS = {
    "num_layers": 1024,
    "num_experts": 4096,
    "hidden_size": 10**6,
    "intermediate_size": 10**6,
    "expert_size": 10**6,
    "shared_size": 10**6,
    "vocab_size": 4 * 10**6,
    "num_heads": 4096,
    "num_kv_heads": 4096,
    "head_dim": 65536,
    "global_head_dim": 65536,
    "global_kv_heads": 4096,
}


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary embedding: half-split pairing on the first `rotary_dim` channels, base `theta`.

    kind: default; linear (frequencies / factor); llama3 (long wavelengths / factor, smooth between the two
    wavelengths original_max_position / high_freq_factor and / low_freq_factor); proportional (only the first
    proportion * H / 2 frequencies turn, the exponent divides by H).
    """

    theta: float
    kind: str = "default"
    rotary_dim: int | None = None
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    proportion: float = 1.0

    def __post_init__(self) -> None:
        _require(self.kind in ROPE_KINDS, f"rope kind {self.kind!r} is unknown; one of {', '.join(ROPE_KINDS)}")
        _require(self.theta > 0, f"rope theta must be positive, got {self.theta}")
        _require(self.factor > 0, f"rope factor must be positive, got {self.factor}")
        _require(0 < self.proportion <= 1, f"rope proportion must be in (0, 1], got {self.proportion}")


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Special token ids. `mask` is None for models without a mask token.

    `eos` lists every id that ends a text, each once, `turn_end` among them; the first is what is written behind an end.
    """

    mask: int | None = None
    pad: int = 0
    bos: int | None = None
    eos: tuple[int, ...] = ()
    turn_end: int | None = None
    tokenizer_size: int | None = None

    def __post_init__(self) -> None:
        turn = () if self.turn_end is None else (self.turn_end,)
        object.__setattr__(self, "eos", tuple(dict.fromkeys((*self.eos, *turn))))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One decoder stack. Field by field what the forward pass reads; nothing here is a training or decoding setting."""

    family: str
    # sizes
    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position: int
    # norms
    norm_eps: float
    norm_plus_one: bool = False  # scale is 1 + w; w is kept as stored, folding would lose bits in bfloat16
    norm_scale_in_f32: bool = False
    sandwich_norm: bool = False
    # attention
    qkv_bias: bool = False
    qk_norm: bool = False
    v_norm: bool = False
    attn_scale: float | None = None  # None: head_dim ** -0.5
    rope: RopeConfig
    rope_local: RopeConfig | None = None
    rope_in_f32: bool = False
    layer_kinds: tuple[str, ...] = ()  # "global" or "local" per layer; empty: all global
    sliding_window: int = 0
    canvas_window: int = 0  # prefix columns that a canvas sees in local layers; 0: sliding_window
    global_head_dim: int = 0  # only where it differs from head_dim
    global_kv_heads: int = 0
    k_eq_v_global: bool = False
    # feed-forward
    activation: str = "silu"
    gated_mlp: bool = True
    num_experts: int = 0
    top_k: int = 0
    expert_size: int = 0
    shared_size: int = 0
    first_dense_layers: int = 0
    router_score: str = "softmax"
    router_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    norm_topk: bool = False
    routed_scale: float = 1.0
    router_in_f32: bool = False
    moe_parallel_dense: bool = False
    # embedding and head
    tie_embeddings: bool = False
    embed_scale: float | None = None
    final_softcap: float | None = None
    logit_scale: float | None = None
    layer_scalar: bool = False
    self_conditioning: bool = False
    # use
    attention: str = "causal"
    block_size: int = 0  # block of block_causal, or the canvas length
    prediction: str = "next"
    noise: str = "none"
    tokens: TokenIds
    param_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_choices(self)
        _check_attention(self)
        _check_experts(self)
        _check_tokens(self)

    @property
    def kinds(self) -> tuple[str, ...]:
        """ "global" or "local" for each layer."""
        return self.layer_kinds or ("global",) * self.num_layers

    @property
    def local_shapes_differ(self) -> bool:
        """True where global layers have other head shapes than local ones, so they cannot share one scan body."""
        same = self.global_head_dim in (0, self.head_dim) and self.global_kv_heads in (0, self.num_kv_heads)
        return not same or self.k_eq_v_global

    def attention_shape(self, kind: str) -> tuple[int, int]:
        """(key/value heads, head size) of a layer of this kind."""
        if kind == "global":
            return self.global_kv_heads or self.num_kv_heads, self.global_head_dim or self.head_dim
        return self.num_kv_heads, self.head_dim

    def with_canvas_window(self, columns: int) -> "ModelConfig":
        """The same stack whose canvas sees this many prefix columns in local layers. InputError where no canvas does."""
        _require(
            self.attention == "prefix_canvas" and "local" in self.layer_kinds,
            f"canvas_window={columns!r} means nothing: {self.family} has no canvas with local layers; leave it out",
        )
        _require(
            isinstance(columns, int) and not isinstance(columns, bool) and 1 <= columns <= self.max_position,
            f"canvas_window={columns!r}: must be a whole number in 1..{self.max_position}",
        )
        return replace(self, canvas_window=columns)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `from_json` is its exact inverse."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_json`; an unknown or missing key is an InputError."""
        values = dict(values)
        for name, nested in (("rope", RopeConfig), ("rope_local", RopeConfig), ("tokens", TokenIds)):
            if values.get(name) is not None:
                values[name] = _build(nested, values[name])
        return _build(cls, values)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _build(cls: type, values: dict[str, Any]) -> Any:
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(values) - known)
    _require(not unknown, f"{cls.__name__}: unknown key {', '.join(unknown)}")
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{cls.__name__}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check_sizes(config: ModelConfig) -> None:
    for name, limit in _LIMITS.items():
        value = getattr(config, name)
        _require(0 <= value <= limit, f"{name} {value} is outside 0..{limit}")
    for name in ("vocab_size", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "max_position"):
        _require(getattr(config, name) > 0, f"{name} must be positive, got {getattr(config, name)}")
    _require(config.norm_eps > 0, f"norm_eps must be positive, got {config.norm_eps}")


def _check_choices(config: ModelConfig) -> None:
    choices = {
        "attention": ATTENTIONS,
        "activation": ACTIVATIONS,
        "prediction": ("same", "next"),
        "noise": ("mask", "uniform", "none"),
        "router_score": ("softmax", "sigmoid"),
        "param_dtype": ("float32", "bfloat16", "float16"),
    }
    for name, allowed in choices.items():
        value = getattr(config, name)
        _require(value in allowed, f"{name} {value!r} is unknown; one of {', '.join(allowed)}")


def _check_attention(config: ModelConfig) -> None:
    for kind in ("global", "local"):
        kv_heads, head_dim = config.attention_shape(kind)
        _require(
            config.num_heads % kv_heads == 0, f"num_heads {config.num_heads} is no multiple of {kv_heads} kv heads"
        )
        rope = config.rope_local if kind == "local" and config.rope_local else config.rope
        rotary = head_dim if rope.rotary_dim is None else rope.rotary_dim
        _require(rotary % 2 == 0, f"rotary_dim {rotary} must be even")
        _require(0 < rotary <= head_dim, f"rotary_dim {rotary} must be in 1..head_dim {head_dim}")
    _require(
        len(config.layer_kinds) in (0, config.num_layers),
        f"layer_kinds has {len(config.layer_kinds)} entries, num_layers is {config.num_layers}",
    )
    wrong = sorted(set(config.layer_kinds) - {"global", "local"})
    _require(not wrong, f"layer_kinds holds {wrong}; each is 'global' or 'local'")
    _require("local" not in config.layer_kinds or config.sliding_window > 0, "local layers need sliding_window > 0")
    blocks = config.attention in ("block_causal", "prefix_canvas")
    _require(not blocks or config.block_size > 0, f"attention {config.attention!r} needs block_size > 0")


def _check_experts(config: ModelConfig) -> None:
    if config.num_experts == 0:
        _require(config.intermediate_size > 0, "intermediate_size must be positive for a dense feed-forward")
        return
    _require(config.expert_size > 0, "num_experts > 0 needs expert_size > 0")
    _require(config.gated_mlp, "experts are gated: gated_mlp=False needs num_experts=0")
    _require(
        config.num_experts % config.n_group == 0,
        f"num_experts {config.num_experts} is no multiple of n_group {config.n_group}",
    )
    _require(
        1 <= config.topk_group <= config.n_group,
        f"topk_group {config.topk_group} must be in 1..n_group {config.n_group}",
    )
    reachable = config.topk_group * config.num_experts // config.n_group
    _require(
        1 <= config.top_k <= reachable, f"top_k {config.top_k} must be in 1..{reachable} (experts in topk_group groups)"
    )
    dense = config.first_dense_layers
    _require(
        0 <= dense <= config.num_layers, f"first_dense_layers {dense} must be in 0..num_layers {config.num_layers}"
    )
    needs_dense = dense > 0 or config.moe_parallel_dense
    _require(not needs_dense or config.intermediate_size > 0, "dense layers need intermediate_size > 0")


def _check_tokens(config: ModelConfig) -> None:
    mask = config.tokens.mask
    if config.noise == "mask":
        _require(mask is not None, "noise 'mask' needs tokens.mask")
    if mask is not None:
        _require(0 <= mask < config.vocab_size, f"tokens.mask {mask} is outside 0..{config.vocab_size - 1}")
