"""Paper-named recipes: each a chain of rules. `RECIPES` and `TABLE` serve decode, tests and documents alike."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument
from jaxdlm.caches.adaptive import adaptive
from jaxdlm.caches.block_exact import BlockExactCache
from jaxdlm.caches.delayed import delayed
from jaxdlm.caches.dual import dual
from jaxdlm.caches.encoder import EncoderCache
from jaxdlm.caches.layer_reuse import layer_reuse
from jaxdlm.caches.none import NoCache
from jaxdlm.caches.prefix import prefix
from jaxdlm.caches.recap import recap
from jaxdlm.caches.refresh import refresh
from jaxdlm.caches.sub_block import sub_block
from jaxdlm.core.heat import cold
from jaxdlm.core.rule import Rule, chain, released
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.models.config import ModelConfig
from jaxdlm.policy_words import parse_policy
from jaxdlm.rules.block_diffusion import block_diffusion, stop_after_block
from jaxdlm.rules.block_diffusion import entropy_bound as commit_entropy_bound
from jaxdlm.rules.ccd import coherent, stable
from jaxdlm.rules.credit import credit as raise_by_credit
from jaxdlm.rules.credit import tied_threshold
from jaxdlm.rules.dparallel import entropy_threshold, shifted_neg_entropy
from jaxdlm.rules.edit import edit
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.guidance import guidance
from jaxdlm.rules.indel import DELETE, INSERT, indel
from jaxdlm.rules.learn2pd import eotp as end_at_text
from jaxdlm.rules.learn2pd import learned_filter
from jaxdlm.rules.local_leap import local_leap as commit_near_anchors
from jaxdlm.rules.multi_block import multi_block
from jaxdlm.rules.prophet import prophet as leave_early
from jaxdlm.rules.renoise import renoise, settle, temper
from jaxdlm.rules.sample import log_prob, margin, neg_entropy, sample, uniform
from jaxdlm.rules.schedule import time_grid
from jaxdlm.rules.schedule import top_k as commit_top_k
from jaxdlm.rules.sub_blocks import sub_blocks
from jaxdlm.rules.threshold import factor as commit_factor
from jaxdlm.rules.threshold import threshold as commit_threshold
from jaxdlm.speculative import methods as drafts
from jaxdlm.speculative import trained
from jaxdlm.steppers.freedave import freedave as draft_and_verify

CACHES: dict[str, Callable[..., Any]] = {
    "none": NoCache,
    "prefix": prefix,
    "dual": dual,
    "block_exact": BlockExactCache,
    "sub_block": sub_block,
    "refresh": refresh,
    "delayed": delayed,
    "adaptive": adaptive,
    "recap": recap,
    "layer_reuse": layer_reuse,
    "encoder": EncoderCache,
}
# recipes that spread their commits evenly over `steps` forwards
SCHEDULED = ("low_confidence", "random", "maskgit_plus", "topk_margin", "entropy", "origin", "ccd")


def low_confidence(steps: Any = None, temperature: Any = 0.0, cfg_scale: Any = 0.0) -> Rule:
    """LLaDA's sampler: the k most probable proposals per forward, k from a uniform split of `steps` (2502.09992)."""
    return _llada(steps, temperature, cfg_scale, log_prob)


def random(steps: Any = None, temperature: Any = 0.0, cfg_scale: Any = 0.0) -> Rule:
    """LLaDA's sampler in random order (2502.09992)."""
    return _llada(steps, temperature, cfg_scale, uniform)


def _llada(steps: Any, temperature: Any, cfg_scale: Any, measure: Any) -> Rule:
    head = [] if _is_zero(cfg_scale) else [guidance(cfg_scale)]
    return chain(*head, sample(temperature, measure=measure), commit_top_k(steps))


def _is_zero(value: Any) -> bool:
    """A plain 0, which leaves a rule out; an array may be anything."""
    return type(value) in (int, float) and value == 0


