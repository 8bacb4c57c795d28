"""Texts of a regular language out of any policy: choices, regular expressions, JSON of a schema (`decode(regex=...)`).

The law of a step is the product of the columns on condition that the whole text belongs to the language: see
`jaxdlm.core.automaton`. `steer` shows it to the rules behind it, `plan` draws from it, `constrain` lets through what
agrees with one of its texts.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.core import automaton as language
from jaxdlm.core import compose
from jaxdlm.core import law as laws
from jaxdlm.core.automaton import NEG, Automaton, Columns
from jaxdlm.core.carry import Row, Status, Update, Witness
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.keys import column_gumbel
from jaxdlm.core.readout import first_best
from jaxdlm.core.rule import Stage, need
from jaxdlm.core.temperature import divisor_of, is_cold
from jaxdlm.errors import InputError
from jaxdlm.grammar.witness import nearest
from jaxdlm.rules.indel import Indel
from jaxdlm.rules.insert import before_sampler, behind_writes
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

TILT = 1e-5  # nats; what a column's law differs from the model's by rounding alone
CLASSES, TOKENS = 3, 4  # what `plan` draws with the key of a step
BEST = 8  # tokens of a column that a checker on the host may choose from


def language_of(row: Row, rule: str) -> Automaton | Witness:
    """The row's language. Raises InputError at trace time where it has none."""
    if row.grammar is None:
        raise InputError(f"{rule} needs a grammar: decode(..., regex=...), or choices=, json_schema=, json=, grammar=")
    return row.grammar


def automaton_of(row: Row, rule: str) -> Automaton:
    """The row's language as an automaton. Raises InputError at trace time where it has none."""
    made = language_of(row, rule)
    if isinstance(made, Witness):
        raise InputError(
            f"{rule} sums over the texts of an automaton, and depth=None makes none: give a depth, or leave it out"
        )
    return made


def text_columns(row: Row, automaton: Automaton | Witness, loose: Bool[Array, "W"]) -> Columns:
    """The columns of the row's text; `loose` are written ones that may change in this step."""
    text = row.exists & (row.column >= automaton.first) & (row.column < automaton.last)
    open_ = text & (row.pending | loose)
    return Columns(open_, text & ~open_, row.tokens)


def surest_of(mine: Bool[Array, "W"], likely: Float32[Array, "W"]) -> Int32[Array, ""]:
    """The column that is mended where none of what a step wants to write fits."""
    return jax.lax.argmax(jnp.where(mine, likely, -jnp.inf), 0, jnp.int32)


