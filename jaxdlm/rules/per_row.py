"""Numbers of a policy that differ from row to row: they travel in the row's state, so that no value compiles again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.rule import PolicyWrapper
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Key, PyTree

TABLES = frozenset({"logit_bias"})  # fields with a number for each id of the vocabulary
WHOLE = frozenset({"top_k"})  # and those that are whole


def kind_of(name: str, vocab: int) -> tuple[tuple[int, ...], Any]:
    """(shape, type) of a field in the state of a row."""
    return (vocab,) if name in TABLES else (), np.int32 if name in WHOLE else np.float32


class PerRowState(NamedTuple):
    numbers: dict[str, Array]  # the row's own values by their names, see `kind_of`; whoever lays out the rows sets them
    state: PyTree  # of the rule inside


@struct.dataclass
class PerRow(PolicyWrapper):
    """See `per_row`."""

    inner: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def init(self, window: int, vocab: int) -> PerRowState:
        numbers = {name: jnp.zeros(*kind_of(name, vocab)) for name in self.names}
        return PerRowState(numbers, self.inner.init(window, vocab))

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        inner = self.inner
        for name in self.names:
            inner = with_number(inner, name, state.numbers[name])
        update, after = inner.apply(update, state.state, row, key)
        return update, PerRowState(state.numbers, after)


def _named(path: Any, name: str) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == name


def has_number(rule: Any, name: str) -> bool:
    """Whether the rule, or a rule inside it, has a field of this name."""
    return any(_named(path, name) for path, _ in jax.tree_util.tree_leaves_with_path(rule))


def number_of(rule: Any, name: str) -> Any:
    """The first field of this name in the rule; None: it has none."""
    return next((leaf for path, leaf in jax.tree_util.tree_leaves_with_path(rule) if _named(path, name)), None)


def with_number(rule: Any, name: str, value: Any) -> Any:
    """The rule with every field of this name, its members' included, set to the value."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: value if _named(path, name) else leaf, rule)


def per_row(rule: Any, *names: str) -> PerRow:
    """The rule, with its fields of these names (temperature) read from the row's state (`PerRowState.numbers`).

    The fields must be arrays: rules may take shortcuts for plain numbers (`sample(0)` draws nothing).
    Raises InputError where the rule has no such field.
    """
    names = names or ("temperature",)
    for name in names:
        if not has_number(rule, name):
            raise InputError(f"this policy has no {name}: leave it out of the rows, or choose a policy that takes one")
    return PerRow(rule, names)
