"""Whether decisions keep their bits on this device wherever a row stands, and how far programs of other shapes are apart."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.batch.decisions import Readers, Row, decided, understand
from jaxdlm.batch.rows import Raw
from jaxdlm.decisions.output import Decision, RowAnswers
from jaxdlm.errors import InputError

MOST = 64  # rows that are read
ALONE = 8  # of them, each by itself as well
Told = dict[int, RowAnswers]  # by the number of the row


def self_check(raws: Iterable[Raw], lm: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured on the first rows that can be read.

    rows, questions. compared: decisions that were read again in programs of the same shape, in another order and alone;
    differing: those of them with other bits, which a device that keeps its promise has none of. largest: difference of the
    log p of the two likeliest options between programs of `shapes` sequences; flips: decisions with another winner there.
    reread: twice the largest, what `--reread` is for; 0 in float32, to which nothing is exacter.

    Raises InputError where no row can be read.
    """
    size = int(settings["batch"])
    usual = Readers(lm, settings)
    some = [raw for raw in itertools.islice(raws, MOST) if isinstance(understand(raw, usual, {}), Row)]
    if not some:
        raise InputError(
            "none of the rows can be read, so that there is nothing to check: ask without --self-check for the reasons"
        )
    whole = _answers(some, usual)
    turned = [some[at] for at in np.random.default_rng(0).permutation(len(some))]
    again = [_answers(turned, usual), *(_answers([raw], usual) for raw in some[:ALONE])]
    pairs = [pair for other in again for pair in _pairs(whole, other)]
    shapes = [other for other in (1, 2, 2 * size) if other != size]
    apart = [
        pair for other in shapes for pair in _pairs(whole, _answers(some, Readers(lm, {**settings, "batch": other})))
    ]
    largest = max((abs(_gap(a) - _gap(b)) for a, b in apart if a.logits and b.logits), default=0.0)
    kinds = [leaf.dtype for leaf in jax.tree.leaves(lm.params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    exact = all(kind == jnp.float32 for kind in kinds)
    return {
        "device": jax.devices()[0].device_kind, "rows": len(some), "questions": sum(map(len, whole.values())),
        "batch": size, "compared": len(pairs), "differing": sum(_bits(a) != _bits(b) for a, b in pairs),
        "shapes": shapes, "largest": largest, "flips": sum(a.value != b.value for a, b in apart),
        "reread": 0.0 if exact else 2 * largest,
    }  # fmt: skip


def _answers(raws: Sequence[Raw], readers: Readers) -> Told:
    rows = [row for raw in raws if isinstance(row := understand(raw, readers, {}), Row)]
    return {row.row: outcome.answers for row, outcome in decided(rows)}


def _pairs(whole: Told, other: Told) -> list[tuple[Decision, Decision]]:
    return [pair for row, answers in other.items() for pair in zip(whole[row].decisions, answers.decisions)]


def _bits(decision: Decision) -> str:
    """All that is told, nan included."""
    return repr((decision, decision.logits))


def _gap(decision: Decision) -> float:
    best = sorted(decision.logits or (), reverse=True)
    return best[0] - best[1] if len(best) > 1 else 0.0