@struct.dataclass
class Steer(Stage):
    """See `steer`."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("logits",))

    temperature: Any = 1.0

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        automaton = automaton_of(row, "steer")
        columns = text_columns(row, automaton, jnp.zeros_like(row.pending))
        divisor = divisor_of(self.temperature)
        law = laws.law_of(update.logits, automaton, divisor)
        scores = language.with_fixed(law.sums, columns, automaton)
        inside = columns.open | columns.fixed
        rest = language.backward(scores, inside, automaton, language.segment_logsumexp)
        share = language.marginals(scores, inside, automaton, rest)
        gain = jnp.where(share > NEG / 2, share - law.sums, NEG)
        # what the grammar leaves as it is stays so to the bit, and so does a row of which no text is possible: `constrain`
        # ends that
        real = automaton.sizes[None, :] > 0
        bound = jnp.any(real & (jnp.abs(gain) > TILT), axis=1) & jnp.any(real & (gain > NEG / 2), axis=1)
        use = columns.open & bound
        logits = laws.tilted(law, gain, use, automaton)
        return update._replace(logits=logits, law=laws.law_behind(law, logits, share, use)), state


def steer(temperature: Any = 1.0) -> Steer:
    """l'_j(v) = T log Q_T(x_j = v): each column's distribution given that the whole text belongs to the row's grammar.

    Q_T is made of softmax(l / T), so that a sampler of temperature T behind it draws from the column's law: give both
    the same; 0 counts as 1. Confidences and entropies behind it are conditional, too: what the grammar forces has
    probability 1 and is written at once. Tokens that no text allows are at -inf. The columns' laws together are not the
    law of the text: put `constrain` behind the rules that write. Log-probabilities below -60 count as -60, so that no
    text is impossible but by the grammar. Chain it behind guidance, credit and other changes of logits. Cost per row and
    forward: one pass over the logits, then 2 W steps of as many operations as the automaton has edges.
    Raises InputError for T outside 0..1e30.
    """
    return Steer(argument.temperature(temperature))


@struct.dataclass
class Plan(Stage):
    """See `plan`."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("token", "score"), makes=LOG_PROB)

    temperature: Any = 0.0
    posterior: bool = struct.field(pytree_node=False, default=True)
    greedy: bool = struct.field(pytree_node=False, default=True)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        automaton = automaton_of(row, "plan")
        columns = text_columns(row, automaton, jnp.zeros_like(row.pending))
        inside = columns.open | columns.fixed
        divisor = divisor_of(self.temperature)
        law = laws.law_of(update.logits, automaton, divisor)
        logp, sums = law.of(update.logits), law.sums
        scores = language.with_fixed(sums, columns, automaton)
        rest = language.backward(scores, inside, automaton, language.segment_logsumexp)
        token = self._best(logp, columns, inside, automaton)
        if not self.greedy:
            drawn = self._drawn(logp, scores, rest, inside, automaton, row, key)
            token = jnp.where(is_cold(self.temperature), token, drawn)
        token = jnp.where(inside, token, jax.lax.argmax(logp, 1, jnp.int32))
        token = jnp.where(columns.fixed, columns.token, token)
        score = jnp.take_along_axis(logp, token[:, None], axis=1)[:, 0]
        if self.posterior:
            share = language.marginals(scores, inside, automaton, rest)
            own = automaton.classes[token][:, None]
            gain = jnp.take_along_axis(share, own, axis=1) - jnp.take_along_axis(sums, own, axis=1)
            score = jnp.where(columns.open, jnp.minimum(score + gain[:, 0], 0.0), score)
        return update._replace(token=token, score=score), state

    def _best(self, logp: Array, columns: Columns, inside: Array, automaton: Automaton) -> Int32[Array, "W"]:
        """The likeliest text."""
        scores = language.with_fixed(laws.class_bests(logp, automaton), columns, automaton)
        rest = language.backward(scores, inside, automaton, language.segment_best)
        return laws.token_of(logp, language.walk(scores, inside, rest, automaton), automaton)

    def _drawn(
        self, logp: Array, scores: Array, rest: Array, inside: Array, automaton: Automaton, row: Row, key: Array
    ) -> Int32[Array, "W"]:
        """A text drawn from Q: from left to right a class given what stands before, then a token of the class."""
        fold = jax.random.fold_in
        noise = column_gumbel(fold(key, CLASSES), row.position, scores.shape[1])
        symbols = language.walk(jnp.where(scores > NEG / 2, scores + noise, NEG), inside, rest, automaton)
        own = automaton.classes[None, :] == symbols[:, None]
        noise = column_gumbel(fold(key, TOKENS), row.position, logp.shape[1])
        return first_best(jnp.where(own, logp + noise, -jnp.inf))


def plan(temperature: Any = 0.0, *, posterior: bool = True) -> Plan:
    """Proposes a whole text of the row's grammar: T = 0 the likeliest one under prod_j softmax(l_j), else a draw from Q_T.

    It takes the place of `sample`. Whatever columns are committed of it agree with one text, so that nothing needs to be
    taken back. Score: log Q_T(x_j = v) (posterior=True), or the model's own log softmax(l_j / T)[v]. The likeliest text
    per block as in DINGO (2505.23061); there a block may end in any state, here only where the columns that are left
    suffice for an end. Raises InputError for T outside 0..1e30.
    """
    temperature = argument.temperature(temperature)
    return Plan(temperature, argument.flag(posterior, "posterior"), argument.greedy(temperature))


