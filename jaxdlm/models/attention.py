"""The attention of every family, and which implementation runs: plain XLA, cuDNN's on GPUs, a kernel on TPUs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, PartitionSpec

from jaxdlm.errors import InputError
from jaxdlm.models.explain import note
from jaxdlm.models.flash import flash, tile
from jaxdlm.typing import Array, Bool, Float

SCORES = 2**28  # bytes of float32 scores that one layer may hold at once
KEYS = 16  # new keys of a 16-bit forward come in multiples of
SHORTEST = 32  # queries in a chunk that is worth a trip
KINDS = ("auto", "xla", "cudnn", "flash")
WORTH = 128  # queries from which on cuDNN is asked: a block against a cache is read as well without it
WIDEST = 128  # head size that cuDNN takes on every GPU that has its flash attention

Parts = Array | tuple[Array, ...]
Attend = Callable[[Array, Parts, Parts, Array, float], Array]


@dataclass(frozen=True)
class Spread:
    """Mesh axes over which a program's rows and heads lie; heads None: on every device all of them."""

    mesh: Mesh
    rows: tuple[str, ...]
    heads: str | None


def choose(kind: str, alone: bool, spread: Spread | None = None) -> Attend:
    """The attention of a model: `attend`, or what `kind` asks for.

    auto: by the platform that the program is lowered for. A GPU: cuDNN's flash attention where it takes the shapes (16
    bits, heads of at most 128, from 128 queries on, keys in one part). A TPU: the kernel, where the plain form would
    have to go in chunks, shapes allow and it is known how devices share the work: the program is for one (`alone`), or
    `spread` says which rows and heads each has. Everything else, CPUs too: plain. All of them take any mask, so that
    no query sees a pad. Raises InputError for another kind.
    """
    if kind not in KINDS:
        raise InputError(f"attention={kind!r}: must be one of {', '.join(KINDS)}")
    ways: dict[str, Attend] = {
        "auto": functools.partial(automatic, alone=alone, spread=spread), "xla": attend, "cudnn": cudnn,
        "flash": functools.partial(kernel, spread=spread),
    }  # fmt: skip
    return ways[kind]


def automatic(
    q: Float[Array, "B T N H"], k: Parts, v: Parts, allow: Bool[Array, "B T S"], scale: float, *, alone: bool,
    spread: Spread | None = None,
) -> Float[Array, "B T N H"]:  # fmt: skip
    """See `choose`."""
    others: dict[str, Callable[..., Array]] = {}
    batch, queries, heads, _ = q.shape
    small = 4 * batch * heads * queries * allow.shape[2] <= SCORES
    parts = "keys are in parts" if isinstance(k, tuple) else None
    no_gpu = None if jax.default_backend() == "gpu" else "for GPUs"
    unknown = None if alone or spread else "nobody says how devices share the heads"
    of_cudnn = no_gpu or parts or _cudnn_takes(q)
    of_flash = parts or ("scores are small" if small else None) or unknown or _kernel_takes(allow)
    if of_cudnn is None:
        others["cuda"] = lambda q, k, v, allow: cudnn(q, k, v, allow, scale)
    if of_flash is None:
        others["tpu"] = lambda q, k, v, allow: kernel(q, k, v, allow, scale, spread)
    why = f"cudnn: {of_cudnn or 'on a GPU'}; flash: {of_flash or 'on a TPU'}; xla: elsewhere"
    note(f"attention, {batch} × {queries} queries over {allow.shape[2]} keys: {why}")
    if not others:
        return attend(q, k, v, allow, scale)
    plain = lambda q, k, v, allow: attend(q, k, v, allow, scale)  # noqa: E731
    return jax.lax.platform_dependent(q, k, v, allow, default=plain, **others)


