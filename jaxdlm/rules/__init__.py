"""Parts of policies, named by what they do: `jd.chain(jd.rules.sample(), jd.rules.select_above(0.9))`.

Here lie the parts that more than one policy may want; each module has what its paper needs beside.
"""

from jaxdlm.rules.backtrack import select_and_backtrack
from jaxdlm.rules.block_diffusion import select_scheduled, select_within_entropy, stop_after_block
from jaxdlm.rules.ccd import select_coherent, select_stable
from jaxdlm.rules.count_bonus import count_bonus
from jaxdlm.rules.credit import add_credit, select_above_or_tied
from jaxdlm.rules.daedal import fill_and_expand
from jaxdlm.rules.dawn import select_independent
from jaxdlm.rules.dilated import select_dilated
from jaxdlm.rules.dparallel import select_below_entropy, shifted_neg_entropy
from jaxdlm.rules.edit import edit
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.grammar import constrain, plan, steer
from jaxdlm.rules.guidance import guidance
from jaxdlm.rules.guided import guided
from jaxdlm.rules.hierarchical import select_by_runs
from jaxdlm.rules.indel import indel
from jaxdlm.rules.keep_best import keep_best
from jaxdlm.rules.klass import select_converged
from jaxdlm.rules.learn2pd import FilterWeights, end_at_text, select_by_filter
from jaxdlm.rules.local_leap import select_near_anchors
from jaxdlm.rules.multi_block import multi_block
from jaxdlm.rules.per_row import per_row
from jaxdlm.rules.pipeline import select_in_pipeline
from jaxdlm.rules.prophet import finish_when_clear
from jaxdlm.rules.rank import best_columns, ranks
from jaxdlm.rules.remdm import select_and_revisit
from jaxdlm.rules.renoise import anneal, renoise, stop_when_stable
from jaxdlm.rules.sample import gumbel_max, inverse_cdf, log_prob, margin, neg_entropy, sample, uniform
from jaxdlm.rules.schedule import select_on_grid, select_top_k
from jaxdlm.rules.slow_fast import select_in_region
from jaxdlm.rules.sub_blocks import sub_blocks
from jaxdlm.rules.threshold import select_above, select_within_factor
from jaxdlm.rules.wino import select_and_verify

__all__ = [
    "FilterWeights", "add_credit", "anneal", "best_columns", "constrain", "count_bonus", "edit", "end_at_text", "fill_and_expand",
    "finish_when_clear",
    "guidance", "guided", "gumbel_max", "indel", "inverse_cdf", "keep_best", "log_prob", "margin", "multi_block", "neg_entropy",
    "per_row", "plan", "ranks", "renoise", "sample", "select_above", "select_above_or_tied", "select_and_backtrack",
    "select_and_revisit", "select_and_verify", "select_below_entropy", "select_by_filter", "select_by_runs",
    "select_coherent", "select_converged", "select_dilated", "select_in_pipeline", "select_in_region",
    "select_independent", "select_near_anchors",
    "select_on_grid", "select_scheduled", "select_stable", "select_top_k", "select_within_entropy",
    "select_within_factor", "shifted_neg_entropy", "steer", "stop_after_block", "stop_at_eos", "stop_when_stable",
    "sub_blocks", "uniform",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