@struct.dataclass
class Constrain(Stage):
    """See `constrain`."""

    declares: ClassVar[Traits] = Traits(
        reads=("logits", "token", "commit", "fill", "reopen", "halt", "status"),
        writes=("token", "commit", "fill", "halt", "status"),
    )

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "commit", rule="constrain")
        made, none = language_of(row, "constrain"), jnp.zeros_like(row.pending)
        again = none if update.reopen is None else update.reopen & row.exists & ~row.prefilled
        fill = row.tokens if update.fill is None else update.fill
        changed = (fill != row.tokens) & row.exists & ~row.prefilled & ~row.pending & ~again
        columns = text_columns(row, made, changed | again)
        asked = jnp.asarray(update.commit, bool) & row.pending & row.exists
        mine = (asked | changed) & columns.open
        wish = jnp.where(changed, fill, update.token)
        if isinstance(made, Witness):
            tokens, agrees, feasible, own, witness = self._witness(update.logits, wish, mine, columns, row, made)
            update = update._replace(witness=witness)
        else:
            tokens, agrees, feasible, own = self._nearest(update, wish, mine, changed, columns, row, made)
        agreed = mine & agrees
        # of a set none of which fits, the surest column takes what fits; all of them do where this step ends the row, and
        # where more were to be written than masked again, but no more fit: such a rule counts on that to come to its end
        number, back = jnp.sum(mine), jnp.sum(again)
        stalls = (back > 0) & (number > back) & (jnp.sum(agreed) <= back)
        repair = jnp.asarray(update.halt, bool) | (row.ids.mask is None) | stalls
        forced = mine & ~agreed & (repair | (~jnp.any(agreed) & (jnp.arange(mine.shape[0]) == surest_of(mine, own))))
        write = (agreed | forced) & feasible
        token = jnp.where(forced & ~changed, tokens, update.token)
        commit = jnp.where(columns.open, write & ~changed, jnp.asarray(update.commit, bool)) & feasible
        fill = jnp.where(changed & columns.open, tokens, fill)
        status = jnp.where(feasible, jnp.asarray(update.status, jnp.int32), int(Status.INFEASIBLE))
        halt = jnp.asarray(update.halt, bool) | ~feasible
        fill = None if update.fill is None else jnp.where(feasible, fill, row.tokens)
        return update._replace(token=token, commit=commit, fill=fill, halt=halt, status=status), state

    def _nearest(
        self, update: Update, wish: Array, mine: Array, changed: Array, columns: Columns, row: Row, automaton: Automaton
    ) -> tuple[Array, Array, Array, Array]:
        """(the text that agrees with most of the wishes, of these the likeliest; where it agrees; whether there is one; the
        log-probabilities of its classes).

        `steer` has left the law of its own logits, which holds unless written columns may change. Where a step mends one
        column at most, the text has a token in that column alone: the logits are not passed over once more."""
        logits, rewrites = update.logits, update.fill is not None or update.reopen is not None
        own = update.law is not None and update.law.logits is logits and not rewrites
        law = update.law if own else laws.law_of(logits, automaton)
        of = lambda token: law.of(jnp.take_along_axis(logits, token[:, None], axis=1))[:, 0]  # noqa: E731
        symbol = jnp.arange(automaton.next.shape[1], dtype=jnp.int32)[None, :]
        wished = mine[:, None] & (automaton.classes[wish][:, None] == symbol)
        before = changed[:, None] & (automaton.classes[row.tokens][:, None] == symbol)
        scores = jnp.where(wished, of(wish)[:, None], law.sums)
        scores = language.with_fixed(scores, columns, automaton)
        inside = columns.open | columns.fixed
        wanted = 2 * wished.astype(jnp.int32) + before.astype(jnp.int32)
        symbols, feasible = language.most(wanted, scores, inside, automaton)
        agrees = symbols == automaton.classes[wish]
        likely = jnp.take_along_axis(law.sums, symbols[:, None], axis=1)[:, 0]
        if rewrites or update.halt is not False or row.ids.mask is None:
            best = laws.token_of(logits, symbols, automaton)
        else:
            best = laws.token_in(logits, symbols, surest_of(mine, likely), automaton)
        tokens = jnp.where(agrees & mine, wish, best)
        stays = changed & ~agrees & (symbols == automaton.classes[row.tokens])
        tokens = jnp.where(stays, row.tokens, tokens)
        return tokens, agrees, feasible, likely

    def _witness(
        self, logits: Float32[Array, "W V"], wish: Array, mine: Array, columns: Columns, row: Row, made: Witness
    ) -> tuple[Array, Array, Array, Array, Int32[Array, "C"]]:
        """The same by a checker on the host, which finds a text that agrees with much; then that text, in all columns."""
        canvas = made.text.shape[0]
        place = row.position[0] - row.column[0] + jnp.arange(canvas, dtype=jnp.int32)
        known = row.text.known.at[place].get(mode="fill", fill_value=False)
        token = row.text.tokens.at[place].get(mode="fill", fill_value=0)
        put = lambda x, new: x.at[row.column].set(new, mode="drop")  # noqa: E731
        fixed = put(known, columns.fixed)
        logp = jax.nn.log_softmax(logits, axis=1)
        best_logp, best = jax.lax.top_k(logp, min(BEST, logp.shape[1]))
        best = jnp.where(columns.open[:, None], best.astype(jnp.int32), -1)
        wide = lambda new, fill: put(jnp.full((canvas, *new.shape[1:]), fill, new.dtype), new)  # noqa: E731
        asked = wide(jnp.where(mine, wish, -1).astype(jnp.int32), -1)
        sides = made.number, made.text, made.first, made.last, fixed, token, asked, wide(best, -1), wide(best_logp, 0.0)
        text = jax.pure_callback(
            _nearest_texts, jax.ShapeDtypeStruct((canvas,), jnp.int32), *sides, vmap_method="broadcast_all"
        )
        tokens = text.at[row.column].get(mode="fill", fill_value=0)
        own = jnp.take_along_axis(logp, tokens[:, None], axis=1)[:, 0]
        return tokens, tokens == wish, text.at[made.first].get(mode="fill", fill_value=0) >= 0, own, text