def cudnn(
    q: Float[Array, "B T N H"], k: Parts, v: Parts, allow: Bool[Array, "B T S"], scale: float
) -> Float[Array, "B T N H"]:
    """`attend` by cuDNN, which never writes the scores. Raises InputError for shapes that it does not take."""
    if _cudnn_takes(q, least=1) is not None:
        raise InputError(f"attention='cudnn' {_cudnn_takes(q, least=1)}: use 'auto'")
    k, v = _whole(k), _whole(v)
    return jax.nn.dot_product_attention(q, k, v, mask=allow[:, None], scale=scale, implementation="cudnn")


def _cudnn_takes(q: Array, least: int = WORTH) -> str | None:
    """Why it does not; None: it does."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"wants 16 bits, these are {q.dtype}"
    if q.shape[3] > WIDEST or q.shape[3] % 8:
        return f"wants heads of at most {WIDEST} in steps of 8, these have {q.shape[3]}"
    return None if q.shape[1] >= least else f"wants {least} queries, these are {q.shape[1]}"


def kernel(
    q: Float[Array, "B T N H"], k: Parts, v: Parts, allow: Bool[Array, "B T S"], scale: float,
    spread: Spread | None = None,
) -> Float[Array, "B T N H"]:  # fmt: skip
    """`attend` by `flash`, each device on its own rows and heads where they are `spread`.

    Raises InputError for shapes that it does not take. Gradients are those of `attend`.
    """
    if _kernel_takes(allow) is not None:
        raise InputError(f"attention='flash' {_kernel_takes(allow)}: use 'auto'")
    inputs = (q, _whole(k), _whole(v), allow)
    if spread is None:
        return _kernel(*inputs, scale)
    return _split(lambda *own: _kernel(*own, scale), inputs, spread)


def _split(run: Callable[..., Array], inputs: tuple[Array, ...], spread: Spread) -> Array:
    """`run` on the part of each device: the compiler cannot split a kernel, and asks for one over all axes of the mesh.

    Where a part of the program around it is split by hand already (the groups of `jaxdlm batch`), over the others."""
    around = jax.sharding.get_abstract_mesh()
    free = frozenset(spread.mesh.axis_names) - frozenset(around.manual_axes)
    rows = tuple(axis for axis in spread.rows if axis in free)
    if inputs[0].shape[0] % int(np.prod([spread.mesh.shape[axis] for axis in rows])):
        rows = ()
    heads = spread.heads if spread.heads in free else None
    columns, seen = PartitionSpec(rows or None, None, heads, None), PartitionSpec(rows or None, None, None)
    mesh = spread.mesh if around.empty else None  # None: the one around
    one = jax.shard_map(
        run, mesh=mesh, in_specs=(*(columns,) * 3, seen), out_specs=columns, axis_names=free, check_vma=False
    )
    return one(*inputs)


def _kernel_takes(allow: Array) -> str | None:
    """Why it does not; None: it does."""
    fits = tile(allow.shape[1]) and tile(allow.shape[2])
    return None if fits else f"wants multiples of 128 columns, these are {allow.shape[1]} and {allow.shape[2]}"


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _kernel(q: Array, k: Array, v: Array, allow: Array, scale: float) -> Array:
    interpreted = functools.partial(flash, scale=scale, interpret=True)
    return jax.lax.platform_dependent(q, k, v, allow, tpu=functools.partial(flash, scale=scale), default=interpreted)


def _forward(q: Array, k: Array, v: Array, allow: Array, scale: float) -> tuple[Array, tuple[Array, ...]]:
    return _kernel(q, k, v, allow, scale), (q, k, v, allow)


def _backward(scale: float, residuals: tuple[Array, ...], change: Array) -> tuple[Array | None, ...]:
    q, k, v, allow = residuals
    return *jax.vjp(lambda q, k, v: attend(q, k, v, allow, scale), q, k, v)[1](change), None


_kernel.defvjp(_forward, _backward)


def _whole(x: Parts) -> Array:
    return _join(list(x), 1) if isinstance(x, tuple) else x


def attend(
    q: Float[Array, "B T N H"],
    k: Array | tuple[Array, ...],
    v: Array | tuple[Array, ...],
    allow: Bool[Array, "B T S"],
    scale: float,
    limit: int = SCORES,
) -> Float[Array, "B T N H"]:
    """softmax(q·kᵀ · scale + mask) · v; query head n reads key/value head n // G. What the others of this file compute, too.

    Keys and values [B, S, K, H] may come in parts (what is stored, then what is new), one softmax over all: joining
    them would copy the cache in every layer of every forward. Scores and softmax are float32. Forbidden keys get the
    smallest finite number, so that a padding query with no key at all still gives finite numbers. Where the scores of
    all queries would take more than `limit` bytes, queries go in equal chunks that do not: a query's result knows no
    other query.
    """
    k, v = (x if isinstance(x, tuple) else (x,) for x in (k, v))
    batch, queries, heads, _ = q.shape
    chunk = _chunk(queries, limit // (4 * batch * heads * allow.shape[2]))
    if chunk == queries:
        return _scores(q, k, v, allow, scale)
    pieces = (rearrange(x, "B (n C) ... -> n B C ...", C=chunk) for x in (q, allow))
    mixed = jax.lax.map(lambda piece: _scores(piece[0], k, v, piece[1], scale), tuple(pieces))
    return rearrange(mixed, "n B C N H -> B (n C) N H")


def _chunk(queries: int, most: int) -> int:
    """The longest equal chunk of at most `most` queries; all at once where only crumbs would do."""
    fitting = [size for size in range(1, queries + 1) if queries % size == 0 and size <= most]
    longest = max(fitting, default=1)
    return longest if longest >= min(queries, SHORTEST) else queries


def _scores(q: Array, k: tuple[Array, ...], v: tuple[Array, ...], allow: Array, scale: float) -> Array:
    """`attend` for queries whose scores may be held at once."""
    # heads lead and the queries of a group stand together: both products are plain batched ones, whose results need no
    # transposing; the scores are the largest array of a layer
    groups = q.shape[2] // k[0].shape[2]
    # 16 bits: one query is filled up to two, new keys to a multiple of `KEYS`, and sums are rounded once, so that neither
    # the number of rows nor that of new columns changes the order of a sum (see `layers.product`)
    narrow = q.dtype.itemsize <= 2
    single = narrow and groups * q.shape[1] == 1
    q, allow = (jnp.concatenate([x, x], axis=1) if single else x for x in (q, allow))
    if narrow and len(k) > 1 and (missing := -k[-1].shape[1] % KEYS):
        k, v = ((*x[:-1], jnp.pad(x[-1], ((0, 0), (0, missing), (0, 0), (0, 0)))) for x in (k, v))
        allow = jnp.pad(allow, ((0, 0), (0, 0), (0, missing)))
    grouped = rearrange(q, "B T (K G) H -> B K (G T) H", G=groups)
    scores = [jnp.einsum("bkxh,bskh->bkxs", grouped, part, preferred_element_type=jnp.float32) for part in k]
    whole = rearrange(_join(scores, 3) * scale, "B K (G T) S -> B K G T S", G=groups)
    whole = jnp.where(allow[:, None, None, :, :], whole, jnp.finfo(jnp.float32).min)
    weights = rearrange(jax.nn.softmax(whole, axis=-1).astype(q.dtype), "B K G T S -> B K (G T) S")
    split = jnp.split(weights, np.cumsum([part.shape[1] for part in k])[:-1].tolist(), axis=3)
    wide = jnp.float32 if narrow else None
    parts = (
        jnp.einsum("bkxs,bskh->bkxh", w, part, preferred_element_type=wide) for w, part in zip(split, v, strict=True)
    )
    mixed = rearrange(sum(parts).astype(q.dtype), "B K (G T) H -> B T (K G) H", G=groups)
    return mixed[:, :1] if single else mixed


def _join(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)
