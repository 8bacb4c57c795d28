"""Guides in the loop: what comes out is what the guided target alone would write, for every draft, row and batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, Status, decode, struct
from jaxdlm import speculative as S
from jaxdlm.core.guide import Guide
from jaxdlm.guides.grammar import GrammarGuide
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.drafters import Forced
from jaxdlm.speculative.guiding import nodes_of
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.pool import generate_pool
from jaxdlm.speculative.state import Proposal
from jaxdlm.speculative.tree import Grown, Tree, chains
from tests.conformance.test_loop import equal
from tests.guides import oracles
from tests.marks import exhaustive, usual
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import END, MAX_NEW, PROMPTS, VOCAB, distribution_of, fit, greedy_decode, model, near

DRAFT, WRONG = near(TARGET, 0.02), model(8)
RUN = {"max_new": MAX_NEW, "seed": 5}
LANGUAGES = oracles.languages(VOCAB, END)
OWN = ["even", "framed", "anything", "six of two", "ends in four"]  # of the prompts
HOT = jnp.float32(1)


@functools.cache
def plain(row: int) -> tuple[int, ...]:
    return tuple(greedy_decode(TARGET, PROMPTS[row]))


@functools.cache
def sequences() -> tuple[tuple[int, ...], ...]:
    """Of what the target writes by itself, so that something is forbidden: a token of one row, two of another."""
    return (plain(0)[2:3], plain(3)[1:3], plain(1)[:2])


def bent(name: str, row: int):
    """The oracle of a guide, on one row of PROMPTS."""

    def bend(logits, answer):
        text = [*PROMPTS[row], *answer]
        if name in ("repetition", "all"):
            logits = oracles.penalised(logits, text, np.float32(1.7))
        if name in ("banned", "all"):
            logits = oracles.without(logits, text, map(list, sequences()))
        if name in ("grammar", "all"):
            logits = LANGUAGES[OWN[row]].allowed(logits, answer, MAX_NEW)
        return logits

    return bend


def guides(name: str) -> list[Guide]:
    each = {
        "repetition": jd.guides.repetition(1.7), "banned": jd.guides.banned(list(map(list, sequences())), TARGET),
        "grammar": GrammarGuide(),
    }  # fmt: skip
    return list(each.values()) if name == "all" else [each[name]]


@functools.cache
def expected(name: str) -> np.ndarray:
    return np.array([greedy_decode(TARGET, prompt, bend=bent(name, row)) for row, prompt in enumerate(PROMPTS)])


def answers(policy, order=(0, 1, 2, 3, 4), save="commit"):
    """(tokens, rows) of these prompts, each with its own grammar."""
    prompts = [PROMPTS[row] for row in order]
    own = [LANGUAGES[OWN[row]].tables() for row in order] if needs_tables(policy) else None
    rows, prompt = lay_out_rows(
        TARGET,
        prompts,
        max_new=MAX_NEW,
        seed=5,
        ids=list(order),
        raw=False,
        stops=[[(END,)]] * len(prompts),
        guides=own,
    )
    run = generate_pool if 0 < policy.slots < len(prompts) else generate
    out, trace = run(rows, Decoding(TARGET.model, TARGET.params, policy), prompt, MAX_NEW, save)
    tokens = np.full((len(prompts), MAX_NEW), END)
    for row, (start, length) in enumerate(zip(np.asarray(out.start), np.asarray(out.length))):
        tokens[row, : length - start] = np.asarray(out.tokens)[row, start:length]
    return tokens, out, trace


def needs_tables(policy) -> bool:
    return GrammarGuide() in (policy.guide.guides if hasattr(policy.guide, "guides") else [policy.guide])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repetition", "banned", "grammar"])
def test_autoregressive_under_a_guide_is_greedy_decoding_under_its_oracle(name):
    tokens, out, _ = answers(S.autoregressive(guide=guides(name)))
    np.testing.assert_array_equal(tokens, expected(name))
    changed = [row for row in range(len(PROMPTS)) if tuple(tokens[row]) != plain(row)]
    assert len(changed) >= 2, "a guide that changes nothing tests nothing"
    if name == "grammar":
        assert all(LANGUAGES[OWN[row]].accepts(tokens[row].tolist()) for row in range(len(PROMPTS)))
        assert (np.asarray(out.length - out.start) <= MAX_NEW).all()


def forced(policy):
    return policy.replace(drafter=Forced(policy.warp, depth=3))


METHODS = {
    "speculative": lambda draft, guide: S.speculative(draft, k=3, guide=guide),
    "lookup": lambda draft, guide: S.lookup(k=3, ngram=2, guide=guide),
    "aded": lambda draft, guide: S.aded(paths=4, search="best", guide=guide),
    "spectr": lambda draft, guide: S.spectr(draft, width=2, depth=3, temperature=jnp.float32(0), guide=guide),
    "pearl": lambda draft, guide: S.pearl(draft, chunk=3, guide=guide),
    "easyspec": lambda draft, guide: S.easyspec(draft, k=3, group=2, guide=guide),
    "eqspec official": lambda draft, guide: S.eqspec(draft, k=3, official=True, guide=guide),
    "exspec": lambda draft, guide: S.exspec(draft, k=3, slots=2, guide=guide),
    "forced": lambda draft, guide: forced(S.autoregressive(guide=guide)),
}
REST = pytest.mark.exhaustive


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "draft"),
    [
        ("speculative", "near"), ("lookup", "near"), ("pearl", "near"), ("forced", "near"),
        *(pytest.param(m, d, marks=REST) for m in METHODS for d in ("near", "wrong")
          if (m, d) not in (("speculative", "near"), ("lookup", "near"), ("pearl", "near"), ("forced", "near"))
          and (d == "near" or m not in ("lookup", "aded", "forced"))),
    ],
)  # fmt: skip
def test_greedy_tokens_are_those_of_the_guided_target(method, draft):
    """All three guides at once, a grammar of its own in each row; bigger trees, chunks and pools alike."""
    tokens, out, _ = answers(METHODS[method]({"near": DRAFT, "wrong": WRONG}[draft], guides("all")))
    np.testing.assert_array_equal(tokens, expected("all"))
    if method == "speculative" and draft == "near":
        assert np.asarray(out.accepted).sum() > 8, "the draft must be good for something"
    if method == "forced":
        lengths = np.asarray(out.length - out.start).tolist()
        own = [LANGUAGES[name].alone(text[:length].tolist()) for name, text, length in zip(OWN, tokens, lengths)]
        assert np.asarray(out.accepted).tolist() == own and sum(own) == 2


@pytest.mark.slow
def test_a_guide_of_the_target_alone_is_as_exact_and_accepts_less():
    policy = METHODS["speculative"](DRAFT, guides("all"))
    blind = policy.replace(drafter=policy.drafter.replace(warp=policy.warp.replace(guide=None)))
    (tokens, out, _), (_, other, _) = answers(blind), answers(policy)
    np.testing.assert_array_equal(tokens, expected("all"))
    assert np.asarray(out.accepted).sum() < np.asarray(other.accepted).sum()


# --------------------------------------------------------------------------------------------- the law, by enumeration

WORDS, LENGTH, ROWS, START = 4, 4, 12000, [0, 2, 3, 0, 2]
SMALL = model(11, vocab=WORDS, end=1)
SMALL_DRAFT = near(SMALL, 0.1)
# no token twice in a row, the last one is 3
STEPS = oracles.Language({(at, t): 2 + t for at in (1, 2, 4, 5) for t in (0, 2, 3) if at != 2 + t}, {5}, WORDS, 1)


def small_guide() -> list[Guide]:
    return [jd.guides.repetition(1.5), jd.guides.grammar(STEPS.tables())]


def bend_small(logits, answer):
    return STEPS.allowed(oracles.penalised(logits, [*START, *answer], 1.5), answer, LENGTH)


def blind(policy):
    return policy.replace(drafter=policy.drafter.replace(warp=policy.warp.replace(guide=None)))


SAMPLED = {
    "autoregressive": lambda **a: S.autoregressive(**a),
    "speculative": lambda **a: S.speculative(SMALL_DRAFT, k=2, **a),
    "its draft unguided": lambda **a: blind(S.speculative(SMALL_DRAFT, k=2, **a)),
    "certain draft": lambda **a: S.lookup(k=LENGTH + 2, **a),
    "spectr": lambda **a: S.spectr(SMALL_DRAFT, width=3, depth=2, **a),
    "pearl": lambda **a: S.pearl(SMALL_DRAFT, chunk=2, **a),
}


def p_value(policy, bend=bend_small) -> float:
    out = decode(SMALL, [START] * ROWS, policy=policy, max_new=LENGTH, seed=1, save="none")
    distribution = distribution_of(SMALL, START, LENGTH, bend=bend)
    assert abs(sum(distribution.values()) - 1) < 1e-6
    assert set(map(tuple, out.tokens.tolist())) <= set(distribution), "a forbidden token came out"
    assert all(STEPS.accepts(list(text)) for text in distribution)
    return fit(out.tokens, distribution)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("method", usual(SAMPLED, "speculative"))
def test_sampled_texts_have_the_law_of_the_guided_target(method):
    assert p_value(SAMPLED[method](temperature=HOT, guide=small_guide())) > 1e-3


@pytest.mark.exhaustive
def test_the_law_of_a_grammar_alone_fails_that_test():
    only = lambda logits, answer: STEPS.allowed(logits, answer, LENGTH)  # noqa: E731
    assert p_value(SAMPLED["speculative"](temperature=HOT, guide=small_guide()), only) < 1e-6


# --------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.slow
@pytest.mark.parametrize("method", ["autoregressive", pytest.param("speculative", marks=REST)])
def test_a_grammar_that_allows_everything_changes_no_bit(method):
    build = {
        "autoregressive": S.autoregressive,
        "speculative": functools.partial(S.speculative, DRAFT, k=3),
    }
    free, bound = (
        decode(TARGET, PROMPTS, build[method](temperature=HOT, guide=guide), **RUN)
        for guide in (None, jd.guides.grammar(LANGUAGES["anything"].tables()))
    )
    for field in ("tokens", "forwards", "commit_step", "score", "accepted", "drafted"):
        np.testing.assert_array_equal(getattr(free, field), getattr(bound, field))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("temperature", [exhaustive(0.0), 1.0])
def test_a_row_depends_on_neither_its_neighbours_nor_their_grammars(temperature):
    """Alone, permuted, in a pool of two slots: bit for bit."""
    policy = S.speculative(DRAFT, k=3, temperature=jnp.float32(temperature), guide=guides("all"))
    tokens, out, trace = answers(policy)
    for row in range(len(PROMPTS)):
        assert LANGUAGES[OWN[row]].accepts(tokens[row].tolist())
    order = [3, 0, 4, 1, 2]
    for other in (policy, policy.replace(slots=2)):
        permuted, rows, steps = answers(other, order)
        np.testing.assert_array_equal(permuted, tokens[order])
        np.testing.assert_array_equal(np.asarray(rows.step), np.asarray(out.step)[order])
        np.testing.assert_array_equal(np.asarray(steps.commit_step), np.asarray(trace.commit_step)[order])
    for row in (0, 3):
        np.testing.assert_array_equal(answers(policy, [row])[0][0], tokens[row])


def test_other_grammars_of_the_same_size_run_the_same_program():
    policy = S.autoregressive(guide=guides("grammar"))
    answers(policy)
    before = generate._cache_size()
    answers(policy, [4, 2, 0, 1, 3])
    assert generate._cache_size() == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["autoregressive", "speculative"])
def test_a_row_ends_where_nothing_is_allowed(method):
    """Every token is forbidden behind the fourth, so no text is longer, and the draft's own tokens do not go on."""
    dead_end = oracles.Language({(at, t): at + 1 for at in range(1, 5) for t in range(VOCAB)}, {9}, VOCAB, END)
    guide = jd.guides.grammar(dead_end.tables()._replace(distance=np.zeros(16, np.int32)))
    build = {
        "autoregressive": S.autoregressive,
        "speculative": functools.partial(S.speculative, DRAFT, k=3),
    }
    out = decode(TARGET, PROMPTS, build[method](guide=guide), **RUN, stop=False)
    np.testing.assert_array_equal((out.commit_step >= 0).sum(1), [4] * len(PROMPTS))
    assert out.status == [Status.NONFINITE] * len(PROMPTS)
    free = decode(TARGET, PROMPTS, "autoregressive", **RUN, stop=False)
    np.testing.assert_array_equal(out.tokens[:, :4], free.tokens[:, :4])


