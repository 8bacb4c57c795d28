"""pg_td: of the answers that a tree search over tokens completes, the one that earns most (arXiv 2303.05510)."""

import math
from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.rewards import likelihood, read_reward
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.pair import with_draft
from jaxdlm.speculative.planned_tree import Law
from jaxdlm.speculative.planning import PlanSearch
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp

MOST = 64


@method(
    paper="2303.05510",
    idea="the answer of the greatest reward that a tree search over tokens completes",
    use="a reward of whole answers that is worth many forwards: programs with tests",
    avoid="rewards that the likeliest answer has already",
    needs="",
    order=260,
)
def pg_td(
    reward: Any = None, rollouts: int = 32, k: int = 3, c: Any = 4.0, base: Any = 10.0, leaves: int = 1,
    generations: Any = None, enough: Any = None, guide: Any = None,
) -> Any:  # fmt: skip
    """PG-TD: Monte-Carlo tree search over the k likeliest tokens by P-UCB, argmax_z Q(s, z) + beta(s) p(z | s) sqrt(ln N(s)) /
    (1 + n(s, z)), beta = ln((N + base + 1) / base) + c, Q the greatest reward of the greedy answers behind z (2303.05510).

    reward: one of `jaxdlm.rewards`, a function of (tokens, start, length) inside the program, or a model or its name, which
    is `rewards.likelihood` of it; that of the target. `jaxdlm.speculative.planned` takes one that runs on the host, such as
    test cases. rollouts: of each prompt, 1 to 4096 (32; code: up to 5000). k: children of a node, 1 to 64 (3). c, base: of
    the exploration, at least 0 and above 0 (4, 10). leaves: rollouts of a prompt that are completed together, 1 to 64; with
    more than one they count as visits while they are under way (1; no more is the paper). generations: answers that the
    model completes, fewer than rollouts where it has them already (none: any number). enough: a reward that ends the search
    (none). guide: one of `jaxdlm.guides`, or a list of them; none. The answer is the first of the greatest reward found. A
    row's forwards are those of its rollouts, `drafted` the tokens that these read. Raises InputError for values out of
    range. Departures from the released code: greedy completions alone; the prompt's own greedy answer counts as found.
    """
    rollouts = argument.whole(1, 4096)(rollouts, "rollouts")
    law = Law(
        argument.number(c, "c", low=0), argument.number(base, "base", above=0),
        math.inf if enough is None else argument.number(enough, "enough"),
        argument.INT32 if generations is None else argument.number(generations, "generations", low=1, whole=True), rollouts,
    )  # fmt: skip
    shape = (rollouts + 1, argument.whole(1, MOST)(k, "k"), argument.whole(1, MOST)(leaves, "leaves"))

    def build(earns: Any) -> Speculation:
        return Speculation(Nothing(), warp(guide=guide), search=PlanSearch(earns, law, *shape))

    if isinstance(reward, str) or hasattr(reward, "tokenizer"):
        return with_draft(reward, lambda lm: build(likelihood(lm)), "reward")
    return build(None if reward is None else read_reward(reward))
