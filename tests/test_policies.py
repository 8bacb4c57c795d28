"""The tables of recipes and caches: every default constructs, every bad argument is refused by name."""

import dataclasses
import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, Rule, chain, load, policies
from jaxdlm.core.carry import Geometry
from jaxdlm.core.compose import walk_rules
from jaxdlm.resolve import check
from jaxdlm.rules import sample, select_above, stop_at_eos
from jaxdlm.speculative.policy import Speculation, Unloaded
from tests.conformance.toys import filter_weights, model, parameters
from tests.speculative.toys import model as causal

# what an argument may be given by mistake or by malice, of every type
HOSTILE = (
    None, True, "0.9", "", [1, 2], (), {}, object(), 1j, math.nan, math.inf, -math.inf, -1, -0.5, 2**31, 10**30, -(10**30),
    10**5000, 1e39, 3e38, 1e9, 10**9, 2 * 10**9, np.array([0.5, 0.5]), jnp.ones(2), np.float32("nan"), select_above,
)  # fmt: skip
GEOMETRY = Geometry(16, 4, 2)


@pytest.mark.parametrize("recipe", policies.RECIPES)
def test_every_default_constructs_and_says_why(recipe):
    built = policies.RECIPES[recipe]()
    assert isinstance(built, Rule | Speculation | Unloaded)
    assert policies.RECIPES[recipe].__doc__
    assert jax.tree.structure(built) == jax.tree.structure(policies.RECIPES[recipe]()), "two defaults trace twice"


def arguments(known):
    """(name, argument) of everything that a table's factories take."""
    return [(name, key) for name, make in known.items() for key in inspect.signature(make).parameters]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name"), arguments(policies.RECIPES))
def test_no_argument_gets_by_with_what_it_is_not(recipe, name):
    """It is refused in one line that names it, or makes a policy that is small and ends."""
    for value in HOSTILE:
        try:
            built = policies.RECIPES[recipe](**{name: value})
        except InputError as error:
            line = str(error)
            assert re.search("must be|means nothing|is no (model|rule)|leave it out", line), (
                f"{name}={value!r:.40}: {line}"
            )
            assert name in line and "\n" not in line and len(line) < 800
            continue
        listed = isinstance(value, list) and name != "source"  # ids
        assert name != "host" and not listed and not isinstance(value, dict | complex), f"{name}={value!r} passed"
        if isinstance(built, Rule):
            assert GEOMETRY.blocks <= int(built.forwards(GEOMETRY)) <= 2**31 - 1
            state = jax.eval_shape(lambda built=built: built.init(4, 48))
            assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) < 10**5
        for leaf in () if isinstance(built, Unloaded) else jax.tree.leaves(built):
            assert not np.isnan(np.asarray(leaf, np.float32)).any(), f"{name}={value!r:.40}"


@pytest.mark.parametrize(("cache", "name"), arguments(policies.CACHES))
def test_no_argument_of_a_cache_gets_by_with_what_it_is_not(cache, name):
    for value in HOSTILE:
        try:
            built = policies.CACHES[cache](**{name: value})
        except InputError as error:
            assert f"{name}=" in str(error) or f"{name} must" in str(error), f"{name}={value!r:.40}: {error}"
            assert "\n" not in str(error) and "must" in str(error)
        else:
            assert value in (None, 10**9), f"{name}={value!r} passed"
            assert jax.tree.structure(built) is not None


