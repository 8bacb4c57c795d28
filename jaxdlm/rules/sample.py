"""Proposal and confidence: which token each column would take, and how sure the model is."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import LogitsAccess, Row, Update
from jaxdlm.core.compose import LOG_PROB, NEG_ENTROPY, Traits
from jaxdlm.core.filters import checked_filters, highest, likely, nucleus, typical
from jaxdlm.core.guide import fit
from jaxdlm.core.keys import column_gumbel, column_uniform
from jaxdlm.core.low_discrepancy import invert, read_uniforms, uniform_at
from jaxdlm.core.readout import Drawn, Summary, dense_logits, first_best, incoming, proposable, relative, summarise
from jaxdlm.core.rule import Stage
from jaxdlm.core.temperature import divisor_of, is_cold, scale_logits
from jaxdlm.typing import Array, Float32, Int32, Key

Measure = Callable[[Array, Array, Row, Array], Array]
Draw = Callable[[Array, Row, Array], Array]


def log_prob(logits: Float32[Array, "W V"], token: Int32[Array, "W"], row: Row, key: Array) -> Float32[Array, "W"]:
    """log softmax(logits)[token], accurate near 0: (l - m) - log1p(sum of the others' ratios to the best).

    A probability would round to 1.0 from 1 - 6e-8 on and leave the order of sure columns to chance.
    """
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    summary = summarise(dense_logits(logits))
    return _log_prob(summary._replace(own=jnp.where(token == summary.token, summary.top, chosen)))


def margin(logits: Float32[Array, "W V"], token: Int32[Array, "W"], row: Row, key: Array) -> Float32[Array, "W"]:
    """p_(1) - p_(2)."""
    return _margin(summarise(dense_logits(logits)))


def neg_entropy(logits: Float32[Array, "W V"], token: Int32[Array, "W"], row: Row, key: Array) -> Float32[Array, "W"]:
    """sum p log p, nats."""
    return _neg_entropy(summarise(dense_logits(logits)))


def _log_prob(summary: Summary) -> Float32[Array, "W"]:
    return summary.own - summary.top - jnp.log1p(summary.rest)


def _margin(summary: Summary) -> Float32[Array, "W"]:
    return -jnp.expm1(summary.second - summary.top) / (1 + summary.rest)


def _neg_entropy(summary: Summary) -> Float32[Array, "W"]:
    return summary.weighted / (1 + summary.rest) - jnp.log1p(summary.rest)


# measures that one pass over the vocabulary gives: a forward that needs no more never holds its logits
SUMMARISED: dict[Measure, Callable[[Summary], Array]] = {
    log_prob: _log_prob, margin: _margin, neg_entropy: _neg_entropy,
}  # fmt: skip


def uniform(logits: Float32[Array, "W V"], token: Int32[Array, "W"], row: Row, key: Array) -> Float32[Array, "W"]:
    """U[0, 1), independent of the logits."""
    return column_uniform(jax.random.fold_in(key, 1), row.position)


def gumbel_max(logits: Float32[Array, "W V"], row: Row, key: Array) -> Int32[Array, "W"]:
    """argmax(l + Gumbel): a draw from softmax(l)."""
    return first_best(logits + column_gumbel(key, row.position, logits.shape[1]))


def inverse_cdf(logits: Float32[Array, "W V"], row: Row, key: Array) -> Int32[Array, "W"]:
    """The first token whose cumulated probability exceeds u ~ U[0, 1): one random number per column, not V."""
    return invert(jax.nn.softmax(logits, axis=1), column_uniform(key, row.position))


DRAWS: dict[str, Draw] = {"gumbel_max": gumbel_max, "inverse_cdf": inverse_cdf}
BLIND = (margin, neg_entropy, uniform)  # measures that do not ask which token was drawn


KINDS: dict[Measure, str] = {
    log_prob: LOG_PROB, neg_entropy: NEG_ENTROPY, margin: "a gap of probabilities", uniform: "a random number",
}  # fmt: skip


@struct.dataclass
class Sample(Stage):
    """See `sample`."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("token", "score"))

    temperature: Any = 0.0
    top_p: Any = None
    top_k: Any = None
    min_p: Any = None
    typical_p: Any = None
    logit_bias: Any = None
    uniforms: Any = None
    measure: Measure = struct.field(pytree_node=False, default=log_prob)
    draw: Draw = struct.field(pytree_node=False, default=gumbel_max)
    tempered: bool = struct.field(pytree_node=False, default=False)
    greedy: bool = struct.field(pytree_node=False, default=True)

    @property
    def traits(self) -> Traits:
        temperature = None if self.greedy else self.temperature
        return self.declares._replace(makes=KINDS.get(self.measure), access=self._access, temperature=temperature)

    @property
    def _access(self) -> LogitsAccess:
        whole = (self.top_p, self.top_k, self.min_p, self.typical_p, self.logit_bias)
        read = self.measure not in SUMMARISED and self.measure is not uniform
        if read or any(number is not None for number in whole):
            return LogitsAccess.WHOLE
        if self.greedy:
            return LogitsAccess.SUMMARY
        return LogitsAccess.TILES if self.draw is gumbel_max else LogitsAccess.WHOLE

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        return (self._whole if self._access is LogitsAccess.WHOLE else self._tiled)(update, row, key), state

    def _whole(self, update: Update, row: Row, key: Array) -> Update:
        """From the logits of the whole vocabulary."""
        logits = update.logits
        if self.logit_bias is not None:
            logits = logits + fit(self.logit_bias, logits.shape[1], 0.0)[None]
            update = update._replace(logits=logits)
        shaped = self._filtered(logits if self.greedy else scale_logits(logits, divisor_of(self.temperature)))
        token = jax.lax.argmax(shaped, 1, jnp.int32)
        if not self.greedy:
            token = jnp.where(is_cold(self.temperature), token, self._draw(shaped, row, key))
        score = self.measure(shaped if self.tempered else logits, token, row, key)
        chosen = jnp.take_along_axis(shaped, token[:, None], axis=1)[:, 0]  # NaN where T is, and -inf if filtered out
        return self._proposed(update, token, score, row, jnp.max(logits, axis=1), chosen)

    def _draw(self, shaped: Float32[Array, "W V"], row: Row, key: Array) -> Int32[Array, "W"]:
        """Where the score asks which token was drawn, a column that waits must be drawn anew, or its law would change."""
        if self.uniforms is None:
            return self.draw(shaped, row, key)
        step, group = None if self.steady else row.step, row.group
        assert group is not None, "every row of the loop has one"
        one = lambda column, position: uniform_at(self.uniforms, group, column, position, step)  # noqa: E731
        return invert(jax.nn.softmax(shaped, axis=1), jax.vmap(one)(row.column, row.position))

    @property
    def steady(self) -> bool:
        """Whether a column keeps its number from forward to forward."""
        return self.uniforms is not None and self.measure in BLIND

    def _filtered(self, shaped: Float32[Array, "W V"]) -> Float32[Array, "W V"]:
        """Of these filters only `typical` may drop the best token: at T = 0 it would be none."""
        if self.top_p is not None:
            shaped = nucleus(shaped, self.top_p)
        if self.top_k is not None:
            shaped = highest(shaped, self.top_k)
        if self.min_p is not None:
            shaped = likely(shaped, self.min_p)
        if self.typical_p is not None and not self.greedy:
            shaped = typical(shaped, jnp.where(is_cold(self.temperature), 1.0, self.typical_p))
        return shaped

    def _tiled(self, update: Update, row: Row, key: Array) -> Update:
        """The same in one pass over the tiles of the vocabulary, if the logits are still the model's: tiles of the head."""
        drawn = None if self.greedy else self._drawn(row, key)
        summary = summarise(incoming(update), drawn)
        top = summary.top
        if drawn is not None:
            top = jnp.where(jnp.isnan(drawn.divisor), jnp.nan, top)
            summary = relative(summary, drawn.divisor) if self.tempered else summary
        if self.measure is uniform:
            score = uniform(update.logits, summary.token, row, key)
        else:
            score = SUMMARISED[self.measure](summary)
        return self._proposed(update, summary.token, score, row, top)

    def _drawn(self, row: Row, key: Array) -> Drawn:
        def noise(ids: Array) -> Array:
            return jnp.where(is_cold(self.temperature), 0.0, column_gumbel(key, row.position, ids))

        return Drawn(divisor_of(self.temperature), noise, self.tempered)

    def _proposed(self, update: Update, token: Array, score: Array, row: Row, *tops: Array) -> Update:
        """The update with proposals, their scores, and whether every open column had something to propose."""
        fine = jnp.stack([proposable(top, row.pending & row.exists) for top in tops]).all()
        return update._replace(token=token, score=score, finite=fine if update.finite is None else fine & update.finite)


def sample(
    temperature: Any = 0.0,
    *,
    top_p: Any = None,
    top_k: Any = None,
    min_p: Any = None,
    typical_p: Any = None,
    logit_bias: Any = None,
    measure: Measure = log_prob,
    draw: Any = gumbel_max,
    tempered: bool = False,
    uniforms: Any = None,
) -> Sample:
    """Proposes a token per column and scores it: token ~ softmax(l / T), T = 0: argmax l.

    Args:
        temperature: T from 0 (LLaDA's and Dream's default) to 1e30; below 1e-8 it is 0. Of an array what lies outside
            counts as the nearest of these. top_p, top_k, min_p, typical_p: filters on softmax(l / T), in this order
            (`jaxdlm.core.filters`); none of them changes T = 0.
        logit_bias: per id of the vocabulary, added to l before everything else, an array of shape (V,).
        measure: log_prob (LLaDA, arXiv 2502.09992), margin or neg_entropy (Dream, arXiv 2508.15487), uniform.
        draw: gumbel_max or inverse_cdf (the same distribution; one random number per column instead of V), or its name.
        tempered: read the measure off the tempered, filtered distribution (Dream) instead of softmax(l) (LLaDA).
        uniforms: for draw=inverse_cdf, the numbers of all samples of a prompt, float [N, C] from `jd.low_discrepancy(n,
            columns)` (arXiv 2502.14256): row i is for sample i of `decode(n=...)`, column j for the j-th canvas column. The
            law of a row stays what it is. Measures that do not ask which token was drawn (margin, neg_entropy, uniform)
            let a column keep its number until it is written, whatever the order; with others it changes in each forward,
            for all samples alike, so that only what is written in the same forward is even.
    Departure from official code: noise is added to logits in float32 rather than multiplied in float64; the
    distribution is the same, and so is (l - max l) / T, which no small T overflows. Raises InputError for T outside
    0..1e30, top_p or min_p outside [0, 1], typical_p outside [1e-6, 1], or top_k < 0,
    and uniforms that are none, or beside another draw.
    """
    temperature = argument.temperature(temperature)
    filters = checked_filters(top_p=top_p, top_k=top_k, min_p=min_p, typical_p=typical_p)
    if logit_bias is not None and len(getattr(logit_bias, "shape", ())) != 1:
        argument.refuse(logit_bias, "logit_bias", "an array with one number per id of the vocabulary, or none")
    draw = draw if callable(draw) else DRAWS[argument.check_choice(draw, "draw", DRAWS)]
    if uniforms is not None and draw is not inverse_cdf:
        argument.unused("with another draw than inverse_cdf", uniforms=(uniforms, None))
    uniforms = read_uniforms(uniforms)
    tempered, greedy = argument.flag(tempered, "tempered"), argument.greedy(temperature)
    return Sample(
        temperature, **filters, logit_bias=logit_bias, uniforms=uniforms, measure=measure, draw=draw, tempered=tempered,
        greedy=greedy,
    )  # fmt: skip
