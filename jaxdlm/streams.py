"""When a stream is worth a decode: where its embeddings move to a new segment (selective decoding, VL-JEPA, arXiv 2512.10942)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument
from jaxdlm.typing import Array, Bool, Float32, Int32

__all__ = ["Stream", "begin", "gate", "segments", "step"]
MOST = 2**20  # numbers of an embedding


class Stream(NamedTuple):
    """The segment under way, and the frames behind it that may be a new one: how many, and their mean."""

    count: Float32[Array, ""]
    mean: Float32[Array, "D"]
    waiting: Float32[Array, ""]
    recent: Float32[Array, "D"]


def begin(width: int) -> Stream:
    """The state before the first frame, for embeddings of `width` numbers.

    Args:
        width: D.

    Raises:
        InputError: for a width below 1.

    Examples:
        >>> import jaxdlm as jd
        >>> import numpy as np
        >>> state = jd.streams.begin(2)
        >>> for frame in ([1.0, 0.0], [0.9, 0.0], [0.0, 1.0]):
        ...     state, opens = jd.streams.step(state, np.float32(frame), 0.5)
        ...     print(bool(opens))
        True
        False
        True
    """
    none = jnp.zeros(argument.whole(1, MOST)(width, "width"), jnp.float32)
    return Stream(jnp.float32(0), none, jnp.float32(0), none)


def ward(n: Array, mean: Array, k: Array, other: Array) -> Float32[Array, ""]:
    """sqrt(2 n k / (n + k)) |mean - other|: the root of twice what the merger of two segments adds to their squared error, so
    the distance of two single frames."""
    return jnp.sqrt(2 * n * k / jnp.maximum(n + k, 1)) * jnp.linalg.norm(mean - other)


@jax.jit
def step(
    state: Stream, embedding: Float32[Array, "D"], threshold: Any, patience: Any = 1
) -> tuple[Stream, Bool[Array, ""]]:
    """(the state one frame later, whether the stream has moved: decode this frame).

    A frame within Ward distance `threshold` of the segment joins it, and those that waited are passed over. Others wait, and one
    that is as far from those that wait begins their run anew; once `patience` of them are together farther than the
    threshold from the segment, they are the next one.

    Args:
        state: from `begin`, or from here.
        embedding: of the frame.
        threshold: tau, in units of the embeddings.
        patience: frames that must agree before the stream counts as moved; 1: at once.
    """
    n, mean, k, recent = state
    run = jnp.where(ward(k, recent, jnp.float32(1), embedding) <= threshold, k + 1, 1)
    late = jnp.where(run > 1, recent + (embedding - recent) / run, embedding)
    fits = (n > 0) & (ward(n, mean, jnp.float32(1), embedding) <= threshold)
    moved = (n == 0) | (~fits & (run >= patience) & (ward(n, mean, run, late) > threshold))
    whole = mean + (embedding - mean) / (n + 1)
    pick = lambda new, joined, waits: jnp.where(moved, new, jnp.where(fits, joined, waits))  # noqa: E731
    zero = jnp.zeros_like(mean)
    return Stream(pick(run, n + 1, n), pick(late, whole, mean), pick(0.0, 0.0, run), pick(zero, zero, late)), moved


@jax.jit
def _gate(embeddings: Array, threshold: Any, patience: Any) -> Array:
    first = Stream(jnp.float32(0), jnp.zeros_like(embeddings[0]), jnp.float32(0), jnp.zeros_like(embeddings[0]))
    return jax.lax.scan(lambda state, frame: step(state, frame, threshold, patience), first, embeddings)[1]


def gate(embeddings: Any, threshold: Any, patience: int = 1) -> Bool[np.ndarray, "T"]:
    """Which frames of a stream to decode: the first, and each with which it has moved to a new segment (see `step`).

    A frame's answer is that of the last frame that was decoded. It looks at no later frame.

    Args:
        embeddings: float [T, D], in their order.
        threshold: tau from 0 on: the larger, the fewer decodes; 0: every frame that differs from its segment.
        patience: frames that must agree, from 1 (default) on.

    Raises:
        InputError: for numbers out of range, and embeddings that are no finite [T, D].

    Examples:
        >>> import jaxdlm as jd
        >>> import numpy as np
        >>> jd.streams.gate(np.float32([[1, 0], [0.9, 0], [0, 1], [0.1, 1]]), 0.5).tolist()
        [True, False, True, False]
    """
    threshold = argument.number(threshold, "threshold", low=0)
    patience = argument.whole(1, MOST)(patience, "patience")
    return np.asarray(_gate(jnp.asarray(read_embeddings(embeddings)), threshold, patience))


def read_embeddings(value: Any) -> Float32[np.ndarray, "T D"]:
    """Embeddings as an array. Raises InputError for what is no finite [T, D]."""
    wanted = "finite numbers of shape (frames, width), at least one of each"
    try:
        frames = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # rows of several lengths
        argument.refuse(value, "embeddings", wanted)
    if frames.ndim != 2 or not frames.size or frames.dtype.kind not in "iuf" or not np.isfinite(frames).all():
        argument.refuse(value, "embeddings", wanted)
    return frames.astype(np.float32)


def segments(embeddings: Any, threshold: Any = None, count: int | None = None) -> Int32[np.ndarray, "T"]:
    """The segment of each frame, 0, 1, ...: neighbours merge by Ward distance, the nearest first, while it is at most
    `threshold`, or until `count` segments are left. With the whole stream at hand; `gate` looks at no later frame.

    Args:
        embeddings: float [T, D].
        threshold: tau from 0 on.
        count: segments to leave; exactly one of the two.

    Raises:
        InputError: for both or neither, numbers out of range, and embeddings that are no finite [T, D].

    Examples:
        >>> import jaxdlm as jd
        >>> import numpy as np
        >>> jd.streams.segments(np.float32([[1, 0], [0.9, 0], [0, 1], [0.1, 1]]), count=2).tolist()
        [0, 0, 1, 1]
    """
    frames = read_embeddings(embeddings).astype(np.float64)
    if (threshold is None) == (count is None):
        argument.refuse(count, "count", "given without a threshold, or left out beside one")
    tau = np.inf if threshold is None else float(argument.number(threshold, "threshold", low=0))
    least = 1 if count is None else argument.whole(1, len(frames))(count, "count")
    sizes, means = np.ones(len(frames)), frames
    while len(sizes) > least:
        gap = np.sqrt(2 * sizes[:-1] * sizes[1:] / (sizes[:-1] + sizes[1:])) * np.linalg.norm(
            np.diff(means, axis=0), axis=1
        )
        at = int(gap.argmin())
        if gap[at] > tau:
            break
        both = sizes[at] + sizes[at + 1]
        means[at] = (sizes[at] * means[at] + sizes[at + 1] * means[at + 1]) / both
        sizes[at] = both
        sizes, means = np.delete(sizes, at + 1), np.delete(means, at + 1, axis=0)
    return np.repeat(np.arange(len(sizes)), sizes.astype(int)).astype(np.int32)