def _nearest_texts(*sides: Any) -> np.ndarray:
    """`grammar.witness.nearest` of each row, whatever axes are in front."""
    arrays = [np.asarray(each) for each in sides]
    front = arrays[0].shape
    rows = [each.reshape(-1, *each.shape[len(front) :]) for each in arrays]
    texts = [
        nearest(int(number), text, int(first), int(last), *rest)
        for number, text, first, last, *rest in zip(*rows, strict=True)
    ]
    return np.stack(texts).reshape(*front, -1).astype(np.int32)


def constrain() -> Constrain:
    """Commits only what agrees with a text of the row's grammar: the text that agrees with most of what is to be written.

    Let K be the columns that the rules before want to write. Of all texts of the grammar that fit what is written,
    it takes one that agrees with most of K (ties: the likeliest classes of tokens), and lets through where they
    agree. So every written token belongs to one text that still fits the columns that are left, at every step;
    where all of K agrees with one text, nothing is changed. If no column of K agrees, the surest takes that text's
    token, so that a step is never lost; where the step ends the row, all of K take it. Rewritten columns (llada21)
    take the text's token. A row whose prefilled columns leave no text ends with Status.INFEASIBLE. Any order of
    commits, blocks, caches and remasking are allowed: the languages of DINGO (2505.23061), with a guarantee for the
    whole answer.
    """
    return Constrain()


def constrained(policy: Any, steered: bool = True) -> Any:
    """The policy, under the grammar of each row: `steer` in front of its sampler, `constrain` behind its last selection.

    steered: whether the grammars are automata, which `steer` needs; else there is `constrain` alone.
    A policy that has `constrain` or `plan` itself is left as it is, and one with `steer` gets the second alone.
    Raises InputError for one that moves text from column to column, of which no column's language is known.
    """
    parts = list(compose.walk_rules(policy))
    if any(isinstance(part, Constrain | Plan) for part in parts):
        return policy
    for part in parts:
        if isinstance(part, Indel) or (compose.moves(part) and not part.members):
            own = compose.name(part)
            raise InputError(f"{own} moves text from column to column, which no grammar follows: use another policy")
    if steered and not any(isinstance(part, Steer) for part in parts):
        policy = before_sampler(policy, _steer)
    return behind_writes(policy, constrain())


def _steer(sampler: Any) -> Steer:
    """At the temperature of the sampler's draws; at 1 where it draws nothing."""
    temperature = sampler.traits.temperature
    return steer(1.0 if temperature is None else temperature)