@pytest.mark.exhaustive
def test_pearl_on_two_devices_is_pearl_on_one_under_a_guide():
    rows, prompt = lay_out_rows(
        TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False, guides=[LANGUAGES[own].tables() for own in OWN]
    )
    policy = S.pearl(DRAFT, chunk=3, temperature=HOT, guide=guides("all"))
    sizes = {"prompt": prompt, "max_new": MAX_NEW, "save": "commit"}
    one, two = jax.devices()[:2]
    apart = S.generate_on_two(rows, TARGET.model, TARGET.params, policy, target=one, draft=two, **sizes)
    equal(apart, generate(rows, Decoding(TARGET.model, TARGET.params, policy), **sizes))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("method", [exhaustive("s2d"), "specdec_pp"])
def test_drafts_with_trained_parts_are_guided_too(method):
    lm, draft = jd.load("tiny-ar"), jd.load("tiny-draft")
    prompts = list(lm.tokenizer.examples[:4])
    guide = [jd.guides.repetition(1.3), jd.guides.banned([","], lm)]
    wanted = decode(lm, prompts, S.autoregressive(guide=guide), max_new=24)
    out = decode(lm, prompts, getattr(S, method)(draft, guide=guide), max_new=24)
    np.testing.assert_array_equal(out.tokens, wanted.tokens)
    assert (wanted.tokens != decode(lm, prompts, "autoregressive", max_new=24).tokens).any()
    assert out.accepted.mean() > 0.5 and not any("," in text for text in out.text)


