"""The public names of `jaxdlm`, gathered; see the package for why they are not in its own file."""

from jaxdlm import policies, speculative, viz
from jaxdlm._decode import Output, decode, stream
from jaxdlm._load import LM, load
from jaxdlm.caches.none import NoCache
from jaxdlm.core.carry import Draft, Row, Status
from jaxdlm.core.rule import Chain, Rule, Stage, chain, need
from jaxdlm.errors import InputError
from jaxdlm.rules.ccd import coherent, stable
from jaxdlm.rules.credit import credit
from jaxdlm.rules.dparallel import entropy_threshold
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.guidance import guidance
from jaxdlm.rules.learn2pd import FilterWeights, eotp, learned_filter
from jaxdlm.rules.local_leap import local_leap
from jaxdlm.rules.prophet import prophet
from jaxdlm.rules.rank import best, ranks
from jaxdlm.rules.sample import gumbel_max, inverse_cdf, log_prob, margin, neg_entropy, sample, uniform
from jaxdlm.rules.schedule import time_grid, top_k
from jaxdlm.rules.threshold import factor, threshold

__all__ = [
    "LM", "Chain", "Draft", "FilterWeights", "InputError", "NoCache", "Output", "Row", "Rule", "Stage", "Status",
    "best", "chain", "coherent", "credit", "decode", "entropy_threshold", "eotp", "factor", "guidance", "gumbel_max",
    "inverse_cdf", "learned_filter", "load", "local_leap", "log_prob", "margin", "need", "neg_entropy", "policies",
    "prophet", "ranks", "sample", "speculative", "stable", "stop_at_eos", "stream", "threshold", "time_grid", "top_k",
    "uniform", "viz",
]  # fmt: skip
