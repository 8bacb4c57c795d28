"""Acceptance rules against enumeration: what comes out has the target's distribution, and accepts as much as the theory
says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import chisquare

from jaxdlm.speculative import verify
from jaxdlm.speculative.state import Proposal
from jaxdlm.speculative.tree import Tree, chains

Q, P = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
DRAWS = 20000


def distributions(words: int, count: int, seed: int = 0):
    """Pairs (p, q) of random distributions, some with zeros."""
    rng = np.random.default_rng(seed)
    pairs = rng.dirichlet(np.full(words, 0.7), (count, 2))
    pairs[::3, 0, 0] = 0
    return pairs / pairs.sum(2, keepdims=True)


def k_seq(p, q, k, shrink=1.0):
    """(rho, acceptance, residual) with a fine bisection in float64; `shrink` < 1 leaves the valid side."""
    beta = lambda rho: np.minimum(q, p / rho).sum()  # noqa: E731
    low, high = 1.0, float(k)
    for _ in range(200):
        middle = (low + high) / 2
        short = 1 - (1 - beta(middle)) ** k > middle * beta(middle)
        low, high = (middle, high) if short else (low, middle)
    rho = high * shrink
    accept = 1 - (1 - beta(rho)) ** k
    return rho, accept, p - np.minimum(q, p / rho) * accept / beta(rho)


def optimum(p, q, k):
    """The best acceptance of any coupling: min over prefixes T by p / q of 1 + p(T) - q(T)^k."""
    order = np.argsort(p / np.maximum(q, 1e-300))
    prefix = lambda x: np.concatenate([[0], np.cumsum(x[order])])  # noqa: E731
    return (1 + prefix(p) - prefix(q) ** k).min()


def transport_plan(p, q, k):
    """The same by linear programming over all couplings of q^k and p."""
    words = len(p)
    tuples = list(itertools.product(range(words), repeat=k))
    gain = np.array([[-float(y in x) for y in range(words)] for x in tuples]).ravel()
    rows = np.repeat(np.eye(len(tuples)), words, axis=1)
    columns = np.tile(np.eye(words), len(tuples))[:-1]  # the last one follows from the others
    mass = [np.prod(q[list(x)]) for x in tuples]
    out = linprog(gain, A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([mass, p[:-1]]), method="highs")
    return -out.fun


@pytest.mark.parametrize(
    ("k", "rho", "accept"), [(1, 1, 0.7), (2, 1.456776, 0.791355), (4, 2.030036, 0.906007), (8, 2.422888, 0.984578)]
)
def test_division_factor_of_known_laws(k, rho, accept):
    plan = verify.transport(jnp.float32(P), jnp.float32(Q), k)
    np.testing.assert_allclose([plan.rho, plan.accept], [rho, accept], atol=1e-5)


def test_acceptance_lies_between_its_bounds():
    plan = jax.jit(jax.vmap(verify.transport))
    for k in (1, 2, 3, 4):
        pairs = distributions(4, 12, seed=k)
        mine = plan(*(jnp.float32(pairs[:, i]) for i in (0, 1)), jnp.full(12, k, jnp.float32))
        for (p, q), rho, accept in zip(pairs, mine.rho, mine.accept):
            theirs = k_seq(p, q, k)
            np.testing.assert_allclose([rho, accept], theirs[:2], atol=2e-5)
            best = optimum(p, q, k)
            assert (1 - (1 - 1 / k) ** k) * best - 1e-6 <= accept <= best + 1e-6
            assert theirs[2].min() > -1e-9
            if k == 1:
                np.testing.assert_allclose(accept, best, atol=1e-6)
            if k <= 3:
                np.testing.assert_allclose(transport_plan(p, q, k), best, atol=1e-6)


def test_a_smaller_division_factor_would_be_biased():
    assert min(k_seq(*pair, 3, shrink=0.8)[2].min() for pair in distributions(4, 12, seed=3)) < -1e-3


def test_a_draft_like_the_target_is_always_accepted():
    for k in (1, 2, 5):
        assert float(verify.transport(jnp.float32(P), jnp.float32(P), k).accept) == pytest.approx(1, abs=1e-6)


def first_tokens(acceptance, tree: Tree, p, q, certain: bool = False):
    """Counts of the first committed token and the rate of acceptance over many keys; one draft distribution, one target
    distribution."""
    logp = jnp.log(jnp.float32(np.broadcast_to(p, (1 + len(tree.read), len(p)))))
    logq = jnp.log(jnp.float32(np.broadcast_to(q, (tree.size, len(q)))))

    def one(key):
        draft, accept = jax.random.split(key)
        token = jax.random.categorical(draft, logq).astype(jnp.int32)
        token = jnp.zeros_like(token) if certain else token
        proposal = Proposal(token, jnp.ones(tree.size, bool), None if certain else logq, tree)
        verdict = acceptance(logp, proposal, accept)
        return jnp.where(verdict.count > 0, token[verdict.path[0]], verdict.bonus), verdict.count

    tokens, count = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), DRAWS))
    return np.bincount(tokens, minlength=len(p)), np.asarray(count)


def biased(logp, proposal, key):
    """Rejection sampling that forgets the residual."""
    verdict = verify.rejection(logp, proposal, key)
    return verdict._replace(bonus=verify.draw(logp[verdict.count], key))


CASES = {
    "rejection": (verify.rejection, chains(1, 2), False),
    "certain draft": (verify.rejection, chains(1, 2), True),
    "without bonus": (verify.rejection, chains(1, 1, bonus=False), False),
    "k_sequence of one": (verify.k_sequence, chains(1, 2), False),
    "k_sequence of three": (verify.k_sequence, chains(3, 2), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_first_token_has_the_targets_distribution(name):
    acceptance, tree, certain = CASES[name]
    counts, accepted = first_tokens(acceptance, tree, P, Q, certain)
    assert chisquare(counts, P * DRAWS).pvalue > 1e-3
    if name.startswith("rejection"):
        expected = np.minimum(P, Q).sum()
        assert abs((accepted > 0).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / DRAWS)


@pytest.mark.parametrize("acceptance", ["biased", "typical"])
def test_acceptance_rules_that_are_not_exact_fail_that_test(acceptance):
    counts, _ = first_tokens({"biased": biased, "typical": verify.typical}[acceptance], chains(1, 2), P, Q)
    assert chisquare(counts, P * DRAWS).pvalue < 1e-6


@pytest.mark.slow
def test_several_chains_accept_more_than_one():
    means = [first_tokens(verify.k_sequence, chains(k, 2), P, Q)[1].mean() for k in (1, 2, 4)]
    assert means[0] + 0.02 < means[1] < means[2] - 0.02


def best_at(*tokens):
    """Logits that are largest at these tokens, a row each."""
    return np.eye(5, dtype=np.float32)[list(tokens)]


HAND = [  # tree, draft tokens, valid, best tokens of [root, nodes...], expected path, bonus or None
    (chains(1, 3), [1, 2, 3], [1, 1, 1], [1, 2, 3, 4], [0, 1, 2], 4),
    (chains(1, 3), [1, 2, 3], [1, 1, 1], [1, 2, 0, 4], [0, 1], 0),
    (chains(1, 3), [1, 2, 3], [1, 1, 1], [0, 2, 3, 4], [], 0),
    (chains(1, 3), [1, 2, 3], [1, 0, 1], [1, 2, 3, 4], [0], 2),  # what lies behind a missing node does not count
    (chains(1, 3), [1, 2, 3], [0, 0, 0], [1, 2, 3, 4], [], 1),
    (chains(1, 2, bonus=False), [1, 2], [1, 1], [1, 2], [0, 1], None),
    (chains(1, 2, bonus=False), [1, 2], [1, 1], [1, 3], [0], 3),
    (chains(1, 2, bonus=False), [1, 2], [1, 0], [1, 3], [0], None),  # nothing was refused
    (Tree((-1, -1, 1, 1)), [1, 2, 3, 4], [1] * 4, [2, 0, 4, 0, 1], [1, 3], 1),
    (Tree((-1, -1, 0, 1)), [2, 2, 3, 4], [1] * 4, [2, 0, 4, 0, 1], [1, 3], 1),  # twins: the one that goes deeper
    (Tree((-1, -1, 0, 1)), [2, 2, 3, 3], [1] * 4, [2, 3, 3, 1, 0], [0, 2], 1),  # a tie: the lowest
    (Tree(()), [], [], [3], [], 3),
]


@pytest.mark.parametrize("case", HAND, ids=[str(i) for i in range(len(HAND))])
def test_greedy_matching_by_hand(case):
    tree, token, valid, best, path, bonus = case
    greedy = jax.jit(lambda logits, token, valid, key: verify.greedy(logits, Proposal(token, valid, None, tree), key))
    verdict = greedy(best_at(*best), np.array(token, np.int32), np.array(valid, bool), jax.random.key(0))
    assert np.asarray(verdict.path)[: int(verdict.count)].tolist() == path
    assert bool(verdict.emit) == (bonus is not None)
    assert bonus is None or int(verdict.bonus) == bonus


def test_a_tree_names_earlier_parents():
    from jaxdlm import InputError

    with pytest.raises(InputError, match="every node must name an earlier node"):
        Tree((0,))
    tree = chains(2, 3)
    assert tree.parent == (-1, -1, 0, 1, 2, 3) and tree.depth == 3
    np.testing.assert_array_equal(tree.paths[1 + 5], [1, 3, 5])
    assert not tree.is_chain and chains(1, 4).is_chain and Tree(()).is_chain