# a second value for every argument; a recipe's own where the common one means nothing to it
OTHER = {
    "steps": 3, "eps": 0.5, "alg_temp": 0.5, "temperature": 0.7, "cfg_scale": 1.0, "top_p": 0.5, "top_k": 3, "tau": 0.6,
    "length_penalty": 0.5, "early_stopping": True, "length": 2,
    "min_p": 0.1, "typical_p": 0.5, "factor": 0.5, "kappa": 0.8, "radius": 2, "alpha": 0.5, "beta": 0.5, "gamma": 0.5,
    "adaptive": True, "official": True, "sparse": False, "threshold": 0.3, "add": 0.3, "host": "random",
    "answer_start": 1, "answer_length": 3,
    "thresholds": (3.0, 2.0, 1.0), "mode": "release", "depth": 2, "top_v": 2, "expand_ratio": 2.0, "eos": False,
    "confidence": "probability", "draft_steps": 2, "eotp": False, "weights": filter_weights(), "minimal_topk": 2,
    "tau_mask": 0.3, "tau_edit": 0.3, "max_post_steps": 3, "num_to_transfer": 2, "delete": 1, "insert": 2,
    "strategy": "sequential", "sub_block": 2, "t_min": 0.1, "t_max": 0.9, "history": 2, "k": 2, "width": 2, "ngram": 2,
    "typical": True, "slots": 2, "chunk": 2, "group": 2, "calibrate": False, "early_stop": False, "k_min": 1, "k_max": 3,
    "guide": jd.guides.repetition(1.3), "order": "confidence", "base": 3, "theta": 0.3, "low": 0.3, "tau_min": 0.1,
    "sigma": 2.0, "explore": 3, "least": 3, "mu": 4, "eta": 2.0, "again": 2,
    "tau_back": 0.3, "full": 0.5, "paths": 3, "search": "best", "backoff": 0.1, "simulations": 9, "exploration": 1.814,
    "window": 4, "first": "repeat", "high": 9, "line": 4, "coupled": True, "null": 3,
    "budget": 12, "rollouts": 2, "nodes": 20, "keep": 3, "redraw": 2,
    "noise": "shared", "recount": False, "prompt": False, "source": [5, 6, 7],
    "verify": True, "halt": False, "compressor": "pool",
    "initial": 8, "candidates": 12, "leaves": 2, "generations": 5, "c": 2.0,
    "tau_induce": 0.3, "tau_low": 0.3, "tau_edge": 0.3, "tau_sink": 0.3, "layers": 2, "strict": True,
    "expand": 4, "look": 8, "enough": 0.3, "certain": 0.8,
}  # fmt: skip
OWN = {
    ("s2d", "thresholds"): 0.3,
    ("sjd", "low"): 2,
    ("wino", "tau"): 0.5,
    ("gad", "beta"): 5,
    ("self_speculation", "mode"): "quadratic",
    ("klass", "history"): 3,
    ("slow_fast", "history"): 3,
}
# beside which the argument means something
BESIDE = {
    ("ccd", "expand_ratio"): {"mode": "release"}, ("ccd_ds", "expand_ratio"): {"mode": "release"},
    ("sdar", "gamma"): {"strategy": "entropy_bounded"}, ("fast_dllm_v2", "top_p"): {"temperature": 0.5},
    ("best", "answer_start"): {"thresholds": (3.0, 2.0, 1.0)}, ("best", "answer_length"): {"thresholds": (3.0, 2.0, 1.0)},
    ("spectr", "width"): {"temperature": 0.5}, ("sjd", "line"): {"first": "repeat"}, ("sjd", "null"): {"cfg_scale": 1.0},
    **{("lud", name): {"verify": True} for name in ("temperature", "top_k", "top_p")},
    ("autoregressive", "null"): {"cfg_scale": 1.0}, ("gad", "tau"): {"beta": 5},
    ("distilled", "redraw"): {"keep": 3},
}  # fmt: skip
# files of training runs, drafts that need one, and functions: see the tests of each
TRAINED = {
    ("specdec_pp", "head"), ("specdec_pp", "draft"), ("s2d", "weights"), ("s2d", "draft"), ("aded", "table"),
    ("ppd", "weights"), ("eagle2", "weights"), ("eagle3", "weights"), ("dflash", "weights"), ("gad", "draft"),
    ("distilled", "weights"), ("lud", "weights"),
    *(("transfer_q", name) for name in ("reward", "baseline", "baseline_reward", "beta", "official")),
    ("pg_td", "reward"),
    *(("superposed", name) for name in ("table", "alpha", "mixture", "penalty", "smooth_first")),
}  # fmt: skip
REFUSED = {("origin", "alg_temp")}  # whatever it is


@functools.cache
def draft(recipe=""):
    return load("tiny" if recipe == "gad" else "tiny-draft")


@pytest.mark.parametrize(
    ("recipe", "name"), [pair for pair in arguments(policies.RECIPES) if pair not in TRAINED | REFUSED]
)
def test_every_argument_changes_the_policy(recipe, name):
    """And so it does in the words of a shell."""
    takes, beside = parameters(recipe), BESIDE.get((recipe, name), {})
    beside = beside | ({"draft": draft(recipe)} if "draft" in takes and name != "draft" else {})
    value = causal(1) if name == "draft" else OWN.get((recipe, name), OTHER[name])
    usual, other = policies.RECIPES[recipe](**beside), policies.RECIPES[recipe](**beside, **{name: value})
    if isinstance(usual, Unloaded):
        usual = usual.build(draft(recipe))
    same = jax.tree.structure(usual) == jax.tree.structure(other)
    leaves = zip(jax.tree.leaves(usual), jax.tree.leaves(other))
    assert not same or any(np.shape(a) != np.shape(b) or np.any(np.asarray(a) != np.asarray(b)) for a, b in leaves)
    if name == "guide":
        with pytest.raises(InputError, match="guide='repetition': must be a guide such as"):
            policies.read(f"{recipe},guide=repetition")
    elif name not in ("draft", "weights", "source") and "draft" not in takes:
        words = ",".join([recipe, *(f"{key}={each}" for key, each in (beside | {name: value}).items())])
        assert policies.read(words) == other


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("ccd", {"mode": "release", "depth": 2}, "depth=2 means nothing with mode='release'"),
        ("ccd_ds", {"expand_ratio": 2.0}, "expand_ratio=2.0 means nothing with mode='paper'"),
        ("credit", {"adaptive": True, "beta": 0.5}, "beta=0.5 means nothing with adaptive=True"),
        ("learn2pd", {"eotp": False, "official": True}, "official=True means nothing with eotp=False"),
        ("sdar", {"strategy": "sequential", "tau": 0.5}, "tau=0.5 means nothing with strategy='sequential'"),
        ("sdar", {"strategy": "entropy_bounded", "steps": 2}, "steps=2 means nothing"),
        ("sdar", {"gamma": 0.2}, "gamma=0.2 means nothing with strategy='low_confidence_dynamic'"),
        (
            "prophet",
            {"host": "threshold", "steps": 8},
            "steps=8 means nothing unless the host is one of low_confidence",
        ),
        ("freedave", {"host": "threshold", "steps": 8}, "steps=8 means nothing to this host"),
        (
            "freedave",
            {"host": chain(sample(), select_above(0.9)), "temperature": 0.5},
            "temperature=0.5 means nothing to",
        ),
        (
            "freedave",
            {"host": "random,steps=4", "steps": 8},
            "steps=8 means nothing beside that of host='random,steps=4'",
        ),
        ("best", {"alpha": 0, "gamma": 0.3}, "gamma=0.3 means nothing with alpha=0"),
        ("best", {"answer_start": 3}, "answer_start=3 means nothing with thresholds=None"),
    ],
)
def test_an_argument_that_the_others_leave_without_meaning_is_refused(recipe, given, message):
    with pytest.raises(InputError, match=message):
        policies.RECIPES[recipe](**given)


