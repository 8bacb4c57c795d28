"""grammar: the text is a sentence of a regular language (automata as arrays: `jaxdlm.grammar`)."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.core.guide import Context, Guide, class_of, fit
from jaxdlm.errors import InputError
from jaxdlm.grammar import FAR, Checked, Grammar, Tables
from jaxdlm.guides._checked import CheckedGuide, checked
from jaxdlm.registry import guide
from jaxdlm.typing import Array, Bool, Float32, Int32


@runtime_checkable
class HasTables(Protocol):
    """A grammar of `jaxdlm.grammar`, or another that becomes tables."""

    def tables(self) -> Tables: ...


class Place(NamedTuple):
    """Where a row is in its sentence."""

    tables: Tables | None  # the row's own; None where the guide has one grammar for all rows
    state: Int32[Array, ""]
    room: Int32[Array, ""]  # tokens that the row may still write


@struct.dataclass
class GrammarGuide(Guide):
    """See `grammar`. tables: of all rows; None: each row brings its own (`layout.arrange_rows(guides=[Tables, ...])`)."""

    tables: Tables | None = None

    def check(self, lm: Any, max_new: int) -> None:
        if self.tables is not None:
            check_tables(self.tables, lm, max_new)

    def init(self, context: Context) -> Place:
        if self.tables is not None:
            return Place(None, jnp.asarray(self.tables.state, jnp.int32), context.room)
        if not isinstance(context.own, Tables):
            raise InputError("each row needs its own grammar here: give the guide one for all rows, or one to each row")
        return Place(context.own, context.own.state, context.room)

    def transform(self, logits: Float32[Array, "V"], state: Place) -> Float32[Array, "V"]:
        """A token is allowed iff the sentence can still be closed behind it with what the row has left."""
        tables = self.of(state)
        behind = tables.next[tables.state]
        open_ = (behind != 0) & (tables.distance[behind] <= state.room - 1)
        return jnp.where(fit(open_[tables.classes], logits.shape[0], False), logits, -jnp.inf)

    def advance(self, state: Place, token: Int32[Array, ""]) -> Place:
        tables = self.of(state)
        after = tables.next[tables.state, class_of(tables.classes, token)]
        return Place(state.tables, after, state.room - 1)

    def forced(self, state: Place) -> Int32[Array, ""]:
        tables = self.of(state)
        return tables.forced[tables.state]

    def nearer(self, state: Place) -> Int32[Array, ""]:
        tables = self.of(state)
        behind = tables.next[tables.state]
        left = jnp.where(behind != 0, tables.distance[behind], FAR)
        token = jnp.argmax(tables.classes == jnp.argmin(left)).astype(jnp.int32)
        return jnp.where(jnp.min(left) < FAR, token, -1)

    def dead(self, state: Place) -> Bool[Array, ""]:
        """Whether no text begins with what is written and fits."""
        tables = self.of(state)
        return (tables.state == 0) | (tables.distance[tables.state] > state.room)

    def of(self, place: Place) -> Tables:
        """The tables of a row, with its state."""
        tables = self.tables if place.tables is None else place.tables
        assert tables is not None
        return tables._replace(state=place.state)


def check_tables(tables: Tables, lm: Any, max_new: int) -> None:
    """Raises InputError for tables of another vocabulary, and where the shortest sentence does not fit."""
    ids, least = tables.classes.shape[0], int(np.asarray(tables.distance)[tables.state])
    if ids != lm.config.vocab_size:
        raise InputError(
            f"the grammar was made for {ids} ids, {lm.name} has {lm.config.vocab_size}: make it for this model"
        )
    if least > max_new:
        raise InputError(f"the grammar needs at least {least} tokens, max_new is {max_new}: raise max_new")


def _example(lm: Any) -> GrammarGuide:
    """Texts of even ids."""
    ids = np.arange(lm.config.vocab_size)
    live = (ids % 2 == 0) | np.isin(ids, lm.config.tokens.eos)
    table, accepting, distance, forced = (
        np.array([[0, 0], [0, 1]], np.int32),
        np.array([False, True]),
        np.array([FAR, 0], np.int32),
        np.array([-1, -1], np.int32),
    )
    made = Grammar("even", str(len(ids)), live.astype(np.int32), table, 1, accepting, distance, forced)
    return GrammarGuide(Tables(*(jnp.asarray(leaf) for leaf in made.tables())))


@guide(_example)
def grammar(language: Any) -> GrammarGuide | CheckedGuide:
    """A guide under which the answer is a sentence of the language, closed within the row's max_new tokens.

    Args:
        language: a grammar of `jaxdlm.grammar` for the model that decodes, or its tables.

    Token v is allowed in state s iff next[s, class v] is live and distance[next[s, class v]] <= room - 1, room = tokens
    that the row may still write. This renormalises token by token; it is not the target's law given that the text is a
    sentence.

    Raises:
        InputError: no grammar; when decoding, one of another vocabulary or whose shortest sentence is longer than max_new.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> names = jd.grammar.regex("(Alan|Kate)( , (Omar|Kate))+", lm)
        >>> policy = jd.autoregressive(guide=jd.guides.grammar(names))
        >>> jd.decode(lm, ["reverse : [ Alan , Omar ]"], policy=policy, max_new=9).text
        ['Alan , Omar , Kate']
    """
    if isinstance(language, Checked):
        return checked(language)
    tables = language.tables() if isinstance(language, HasTables) else language
    if not isinstance(tables, Tables):
        argument.refuse(language, "language", "a grammar such as jaxdlm.grammar.regex(...) makes, or its tables")
    return GrammarGuide(Tables(*(jnp.asarray(leaf) for leaf in tables)))