def maskgit_plus(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's sampler ranking by probability, on its time grid (2508.15487). block = max_new: the whole canvas."""
    return _dream(steps, eps, alg_temp, temperature, top_p, top_k, log_prob)


def topk_margin(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's sampler ranking by the gap of the two best probabilities (2508.15487)."""
    return _dream(steps, eps, alg_temp, temperature, top_p, top_k, margin)


def entropy(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's sampler ranking by negative entropy (2508.15487)."""
    return _dream(steps, eps, alg_temp, temperature, top_p, top_k, neg_entropy)


def origin(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's default: every open column commits on its own with the grid's probability (2508.15487)."""
    if alg_temp is not None:
        raise InputError("origin has no ranking, so alg_temp means nothing: leave it out, or use maskgit_plus")
    proposal = sample(temperature, top_p=top_p, top_k=top_k, tempered=True)
    return chain(proposal, time_grid(steps, eps=eps, bernoulli=True))


def _dream(steps: Any, eps: Any, alg_temp: Any, temperature: Any, top_p: Any, top_k: Any, measure: Any) -> Rule:
    proposal = sample(temperature, top_p=top_p, top_k=top_k, measure=measure, tempered=True)
    return chain(proposal, time_grid(steps, eps=eps, alg_temp=alg_temp))


def threshold(tau: Any = 0.9, temperature: Any = 0.0) -> Rule:
    """Fast-dLLM: every column with probability >= tau, and the surest (2505.22618)."""
    return chain(sample(temperature), commit_threshold(tau))


def factor(factor: Any = 1.0, temperature: Any = 0.0, official: bool = False) -> Rule:
    """Fast-dLLM: the n surest with (n + 1)(1 - p_n) < factor (2505.22618)."""
    return released(chain(sample(temperature), commit_factor(factor, official=official)), official)


def local_leap(kappa: Any = 0.9, tau: Any = 0.75, radius: Any = 4, temperature: Any = 0.0) -> Rule:
    """LocalLeap: threshold kappa, and the lower tau within `radius` columns of a column that passes kappa (2510.07081)."""
    return chain(sample(temperature), commit_near_anchors(kappa, tau, radius))


def credit(
    alpha: Any = 0.65, beta: Any = 0.7, gamma: Any = 0.2, tau: Any = 0.9, adaptive: bool = False,
    official: bool = False, temperature: Any = 0.0, sparse: bool = True,
) -> Rule:  # fmt: skip
    """CreditDecoding: tokens that keep winning gather credit and cross the threshold earlier (2510.06133).

    official: dInfer's test, which takes near-ties with the best along; its constants are 0.7, 0.8, 0.2, 0.9.
    sparse: 8 W^2 bytes of state per row, which lose nothing here; False: 4 W V.
    """
    if argument.flag(adaptive, "adaptive"):
        argument.unused("with adaptive=True", alpha=(alpha, 0.65), beta=(beta, 0.7), gamma=(gamma, 0.2))
    commit = tied_threshold(tau) if argument.flag(official, "official") else commit_threshold(tau)
    credited = raise_by_credit(alpha, beta, gamma, adaptive=adaptive, sparse=sparse)
    return released(chain(credited, sample(temperature), commit), official)


def dparallel(threshold: Any = 0.5, temperature: Any = 0.0, official: bool = False) -> Rule:
    """dParallel's decoder: every column with entropy <= threshold nats, and the lowest (2509.26488).

    official: as in the released code for Dream, entropy < threshold with 1e-8 inside the logarithm; the default is
    that for LLaDA. The paper's speed needs its post-trained weights.
    """
    measure = shifted_neg_entropy if argument.flag(official, "official") else neg_entropy
    return released(
        chain(sample(temperature, measure=measure), entropy_threshold(threshold, strict=official)), official
    )


def d3llm(
    tau: Any = 0.5, add: Any = 0.1, temperature: Any = 0.0, early_stop: bool = True, official: bool = False
) -> Rule:
    """d3LLM's decoder: every column with entropy <= tau nats in several blocks at once (2601.07568).

    add: share of a block that is written when the next one opens. early_stop: none opens behind an end-of-text token.
    official: as released for the model's family (`multi_block`): for Dream entropy < tau; early_stop then fills the
    canvas behind the first end-of-text token while columns before it are open. The paper's speed needs its distilled
    weights.
    """
    return chain(
        sample(temperature, measure=neg_entropy), multi_block(tau, add, early_stop=early_stop, official=official)
    )


def prophet(
    host: Any = "low_confidence", steps: Any = None, answer_start: Any = None, answer_length: int = 5,
    thresholds: tuple[Any, Any, Any] = (7.5, 5.0, 2.5), official: bool = False,
) -> Rule:  # fmt: skip
    """Prophet: writes everything left once the answer's columns have a clear winner (2508.19982).

    host: a recipe's name, with arguments as in a shell, or a rule. Names of `SCHEDULED` get `steps`, and progress is
    counted in forwards; with any other host it is the share of columns written. answer_start: canvas column; default
    the last columns. The paper's suffix prompt ("The answer is") are words that stand in the canvas from the start:
    `decode(canvas=...)`.
    """
    counted = isinstance(host, str) and parse_policy(host)[0] in SCHEDULED
    if isinstance(host, str):
        host = _hosted(host, "prophet", {"steps": (steps, None)} if counted else {})
    if not counted and not argument.flag(official, "official"):
        argument.unused(f"unless the host is one of {', '.join(SCHEDULED)}", steps=(steps, None))
    progress = "forwards" if counted else "decoded"
    return leave_early(host, steps, answer_start, answer_length, thresholds, progress=progress, official=official)


def ccd(
    mode: str = "paper", steps: Any = None, depth: int = 3, top_v: int = 4, eps: Any = None, expand_ratio: Any = 4.0,
    confidence: str = "entropy",
) -> Rule:  # fmt: skip
    """CCD: a fixed number of columns per forward, coherent ones first (2512.02044).

    mode: "paper", or "release" for what its code does (block = max_new there). depth, top_v and eps (nats; `coherent`)
    belong to the first, expand_ratio to the second. confidence: "entropy" (Dream; the released code) or "probability"
    (LLaDA).
    """
    return _ccd(mode, steps, depth, top_v, eps, expand_ratio, confidence, dynamic=False)


def ccd_ds(
    mode: str = "paper", steps: Any = None, depth: int = 3, top_v: int = 4, eps: Any = None, expand_ratio: Any = 4.0,
    confidence: str = "entropy",
) -> Rule:  # fmt: skip
    """CCD-DS: every coherent column per forward (2512.02044). Arguments as in `ccd`."""
    return _ccd(mode, steps, depth, top_v, eps, expand_ratio, confidence, dynamic=True)


def learn2pd(
    tau: Any = 0.96, eotp: bool = True, weights: Any = "tiny", temperature: Any = 0.0, official: bool = False
) -> Rule:
    """Learn2PD: every column whose proposal a trained filter calls final; eotp: the canvas ends with the text (2509.25188).

    weights: see `learned_filter`; by default the filter that is shipped for `tiny`. official: the released EoTP, which
    cuts at an end-of-text token that is merely proposed.
    """
    argument.flag(official, "official")
    if not argument.flag(eotp, "eotp"):
        argument.unused("with eotp=False", official=(official, False))
    end = [end_at_text(aggressive=official)] if eotp else []
    trained = learned_filter("tiny" if weights is None else weights, tau)
    return released(chain(sample(temperature), trained, *end), official)


def _ccd(
    mode: str, steps: Any, depth: int, top_v: int, eps: Any, expand_ratio: Any, confidence: str, *, dynamic: bool
) -> Rule:
    argument.word(mode, "mode", ("paper", "release"))
    argument.word(confidence, "confidence", ("entropy", "probability"))
    released = stable(steps, dynamic=dynamic, expand_ratio=expand_ratio)
    published = coherent(steps, dynamic=dynamic, depth=depth, top_v=top_v, eps=eps)
    if mode == "release":
        argument.unused("with mode='release'", depth=(depth, 3), top_v=(top_v, 4), eps=(eps, None))
    else:
        argument.unused("with mode='paper'", expand_ratio=(expand_ratio, 4.0))
    proposal = sample(measure=neg_entropy if confidence == "entropy" else log_prob)
    return chain(proposal, released if mode == "release" else published)


def freedave(
    draft_steps: int = 4, host: Any = "low_confidence", steps: Any = None, temperature: Any = 0.0,
    official: bool = False,
) -> Rule:  # fmt: skip
    """FreeDave: the host's own tokens in fewer forwards, its next steps drafted and verified together (2510.00294).

    host: a recipe's name, with arguments as in a shell, which gets `steps` and `temperature`; or a rule, which has its
    own. "threshold" is FreeDave++. official: the release's acceptance, which is not lossless with such a host.
    """
    given = {"steps": (steps, None), "temperature": (temperature, 0.0)}
    if isinstance(host, str):
        takes = inspect.signature(RECIPES.get(parse_policy(host)[0], freedave)).parameters
        host = _hosted(host, "freedave", {name: pair for name, pair in given.items() if name in takes})
        given = {name: pair for name, pair in given.items() if name not in takes}
    argument.unused("to this host", **given)
    return draft_and_verify(host, draft_steps, official=official)


def _hosted(words: str, own: str, extra: dict[str, tuple[Any, Any]]) -> Rule:
    """The policy that a host's words stand for, with what `own`, the recipe that asks, adds: name -> (value, default)."""
    name, stated = parse_policy(words)
    if name not in RECIPES or name == own:
        raise InputError(
            f"host={argument.shown(words)}: must be a rule or one of {', '.join(n for n in RECIPES if n != own)}"
        )
    argument.unused(
        f"beside that of host={argument.shown(words)}", **{key: pair for key, pair in extra.items() if key in stated}
    )
    added = {key: value for key, (value, default) in extra.items() if value is not default and key not in stated}
    return read(words, added)


def best(
    alpha: Any = 0.65, beta: Any = 0.7, gamma: Any = 0.2, kappa: Any = 0.9, tau: Any = 0.75, radius: Any = 4,
    thresholds: tuple[Any, Any, Any] | None = None, answer_start: Any = None, answer_length: int = 5, eos: bool = True,
    draft_steps: int = 4, temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """Several methods at once: FreeDave around credit | sample | local_leap [| prophet] [| stop_at_eos].

    Each part is that of its own recipe and goes away with alpha = 0, radius = 0 and tau = kappa, thresholds = None,
    eos = False, draft_steps = 1. FreeDave changes no token; prophet needs the answer's columns and a whole-canvas view.
    """
    if _is_zero(alpha):
        argument.unused("with alpha=0", beta=(beta, 0.7), gamma=(gamma, 0.2))
    if thresholds is None:
        argument.unused("with thresholds=None", answer_start=(answer_start, None), answer_length=(answer_length, 5))
    credited = [] if _is_zero(alpha) else [raise_by_credit(alpha, beta, gamma, sparse=True)]
    host: Rule = chain(*credited, sample(temperature), commit_near_anchors(kappa, tau, radius))
    bars = (math.inf,) * 3 if thresholds is None else thresholds
    watched = leave_early(host, None, answer_start, answer_length, bars, progress="decoded")
    host = host if thresholds is None else watched
    host = chain(host, stop_at_eos()) if argument.flag(eos, "eos") else host
    drafted = draft_and_verify(host, draft_steps)  # which checks the number
    return drafted if draft_steps != 1 else host


def llada2(steps: Any = None, tau: Any = 0.95, minimal_topk: Any = 1, temperature: Any = 0.0) -> Rule:
    """LLaDA2: all with probability > tau or a scheduled number; stops after the block with end-of-text (2512.15745)."""
    return chain(sample(temperature), block_diffusion(steps, tau, minimal_topk), stop_after_block())


def llada21(
    tau_mask: Any = 0.7, tau_edit: Any = 0.5, max_post_steps: Any = 16, num_to_transfer: Any = 1, temperature: Any = 0.0
) -> Rule:
    """LLaDA2.1: writes all with probability > tau_mask, and rewrites what it has come to doubt (2602.08676).

    The defaults are its Quality preset; tau_mask = 0.5, tau_edit = 0 is Speed.
    """
    rule = edit(tau_mask, tau_edit, max_post_steps, num_to_transfer)
    return chain(sample(temperature), rule, stop_after_block())


def llada22(
    tau_mask: Any = 0.5, tau_edit: Any = 0.0, max_post_steps: Any = 16, delete: Any = DELETE, insert: Any = INSERT,
    temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """LLaDA2.2: as LLaDA2.1, and tokens of the block go and come: two words of its vocabulary delete and insert.

    delete, insert: their ids. Technical report of LLaDA2.2 (inclusionAI/LLaDA2.X); see `indel`.
    """
    return chain(
        sample(temperature), indel(tau_mask, tau_edit, max_post_steps, delete=delete, insert=insert), stop_after_block()
    )


READ_BY = {  # strategies of SDAR -> arguments
    "low_confidence_dynamic": ("steps", "tau"),
    "low_confidence_static": ("steps",),
    "sequential": ("steps",),
    "entropy_bounded": ("gamma",),
}


def sdar(
    steps: Any = None, strategy: str = "low_confidence_dynamic", tau: Any = 0.85, gamma: Any = 0.1,
    temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """SDAR: `steps` forwards per block; low_confidence_{static,dynamic}, sequential or entropy_bounded (2510.06303)."""
    rules = {
        "low_confidence_dynamic": block_diffusion(steps, tau),
        "low_confidence_static": block_diffusion(steps, None),
        "sequential": block_diffusion(steps, None, order="position"),
        "entropy_bounded": commit_entropy_bound(gamma),
    }
    argument.word(strategy, "strategy", rules)
    idle = {"tau": (tau, 0.85), "gamma": (gamma, 0.1), "steps": (steps, None)}
    for name in READ_BY[strategy]:
        del idle[name]
    argument.unused(f"with strategy={strategy!r}", **idle)
    measure = neg_entropy if strategy == "entropy_bounded" else log_prob
    return chain(sample(temperature, measure=measure), rules[strategy])


def fast_dllm_v2(tau: Any = 0.9, sub_block: Any = 8, temperature: Any = 0.0, top_p: Any = 0.95) -> Rule:
    """Fast-dLLM v2: sub-blocks from left to right, in each all with probability > tau, and the surest (2509.26328).

    tau: 0.9 as in the paper's fast setting; the released generate has 1, one column per forward. top_p: where
    temperature > 0; None: all tokens. The block's first column comes from the last row of the block before, alone; at
    temperature > 0 it is drawn like all others, where the release takes the arg-max.
    """
    argument.probability(top_p, "top_p", none=True)
    heat = argument.temperature(temperature)
    if argument.greedy(heat):
        proposal = sample(heat)
    else:
        kept = None if top_p is None else jnp.where(cold(heat), 1.0, top_p)
        proposal = sample(heat, top_p=kept, tempered=True)
    return chain(sub_blocks(chain(proposal, block_diffusion(None, tau)), sub_block), stop_at_eos())


def entropy_bound(
    gamma: Any = 0.1, steps: Any = 48, t_min: Any = 0.4, t_max: Any = 0.8, kappa: Any = 0.005, history: int = 1
) -> Rule:
    """DiffusionGemma: columns of low joint entropy are kept, all others drawn anew, until the canvas settles (2505.24857).

    steps: forwards per canvas at most. Decodes models with uniform noise; block = the canvas's length.
    """
    proposal = sample(1.0, measure=neg_entropy, tempered=True)
    again = (commit_entropy_bound(gamma), renoise(), settle(steps, kappa, history))
    return chain(temper(steps, t_min, t_max), proposal, *again, stop_after_block())


def default(config: ModelConfig) -> str:
    """The name of the policy that decodes a model where nobody asks for another.

    "threshold" where the model writes over masks, "entropy_bound" over uniform noise, "autoregressive" where it only
    continues a text.
    """
    if config.noise == "uniform":
        return "entropy_bound"
    return "threshold" if config.noise == "mask" and config.tokens.mask is not None else "autoregressive"


def read(words: str, extra: dict[str, Any] | None = None) -> Any:
    """The policy that `NAME[,key=value...]` says, as in a shell; `extra` wins over what the words say.

    Raises InputError for an unknown name or argument, and for what the recipe refuses.
    """
    return _built(words, RECIPES, "policy", extra or {})


def read_cache(words: str) -> Any:
    """The cache that `NAME[,key=value...]` says."""
    return _built(words, CACHES, "cache", {})


def _built(words: str, known: dict[str, Callable[..., Any]], thing: str, extra: dict[str, Any]) -> Any:
    name, arguments = parse_policy(words, thing)
    arguments |= extra
    if name not in known:
        hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
        raise InputError(f"unknown {thing} {argument.shown(name)}{hint}")
    takes = inspect.signature(known[name]).parameters
    wrong = [key for key in arguments if key not in takes]
    if wrong:
        raise InputError(f"{thing} {name!r} takes no {wrong[0]!r}: it takes {', '.join(takes) or 'no arguments'}")
    return known[name](**arguments)


class Entry(NamedTuple):
    """One row of `jaxdlm policies`."""

    name: str
    paper: str
    trained: bool
    lossless: str
    caches: tuple[str, ...]
    idea: str


RECIPES: dict[str, Callable[..., Any]] = {
    "low_confidence": low_confidence,
    "random": random,
    "maskgit_plus": maskgit_plus,
    "topk_margin": topk_margin,
    "entropy": entropy,
    "origin": origin,
    "threshold": threshold,
    "factor": factor,
    "local_leap": local_leap,
    "credit": credit,
    "dparallel": dparallel,
    "d3llm": d3llm,
    "prophet": prophet,
    "ccd": ccd,
    "ccd_ds": ccd_ds,
    "freedave": freedave,
    "learn2pd": learn2pd,
    "best": best,
    "llada2": llada2,
    "llada21": llada21,
    "llada22": llada22,
    "sdar": sdar,
    "fast_dllm_v2": fast_dllm_v2,
    "entropy_bound": entropy_bound,
    # for autoregressive models
    "autoregressive": drafts.autoregressive,
    "speculative": drafts.speculative,
    "eqspec": drafts.eqspec,
    "exspec": drafts.exspec,
    "spectr": drafts.spectr,
    "pearl": drafts.pearl,
    "easyspec": drafts.easyspec,
    "specdec_pp": trained.specdec_pp,
    "s2d": trained.s2d,
    "lookup": drafts.lookup,
}

ALL = tuple(name for name in CACHES if name != "encoder")  # for recipes that see one block; encoder: uniform noise
CANVAS = ("none", "prefix", "delayed", "adaptive", "recap", "layer_reuse")  # for those that see the whole canvas
STEPPERS = ("none", "prefix", "dual", "block_exact", "refresh")  # for those that send versions of a row

TABLE: tuple[Entry, ...] = (
    Entry("low_confidence", "2502.09992", False, "at one token per forward", ALL, "the k most probable"),
    Entry("random", "2502.09992", False, "no", ALL, "k at random"),
    Entry("maskgit_plus", "2508.15487", False, "no", ALL, "the most probable, on Dream's time grid"),
    Entry("topk_margin", "2508.15487", False, "no", ALL, "the largest gap of the two best, on the grid"),
    Entry("entropy", "2508.15487", False, "no", ALL, "the lowest entropy, on the grid"),
    Entry("origin", "2508.15487", False, "no", ALL, "each column on its own, on the grid"),
    Entry("threshold", "2505.22618", False, "no", ALL, "all with probability >= tau"),
    Entry("factor", "2505.22618", False, "no", ALL, "as many as their joint doubt allows"),
    Entry("local_leap", "2510.07081", False, "no", ALL, "threshold, lower next to sure columns"),
    Entry("credit", "2510.06133", False, "no", ALL, "threshold on logits raised by past wins"),
    Entry("dparallel", "2509.26488", True, "no", ALL, "all with entropy <= threshold"),
    Entry("d3llm", "2601.07568", True, "no", CANVAS, "all with entropy <= tau, in several blocks at once"),
    Entry("prophet", "2508.19982", False, "no", CANVAS, "everything once the answer is clear"),
    Entry("ccd", "2512.02044", False, "no", ALL, "the column that stayed coherent over forwards"),
    Entry("ccd_ds", "2512.02044", False, "no", ALL, "all that stayed coherent over forwards"),
    Entry(
        "freedave", "2510.00294", False, "yes, to its host", STEPPERS, "the host's next steps that its drafts foresaw"
    ),
    Entry("learn2pd", "2509.25188", True, "no", ALL, "all that a trained filter calls final; ends with the text"),
    Entry(
        "best", "2510.06133, 2510.07081, 2510.00294", False, "no", STEPPERS, "credit, local_leap and freedave together"
    ),
    Entry("llada2", "2512.15745", False, "no", ALL, "all with probability > tau, or a scheduled number"),
    Entry("llada21", "2602.08676", True, "no", ALL, "as llada2, and corrects what is written in the block"),
    Entry("llada22", "2602.08676", True, "no", ALL, "as llada21, and inserts and deletes in the block"),
    Entry("sdar", "2510.06303", False, "no", ALL, "a scheduled number per forward of a block, or more"),
    Entry("fast_dllm_v2", "2509.26328", False, "no", ALL, "all with probability > tau, one sub-block after the other"),
    Entry(
        "entropy_bound", "2505.24857", False, "no", ("none", "encoder"), "low joint entropy; the rest is noise again"
    ),
    Entry("autoregressive", "1706.03762", False, "yes", (), "the next token (autoregressive models)"),
    Entry("speculative", "2211.17192", False, "yes", (), "draft tokens that the target agrees with, and one more"),
    Entry("eqspec", "2510.22876", False, "yes", (), "the same, greedy, for ragged batches"),
    Entry("exspec", "2510.22876", False, "yes", (), "the same, some prompts of a pool at a time"),
    Entry("spectr", "2310.15141", False, "yes", (), "the best of several drafts, by optimal transport"),
    Entry("pearl", "2408.11850", False, "yes", (), "chunks, drafted while the last one is verified"),
    Entry("easyspec", "2502.02493", False, "yes", (), "as speculative, drafted with layers in parallel"),
    Entry("specdec_pp", "2405.19715", True, "yes", (), "drafts until a trained head expects a rejection"),
    Entry("s2d", "2407.01955", True, "yes", (), "as speculative, tokens leave the draft at the first sure exit"),
    Entry("lookup", "2304.04487", False, "yes", (), "what followed the last tokens earlier in the text"),
)
