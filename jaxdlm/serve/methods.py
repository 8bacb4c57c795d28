"""The methods of a server: its own, and those that requests may name where it lets them choose."""

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdlm import policies as recipes
from jaxdlm import registry
from jaxdlm.batch.chunks import Chunks
from jaxdlm.batch.cli import read_policies
from jaxdlm.batch.engine import Policies, SlotEngine
from jaxdlm.batch.rows import Defaults
from jaxdlm.batch.run import defaults_of, make_engine
from jaxdlm.errors import InputError
from jaxdlm.policy_words import parse_policy, read
from jaxdlm.resolve import check, has_blocks, resolve_method
from jaxdlm.speculative.policy import Speculation

MOST = 32  # methods, with their numbers, that stay ready
PLAIN = int | float | bool | None


class Variant(NamedTuple):
    """A method at work: what decodes with it, and what its rows have that state nothing of their own."""

    engine: SlotEngine | Chunks
    defaults: Defaults


class Methods:
    """Variants by the words of their policy. choose: whether requests may name one."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, shape: Mapping[str, Any], raw: bool, stop: Any,
        chat: Mapping[str, Any], choose: bool,
    ) -> None:  # fmt: skip
        self.lm, self.cache, self.shape, self.raw, self.stop, self.chat = lm, cache, shape, raw, stop, chat
        self.own = self._variant(policies)
        self.choose = choose and not isinstance(policies.plain, Speculation)
        self._made: OrderedDict[str, Variant] = OrderedDict()

    def _variant(self, policies: Policies) -> Variant:
        shape = {**self.shape, "block": self.shape["block"] if has_blocks(policies.plain) else None}
        engine = make_engine(self.lm, policies, self.cache, **shape)
        defaults = defaults_of(
            self.lm, policies, max_new=shape["max_new"], seed=0, raw=self.raw, stop=self.stop, chat=self.chat
        )
        return Variant(engine, defaults)

    def of(self, words: str | None) -> Variant:
        """The variant of a policy, in words as of --policy. Raises InputError for what needs files, and for what no row of
        this server could be decoded with."""
        if words is None:
            return self.own
        if not self.choose:
            raise InputError("this server has one policy: leave policy out, or start it with --choose")
        if words not in self._made:
            check_plain(words)
            self._made[words] = self._variant(read_policies(words))
        self._made.move_to_end(words)
        while len(self._made) > MOST:
            self._made.popitem(last=False)
        return self._made[words]

    def listed(self) -> list[dict[str, Any]]:
        """The methods that a request may name: name, idea, paper, and their numbers with the defaults."""
        if not self.choose:
            return []
        named = [each for each in recipes.TABLE if not each.trained and self._works(each)]
        return [
            {"name": each.name, "idea": each.idea, "paper": each.paper, "numbers": numbers_of(each)} for each in named
        ]

    def _works(self, method: registry.Method) -> bool:
        try:
            policy = resolve_method(read(method.name))
            if isinstance(policy, Speculation):
                return False
            check(self.lm, policy, self.cache)
        except InputError:
            return False
        return True


def check_plain(words: str) -> None:
    """Raises InputError for a policy with anything but plain numbers and words: none of a request opens a file."""
    name, arguments = parse_policy(words)
    known = registry.methods()
    if name in known and known[name].trained:
        raise InputError(f"policy {name} needs weights of its own, which no request can bring: choose another one")
    if name in known and not known[name].needs:
        raise InputError(f"policy {name} goes left to right: choose one that writes over masks")
    for key, value in arguments.items():
        if not isinstance(value, PLAIN) and not (isinstance(value, str) and value.isidentifier()):
            raise InputError(f"policy argument {key} is neither a number nor one word: leave it out")


def numbers_of(method: registry.Method) -> list[dict[str, Any]]:
    """The numbers of a method that have a default: name, default, and whether it is whole."""
    parameters = inspect.signature(method.build).parameters.values()
    stated = [(each.name, each.default) for each in parameters if type(each.default) in (int, float)]
    return [{"name": name, "default": value, "whole": isinstance(value, int)} for name, value in stated]
