"""The protocol of guides: what bends the logits of a token by the text around it, in both engines."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree


class Context(NamedTuple):
    """What a guide knows of a row before its first token."""

    tokens: Int32[Array, "L"]  # the prompt, then room for the answer
    length: Int32[Array, ""]  # prompt tokens
    room: Int32[Array, ""]  # tokens that the row may write
    own: PyTree  # the row's own value, of `layout.arrange_rows(guides=...)`; () where there is none
    vocab: int  # ids of the target


class Guide:
    """Bends the logits of a token by the text around it. Written for one row; the loops map it over rows and nodes.

    Left to right that is the text before the token: `init`, `transform`, `advance`. A guide of `any_order` guides diffusion
    decoding as well, where columns are written in any order (`rules.guided`): there it is the known text on both sides.

    The target's logits at every node of a draft, those of the bonus and the draft model's own are each transformed with
    the state of the node's own text, before temperature, top-k and top-p. So a lossless method samples exactly what
    the guided target alone would, whatever was drafted.

    Implementations are `jaxdlm.struct.dataclass`es: numbers and tables are leaves, a new value compiles nothing again.
    A state is arrays. Leaves that `advance` hands on as they came in, such as tables, are kept once per row; only the
    others are copied to the nodes of a draft.
    """

    @property
    def any_order(self) -> bool:
        """Whether the state depends only on which tokens the text holds, or `bend` says otherwise what it does to a window."""
        return False

    def check(self, lm: Any, max_new: int) -> None:
        """Raises InputError where it means nothing to the model, or cannot be kept within max_new tokens."""

    def init(self, context: Context) -> PyTree:
        """The state behind the prompt."""
        return ()

    def transform(self, logits: Float32[Array, "V"], state: PyTree) -> Float32[Array, "V"]:
        """The logits of the next token; -inf forbids it. A row in which nothing is allowed ends with Status.NONFINITE.

        A draft model may know more or fewer ids than the target: bring tables to the logits' width by `fit`.
        """
        raise NotImplementedError

    def advance(self, state: PyTree, token: Int32[Array, ""]) -> PyTree:
        """The state with one more token, which may be a forbidden one: of a draft that will be refused."""
        return state

    def bend(self, logits: Float32[Array, "W V"], row: Row) -> Float32[Array, "W V"]:
        """The logits of a window of diffusion decoding: `transform` with the state behind all that is known of the text.

        Ends of text in the canvas do not count: there an end is written in every column up to the last.
        """
        text, answer = row.text, jnp.arange(row.text.tokens.shape[0]) >= row.text.prompt
        start = Context(text.tokens, text.prompt, text.tokens.shape[0] - text.prompt, (), logits.shape[1])

        def further(state: PyTree, column: tuple[Array, Array]) -> tuple[PyTree, None]:
            token, counts = column
            return jax.tree.map(lambda new, old: jnp.where(counts, new, old), self.advance(state, token), state), None

        state, _ = jax.lax.scan(further, self.init(start), (text.tokens, held(row) & answer))
        return jax.vmap(self.transform, in_axes=(0, None))(logits, state)

    def agree(
        self, commit: Bool[Array, "W"], token: Int32[Array, "W"], score: Float32[Array, "W"], row: Row
    ) -> Bool[Array, "W"]:
        """Of the columns that a step of diffusion decoding wants to write, those that may be written together.

        One by one they may be, as `bend` saw to it. At least one is left where there is one.
        """
        return commit

    def forced(self, state: PyTree) -> Int32[Array, ""]:
        """A token that the text can hardly go on without; -1: none is known. Only a draft: the target decides."""
        return jnp.int32(-1)

    def nearer(self, state: PyTree) -> Int32[Array, ""]:
        """A token that leads towards the end of the text by the shortest way; -1: none is known. Only a draft, too."""
        return jnp.int32(-1)


@struct.dataclass
class Several(Guide):
    """Guides one after the other; each reads the same context."""

    guides: tuple[Guide, ...]

    @property
    def any_order(self) -> bool:
        return all(guide.any_order for guide in self.guides)

    def check(self, lm: Any, max_new: int) -> None:
        for guide in self.guides:
            guide.check(lm, max_new)

    def init(self, context: Context) -> PyTree:
        return tuple(guide.init(context) for guide in self.guides)

    def transform(self, logits: Float32[Array, "V"], state: PyTree) -> Float32[Array, "V"]:
        for guide, own in zip(self.guides, state, strict=True):
            logits = guide.transform(logits, own)
        return logits

    def advance(self, state: PyTree, token: Int32[Array, ""]) -> PyTree:
        return tuple(guide.advance(own, token) for guide, own in zip(self.guides, state, strict=True))

    def bend(self, logits: Float32[Array, "W V"], row: Row) -> Float32[Array, "W V"]:
        for guide in self.guides:
            logits = guide.bend(logits, row)
        return logits

    def agree(
        self, commit: Bool[Array, "W"], token: Int32[Array, "W"], score: Float32[Array, "W"], row: Row
    ) -> Bool[Array, "W"]:
        for guide in self.guides:
            commit = guide.agree(commit, token, score, row)
        return commit

    def forced(self, state: PyTree) -> Int32[Array, ""]:
        each = jnp.stack([guide.forced(own) for guide, own in zip(self.guides, state, strict=True)])
        return each[jnp.argmax(each >= 0)]

    def nearer(self, state: PyTree) -> Int32[Array, ""]:
        each = jnp.stack([guide.nearer(own) for guide, own in zip(self.guides, state, strict=True)])
        return each[jnp.argmax(each >= 0)]


def held(row: Row) -> Bool[Array, "L"]:
    """Which positions of the text hold a token that counts: known ones, but for ends of text in the canvas."""
    text, prompt = row.text, jnp.arange(row.text.tokens.shape[0]) < row.text.prompt
    return text.known & (prompt | ~jnp.isin(text.tokens, jnp.array(row.ids.eos, jnp.int32)))


@struct.dataclass
class OfRow(Guide):
    """Each row brings a guide of its own as `Context.own`, all of one structure: their numbers and tables differ."""

    def init(self, context: Context) -> tuple[Guide, PyTree]:
        own: Guide = context.own
        return own, own.init(context._replace(own=()))

    def transform(self, logits: Float32[Array, "V"], state: tuple[Guide, PyTree]) -> Float32[Array, "V"]:
        return state[0].transform(logits, state[1])

    def advance(self, state: tuple[Guide, PyTree], token: Int32[Array, ""]) -> tuple[Guide, PyTree]:
        return state[0], state[0].advance(state[1], token)

    def forced(self, state: tuple[Guide, PyTree]) -> Int32[Array, ""]:
        return state[0].forced(state[1])

    def nearer(self, state: tuple[Guide, PyTree]) -> Int32[Array, ""]:
        return state[0].nearer(state[1])


def read_guide(value: Any, name: str = "guide") -> Guide | None:
    """The guide that an argument means: none, one, or a list of them."""
    if value is None or isinstance(value, Guide):
        return value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, Guide) for each in value):
        argument.refuse(value, name, "a guide such as jaxdlm.guides.repetition(1.2), a list of them, or none")
    return Several(tuple(value))


def joined(first: Guide | None, second: Guide | None) -> Guide | None:
    """Both, one after the other."""
    guides = [each for each in (first, second) if each is not None]
    return Several(tuple(guides)) if len(guides) > 1 else next(iter(guides), None)


def fit(values: Array, width: int, fill: Any) -> Array:
    """Values of ids, cut or filled up to so many ids."""
    missing = width - values.shape[0]
    return values[:width] if missing <= 0 else jnp.pad(values, (0, missing), constant_values=fill)


def class_of(classes: Int32[Array, "V"], token: Int32[Array, ""]) -> Int32[Array, ""]:
    """The class of a token; 0 for ids beyond the table."""
    return classes.at[token].get(mode="fill", fill_value=0)