# ------------------------------------------------------------------------------------------------------ states, policy


@struct.dataclass
class Spelling(Guide):
    """The state spells the text as a number; tables that it hands on are the row's."""

    base: int

    def transform(self, logits, state):
        return logits + state["text"].astype(logits.dtype)

    def advance(self, state, token):
        return state | {"text": self.base * state["text"] + token}


@pytest.mark.slow
@pytest.mark.parametrize("tree", [chains(1, 3), chains(2, 2), Tree((-1, -1, 0, 1, 0, 3)), Tree(())])
def test_every_node_has_the_state_of_its_own_text(tree):
    state = {"table": jnp.arange(6.0).reshape(2, 3), "text": jnp.array([1, 2])}
    token = jnp.asarray(np.random.default_rng(0).integers(1, 9, (2, tree.size)), jnp.int32)
    nodes = nodes_of(Spelling(10), state)
    states = nodes.below(Proposal(token, token > 0, None, tree))
    assert [leaf.shape for leaf in states] == [(2, 1 + tree.size)], "a table is not copied to the nodes"
    for row in range(2):
        spelled = [int(state["text"][row])]
        for node, parent in enumerate(tree.parent):
            spelled.append(10 * spelled[1 + parent] + int(token[row, node]))
        assert states[0][row].tolist() == spelled
    logits, live = nodes.transform(jnp.zeros((2, 1 + tree.size, 5)), states)
    np.testing.assert_array_equal(logits, np.broadcast_to(states[0][:, :, None], logits.shape))
    assert live.all()


