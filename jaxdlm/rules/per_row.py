"""A number of a policy that differs from row to row: it travels in the row's state, so that no value compiles again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.rule import PolicyWrapper
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Float32, Key, PyTree


class PerRowState(NamedTuple):
    number: Float32[Array, ""]  # the row's own value; whoever lays out the rows sets it
    state: PyTree  # of the rule inside


@struct.dataclass
class PerRow(PolicyWrapper):
    """See `per_row`."""

    inner: Any
    name: str = struct.field(pytree_node=False)

    def init(self, window: int, vocab: int) -> PerRowState:
        return PerRowState(jnp.float32(0), self.inner.init(window, vocab))

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        update, after = with_number(self.inner, self.name, state.number).apply(update, state.state, row, key)
        return update, PerRowState(state.number, after)


def _named(path: Any, name: str) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == name


def has_number(rule: Any, name: str) -> bool:
    """Whether the rule, or a rule inside it, has a field of this name."""
    return any(_named(path, name) for path, _ in jax.tree_util.tree_leaves_with_path(rule))


def with_number(rule: Any, name: str, value: Any) -> Any:
    """The rule with every field of this name, its members' included, set to the value."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: value if _named(path, name) else leaf, rule)


def per_row(rule: Any, name: str = "temperature") -> PerRow:
    """The rule, with its field `name` read from the row's state (`PerRowState.number`, float32).

    The field must be an array: rules may take shortcuts for plain numbers (`sample(0)` draws nothing).
    Raises InputError where the rule has no such field.
    """
    if not has_number(rule, name):
        raise InputError(f"this policy has no {name}: leave it out of the rows, or choose a policy that takes one")
    return PerRow(rule, name)
