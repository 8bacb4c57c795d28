"""fast_dllm_v2: all with probability > tau, one sub-block after the other (arXiv 2509.26328)."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain
from jaxdlm.core.temperature import is_cold
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import select_scheduled
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.sample import sample
from jaxdlm.rules.sub_blocks import sub_blocks


@method(
    paper="2509.26328",
    idea="all with probability > tau, one sub-block after the other",
    use="Fast-dLLM v2 checkpoints, with the cache `block_exact`, or `sub_block` at large batches",
    avoid="models of full attention: `threshold`",
    order=230,
)
def fast_dllm_v2(tau: Any = 0.9, sub_block: Any = 8, temperature: Any = 0.0, top_p: Any = 0.95) -> Rule:
    """Fast-dLLM v2: sub-blocks from left to right, in each all with probability > tau, and the surest (2509.26328).

    tau: 0.9 as in the paper's fast setting; the released generate has 1, one column per forward. top_p: where
    temperature > 0; None: all tokens. The block's first column comes from the last row of the block before, alone; at
    temperature > 0 it is drawn like all others, where the release takes the arg-max.
    """
    argument.probability(top_p, "top_p", none=True)
    temperature = argument.temperature(temperature)
    if argument.greedy(temperature):
        proposal = sample(temperature)
    else:
        mass = None if top_p is None else jnp.where(is_cold(temperature), 1.0, top_p)
        proposal = sample(temperature, top_p=mass, tempered=True)
    return chain(sub_blocks(chain(proposal, select_scheduled(None, tau)), sub_block), stop_at_eos())