def test_nodes_of_trees_that_rows_grow_have_the_states_of_their_own_texts():
    parents = np.array([(-1, -1, 0, 1, 0, 3), (-1, 0, 1, -1, 3, 4)])
    token = jnp.asarray(np.random.default_rng(0).integers(1, 9, (2, 6)), jnp.int32)
    nodes = nodes_of(Spelling(10), {"table": jnp.zeros((2, 3)), "text": jnp.array([1, 2])})
    grown = Proposal(token, token > 0, None, Grown(6, 3), parent=jnp.asarray(parents, jnp.int32))
    (states,) = nodes.below(grown)
    for row, parent in enumerate(parents):
        alone = Proposal(token, token > 0, None, Tree(tuple(parent.tolist())))
        assert states[row].tolist() == nodes.below(alone)[0][row].tolist()


def test_a_guide_without_a_state():
    class Doubling(Guide):
        def transform(self, logits, state):
            return 2 * logits

    nodes = nodes_of(Doubling(), ())
    states = nodes.below(Proposal(jnp.ones((2, 2), jnp.int32), jnp.ones((2, 2), bool), None, chains(1, 2)))
    assert states == () == nodes.advance(states, jnp.ones((2, 1), jnp.int32))
    np.testing.assert_array_equal(nodes.bend(jnp.ones((2, 3, 5)), states), np.full((2, 3, 5), 2))


def test_a_policy_takes_one_more_guide_for_target_and_draft():
    policy = S.speculative(DRAFT, k=3, guide=jd.guides.repetition(1.2))
    more = policy.guided(GrammarGuide())
    assert more.guide == more.drafter.warp.guide and [type(g).__name__ for g in more.guide.guides] == [
        "Repetition", "GrammarGuide",
    ]  # fmt: skip
    assert (
        policy.guided(None).guide is policy.guide and S.autoregressive().guided(GrammarGuide()).guide == GrammarGuide()
    )
    assert dataclasses.replace(more, warp=policy.warp) != more


def test_what_rows_bring_for_no_guide_is_refused():
    rows, prompt = lay_out_rows(
        TARGET, PROMPTS[:1], max_new=4, seed=0, ids=None, raw=False, guides=[LANGUAGES["even"].tables()]
    )
    with pytest.raises(InputError, match="the policy has none: pass guide="):
        generate(rows, Decoding(TARGET.model, TARGET.params, S.autoregressive()), prompt, 4, "none")
    with pytest.raises(InputError, match="rows bring guides of 2 shapes to one program"):
        tables = [LANGUAGES["even"].tables(), LANGUAGES["even"].tables(states=32)]
        lay_out_rows(TARGET, PROMPTS[:2], max_new=4, seed=0, ids=None, raw=False, guides=tables)
