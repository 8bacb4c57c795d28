"""Frozen dataclasses as pytrees: `flax.struct` with structures that differ wherever the classes do.

jaxlib 0.10 compares what `jax.tree_util.register_dataclass` (and so `flax.struct`) registers by fields alone. Classes
with the same fields are then one key of jit's caches, but for a few bits of a hash, and now and then a call runs the
program of another class: one in ten when sixty of them were called (tests/test_struct.py, with flax's decorator), and a
decode with `prefix` that of `dual`.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
from flax.struct import field

T = TypeVar("T", bound=type)

__all__ = ["dataclass", "field"]


@dataclass_transform(field_specifiers=(field,), frozen_default=True)
def dataclass(cls: T) -> T:
    """A frozen dataclass whose fields are leaves, or with `field(pytree_node=False)` part of the structure.

    `replace(**updates)` makes a changed copy. Departure from `flax.struct.dataclass`: see above; no state dicts.
    """
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    leaves: list[str] = []
    fixed: list[str] = []
    for each in dataclasses.fields(made):
        (leaves if each.metadata.get("pytree_node", True) else fixed).append(each.name)
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def flatten(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple([getattr(x, name) for name in leaves]), tuple([getattr(x, name) for name in fixed])

    def flatten_with_keys(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, structure = flatten(x)
        return tuple(zip(keys, children)), structure

    def unflatten(structure: tuple[Any, ...], children: tuple[Any, ...]) -> Any:
        return made(**dict(zip(leaves, children)), **dict(zip(fixed, structure)))

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    made.replace = lambda self, **updates: dataclasses.replace(self, **updates)
    return made
