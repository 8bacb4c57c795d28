"""What an answer may be: grammars for `decode`, compiled on the host to tables of states and classes of tokens.

    made = jaxdlm.grammar.json_schema(schema, lm)

A grammar holds for every token sequence that spells one of its texts, by the bytes of the tokens, and is kept in memory and
on disk by its words and the tokenizer (`jaxdlm.grammar.store`).
"""

from jaxdlm.grammar.checked import Checked
from jaxdlm.grammar.grammar import BUCKETS, Grammar, Tables
from jaxdlm.grammar.make import choices, json, json_schema, lark, regex, skeleton, unconstrained
from jaxdlm.grammar.slotted import Skeleton
from jaxdlm.grammar.tokens import FAR

__all__ = [
    "BUCKETS",
    "FAR",
    "Checked",
    "Grammar",
    "Skeleton",
    "Tables",
    "choices",
    "json",
    "json_schema",
    "lark",
    "regex",
    "skeleton",
    "unconstrained",
]


def __dir__() -> list[str]:
    return __all__