def test_words_are_read_as_in_a_shell():
    assert policies.read("threshold,tau=0.8") == jd.threshold(0.8)
    prophet = jd.prophet(thresholds=(7, 5, 2.5), answer_length=3)
    assert policies.read("prophet, thresholds=(7, 5, 2.5), answer_length=3") == prophet
    hosted = jd.prophet("threshold,tau=0.8")
    assert policies.read("prophet,host=(threshold,tau=0.8)") == hosted == jd.prophet(jd.threshold(0.8))
    assert jd.freedave(host="random,steps=4") == jd.freedave(host="random", steps=4)
    assert policies.read_cache("refresh,every=3,before=2") == jd.caches.refresh(every=3, before=2)
    for words, message in (
        ("treshold", "unknown policy 'treshold'.*did you mean 'threshold'"),
        ("threshold,tua=1", "policy 'threshold' takes no 'tua': it takes tau, temperature"),
        ("threshold,0.8", "policy argument '0.8' is not key=value"),
        ("threshold,tau=0.8,tau=0.9", "'tau' is given twice"),
        ("threshold,tau=none", "tau=None: must be a number from 0 to 1"),
        ("", "unknown policy ''"),
    ):
        with pytest.raises(InputError, match=message):
            policies.read(words)
    with pytest.raises(InputError, match="cache 'none' takes no 'every': it takes no arguments"):
        policies.read_cache("none,every=2")


@pytest.mark.parametrize("cache", policies.CACHES)
def test_every_cache_constructs(cache):
    built = policies.CACHES[cache]()
    assert built.window in ("block", "canvas")


def serves(rule: Rule, cache) -> bool:
    """Whether `decode` lets a policy have a cache; block_exact wants another model, which is not the policy's affair."""
    try:
        uniform = any(part.traits.noise == "uniform" for part in walk_rules(rule))
        attention = cache.attention or ("prefix_canvas" if uniform else "full")
        check(Toy(attention), rule, cache)
    except InputError:
        return False
    return True


class Toy:
    """As much of a model as the check looks at."""

    name = "tiny"

    def __init__(self, attention: str):
        noise = "uniform" if attention == "prefix_canvas" else "mask"
        config = model("same").config
        self.config = dataclasses.replace(config, attention=attention, block_size=4, noise=noise)
        self.model = model("same").model


def test_table_lists_every_recipe_with_caches_that_exist():
    assert [entry.name for entry in policies.TABLE] == list(policies.RECIPES)
    for entry in policies.TABLE:
        assert set(entry.caches) <= set(policies.CACHES), entry.name
        rule = policies.RECIPES[entry.name]()
        if isinstance(rule, Rule):
            served = {name for name in policies.CACHES if serves(rule, policies.CACHES[name]())}
            assert set(entry.caches) == served, f"{entry.name}: the caches that decode lets it have"
        assert entry.paper
        assert entry.idea


def test_origin_has_no_ranking_to_temper():
    with pytest.raises(InputError, match="leave it out"):
        policies.RECIPES["origin"](alg_temp=0.1)


def test_chain_is_associative_and_refuses_what_is_no_rule():
    one, two, three = sample(), select_above(0.9), stop_at_eos()
    assert chain(chain(one, two), three) == chain(one, chain(two, three)) == chain(one, two, three)
    with pytest.raises(InputError, match="at least one rule"):
        chain()
    with pytest.raises(InputError, match="no rule"):
        chain(sample(), 0.9)
