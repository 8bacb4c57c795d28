"""Decoding diffusion language models in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdlm import distribution, registry
from jaxdlm.errors import InputError, Moved, Unfinished

if TYPE_CHECKING:
    from jaxdlm import caches, grammar, guides, methods, policies, rewards, rules, speculative, steppers, streams, viz
    from jaxdlm._decode import decode, stream
    from jaxdlm._load import LM, load
    from jaxdlm._planned import Planned, planned
    from jaxdlm.aligned.sample import AsapOutput, asap
    from jaxdlm.aligned.trie import AsapTrie
    from jaxdlm.core.carry import Row, Status, Update
    from jaxdlm.core.compose import Traits
    from jaxdlm.core.low_discrepancy import low_discrepancy
    from jaxdlm.core.rule import Chain, Rule, Stage, chain, need
    from jaxdlm.decisions.ask import decide
    from jaxdlm.decisions.choosing import choose
    from jaxdlm.decisions.output import Answers, Decision
    from jaxdlm.decisions.questions import Choice, Number, Option, Predicate, Score
    from jaxdlm.decisions.render import Template
    from jaxdlm.lengths import length_prior
    from jaxdlm.output import Output
    from jaxdlm.speculative import drafters

__version__ = distribution.VERSION

# What is not here yet when the package is imported, for it brings JAX: a name's module. Packages stand for themselves.
_HOMES = {
    "LM": "_load", "load": "_load",
    "Output": "output", "decode": "_decode", "stream": "_decode",
    "asap": "aligned.sample", "AsapOutput": "aligned.sample", "AsapTrie": "aligned.trie",
    "planned": "_planned", "Planned": "_planned",
    "decide": "decisions.ask", "choose": "decisions.choosing", "Answers": "decisions.output", "Decision": "decisions.output",
    "Choice": "decisions.questions", "Predicate": "decisions.questions", "Score": "decisions.questions",
    "Number": "decisions.questions", "Option": "decisions.questions", "Template": "decisions.render",
    "Update": "core.carry", "Row": "core.carry", "Status": "core.carry",
    "Traits": "core.compose",
    "length_prior": "lengths", "low_discrepancy": "core.low_discrepancy",
    "Chain": "core.rule", "Rule": "core.rule", "Stage": "core.rule", "chain": "core.rule", "need": "core.rule",
}  # fmt: skip
_PACKAGES = {
    "caches": "caches", "drafters": "speculative.drafters", "grammar": "grammar", "guides": "guides", "methods": "methods",
    "policies": "policies", "rewards": "rewards", "rules": "rules", "speculative": "speculative",
    "steppers": "steppers", "streams": "streams", "viz": "viz",
}  # fmt: skip
# Parts of policies that were here before `rules` had them
_MOVED = {
    "FilterWeights": "rules.FilterWeights", "NoCache": "caches.none", "coherent": "rules.select_coherent",
    "entropy_threshold": "rules.select_below_entropy", "eotp": "rules.end_at_text", "guidance": "rules.guidance",
    "gumbel_max": "rules.gumbel_max", "inverse_cdf": "rules.inverse_cdf", "learned_filter": "rules.select_by_filter",
    "log_prob": "rules.log_prob", "margin": "rules.margin", "neg_entropy": "rules.neg_entropy", "ranks": "rules.ranks",
    "sample": "rules.sample", "stable": "rules.select_stable", "stop_at_eos": "rules.stop_at_eos",
    "time_grid": "rules.select_on_grid", "top_k": "rules.select_top_k", "uniform": "rules.uniform",
}  # fmt: skip
_METHODS = registry.files(registry.METHODS)
__all__ = sorted({"InputError", "Unfinished", *_HOMES, *_PACKAGES, *_METHODS})


def __getattr__(name: str) -> Any:
    """A public name: a class or function, a package, or a method by its name."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"jaxdlm.{_HOMES[name]}"), name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"jaxdlm.{_PACKAGES[name]}")
    elif name in _METHODS:
        value = registry.method_of(name).build
    elif name in _MOVED:
        raise Moved(
            f"jaxdlm.{name} is now jaxdlm.{_MOVED[name]}; parts of policies are in jaxdlm.rules, and jaxdlm.threshold(0.9), "
            "say, is a whole policy: pass it to decode as it is, or chain parts: "
            "jd.chain(jd.rules.sample(), jd.rules.select_above(0.9))"
        )
    else:
        raise AttributeError(f"module 'jaxdlm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
