"""The one protocol of decoding methods, and how rules become one rule."""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.argument import shown
from jaxdlm.core import compose
from jaxdlm.core.cache import Cache
from jaxdlm.core.carry import Carry, Geometry, Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError, Moved
from jaxdlm.typing import Array, Int32, Key, PyTree

MOST = 2**31 - 1


@runtime_checkable
class Rule(Protocol):
    """A pure stage of a decoding policy, written for one row; the loop maps it over the batch.

    Implementations are `jaxdlm.struct.dataclass`es: numbers and weights are leaves (changing them never retraces), the
    structure is static. They subclass `Stage` for the defaults of the properties.
    """

    @property
    def traits(self) -> Traits: ...

    @property
    def members(self) -> tuple[Any, ...]: ...

    @property
    def stages(self) -> tuple[Any, ...]: ...

    def init(self, window: int, vocab: int) -> PyTree: ...

    def apply(self, update: Update, state: PyTree, row: Row, key: Key[Array, ""]) -> tuple[Update, PyTree]: ...

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int: ...


@struct.dataclass
class Decoding:
    """A policy and a cache on a model, in the columns of a batch: all that the loop needs beside the rows.

    Weights, policy and cache are leaves, so that new numbers in them find the same program; model and geometry are part of
    the structure.
    """

    model: Model = struct.field(pytree_node=False)
    params: PyTree
    policy: Rule
    cache: Cache
    geometry: Geometry = struct.field(pytree_node=False)


@runtime_checkable
class Stepper(Rule, Protocol):
    """A policy that decides itself what one forward is spent on; `core.loop.step` hands the carry over to it.

    Its traits, `init` and `forwards` are those of the policy inside: they say what the loop must provide.
    """

    def advance(self, carry: Carry, decoding: Decoding) -> Carry: ...


WERE = ("view", "uncond", "reads", "writes", "makes", "expects", "noise")  # attributes of rules before `Traits`


class Stage:
    """Defaults of a rule: no state, sees its block only, needs no unconditional logits.

    declares: its `Traits`; a rule whose traits follow from its fields overrides `traits`. members: the rules inside it.
    stages: the rules that one step applies one after the other. forwards: an upper bound on the forwards that a row may
    need; large numbers meet in `plus` and `times`.
    """

    declares: ClassVar[Traits] = Traits()

    def __init_subclass__(cls) -> None:
        moved = [name for name in WERE if name in vars(cls)]
        if moved:
            raise Moved(f"{cls.__name__}.{moved[0]}: a rule says this in its traits, declares = Traits({moved[0]}=...)")

    @property
    def traits(self) -> Traits:
        """What the rule says of itself."""
        return self.declares

    @property
    def members(self) -> tuple[Any, ...]:
        return ()

    @property
    def stages(self) -> tuple[Any, ...]:
        return (self,)

    def init(self, window: int, vocab: int) -> PyTree:
        return ()

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        return geometry.canvas  # one column per forward


class PolicyWrapper(Stage):
    """Defaults of a rule around a whole policy, the field `inner`: what it does not define itself is that of `inner`."""

    inner: Any
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # so that `dataclasses.replace` may take one

    @property
    def traits(self) -> Traits:
        own = self.inner.traits
        return Traits(
            writes=own.writes,
            view=own.view,
            uncond=own.uncond,
            access=own.logits_access,
            blind=own.blind,
            attention=own.attention,
        )

    @property
    def members(self) -> tuple[Any, ...]:
        return (self.inner,)

    def init(self, window: int, vocab: int) -> PyTree:
        return self.inner.init(window, vocab)

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        return self.inner.forwards(geometry)


@struct.dataclass
class Chain(Stage):
    """Rules applied one after the other; member i gets `fold_in(key, i)`. official: a recipe as released, see `released`."""

    rules: tuple[Any, ...]
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        parts = [rule.traits for rule in self.rules]
        fields = [part.writes for part in parts]
        return Traits(
            writes=None if None in fields else tuple({field: None for each in fields for field in each or ()}),
            view="canvas" if any(part.view == "canvas" for part in parts) else "block",
            uncond=any(part.uncond for part in parts), access=max(part.logits_access for part in parts),
            official=self.official, blind=any(part.blind for part in parts),
            attention=max(part.attention for part in parts),
        )  # fmt: skip

    @property
    def members(self) -> tuple[Any, ...]:
        return self.rules

    @property
    def stages(self) -> tuple[Any, ...]:
        return self.rules

    def init(self, window: int, vocab: int) -> PyTree:
        return tuple(rule.init(window, vocab) for rule in self.rules)

    def apply(self, update: Update, state: PyTree, row: Row, key: Key[Array, ""]) -> tuple[Update, PyTree]:
        states = []
        for index, (rule, old) in enumerate(zip(self.rules, state, strict=True)):
            update, new = rule.apply(update, old, row, jax.random.fold_in(key, index))
            states.append(new)
        return update, tuple(states)

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        bounds = [jnp.asarray(rule.forwards(geometry), jnp.int32) for rule in self.rules]
        return jnp.stack(bounds).max()


def chain(*rules: Any) -> Chain:
    """One rule out of several; nested chains are flattened, so that `chain` is associative.

    Raises InputError when called with nothing, with something that is not a rule, or with rules that contradict each
    other: two that replace each other's choice, one before what it needs, a score of another kind than it compares.

    Examples:
        >>> import jaxdlm as jd
        >>> policy = jd.chain(jd.rules.sample(), jd.rules.select_above(0.8), jd.rules.stop_at_eos())
        >>> len(policy.rules)
        3
    """
    flat: list[Any] = []
    for rule in rules:
        if not isinstance(rule, Rule):
            raise InputError(
                f"chain(...) got {shown(rule)}, which is no rule: pass rules such as sample(), select_above(0.9)"
            )
        if isinstance(rule, Stepper):
            raise InputError(
                f"{type(rule).__name__} steps on its own and is no stage: put the chain inside it, as its host"
            )
        flat.extend(rule.rules if isinstance(rule, Chain) else [rule])
    if not flat:
        raise InputError("chain() needs at least one rule, for example chain(sample(), select_above(0.9))")
    compose.order(flat)
    return Chain(tuple(flat), any(rule.official for rule in rules if isinstance(rule, Chain)))


def released(policy: Chain, official: bool) -> Chain:
    """The chain, marked if it does as released code does: rows then run on behind an end of text unless asked not to."""
    return dataclasses.replace(policy, official=official)


def plus(a: Any, b: Any) -> Int32[Array, ""]:
    """min(a + b, 2^31 - 1) of two int32 numbers from 0 on: bounds of forwards must not wrap around."""
    a, b = jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32)
    return jnp.minimum(a, MOST - b) + b


def times(count: int, each: Any) -> Int32[Array, ""]:
    """min(count each, 2^31 - 1), count from 1 on and each, int32, from 0 on."""
    each = jnp.asarray(each, jnp.int32)
    return jnp.where(each > MOST // count, MOST, jnp.minimum(each, MOST // count) * count)


def need(update: Update, *fields: str, rule: str) -> None:
    """Raises InputError at trace time when an earlier rule of the chain did not set a field."""
    for field in fields:
        if getattr(update, field) is None:
            maker = compose.MAKERS.get(field, "a rule that sets it")
            raise InputError(f"{rule} needs update.{field}: put {maker} before it in the chain")
