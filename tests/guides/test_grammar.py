"""The grammar guide against automata that try every continuation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.core.guide import Context
from jaxdlm.grammar import Tables
from jaxdlm.guides.grammar import GrammarGuide
from tests.guides import oracles

VOCAB, END = 13, 1
LANGUAGES = oracles.languages(VOCAB, END)
ZERO = np.zeros(VOCAB, np.float32)


def context(room: int, given=()) -> Context:
    return Context(jnp.array([3, 0], jnp.int32), jnp.int32(1), jnp.int32(room), given, VOCAB)


def allowed(guide, state) -> list[int]:
    return np.flatnonzero(np.isfinite(np.asarray(guide.transform(jnp.asarray(ZERO), state)))).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("own", [False, True])
def test_allowed_is_what_can_still_be_closed(name, own):
    """Along random walks and behind forbidden tokens, with one grammar for all rows or each row's own."""
    language, rng = LANGUAGES[name], np.random.default_rng(1)
    tables = language.tables()
    guide = GrammarGuide() if own else jd.guides.grammar(tables)
    room = 8
    for walk in range(3):
        state, answer = guide.init(context(room, jax.tree.map(jnp.asarray, tables) if own else ())), []
        while len(answer) < room:
            wanted = np.flatnonzero(np.isfinite(language.allowed(ZERO, answer, room))).tolist()
            assert allowed(guide, state) == wanted and (wanted or walk == 2)
            token = int(rng.choice(wanted)) if wanted and walk < 2 else int(rng.integers(VOCAB))
            state, answer = guide.advance(state, jnp.int32(token)), [*answer, token]
        assert walk == 2 or language.accepts(answer)
        assert allowed(guide, state) == []


def test_room_forces_the_shortest_way_out():
    guide = jd.guides.grammar(LANGUAGES["framed"].tables())
    for room, wanted in ((2, []), (3, [5]), (4, [5])):
        assert allowed(guide, guide.init(context(room))) == wanted
    state = guide.advance(guide.init(context(3)), jnp.int32(5))
    assert allowed(guide, state) == [7, 9]
    assert allowed(guide, guide.advance(state, jnp.int32(9))) == [11], "7 and 9 would leave nothing for it"


def test_a_draft_of_another_width():
    guide = jd.guides.grammar(LANGUAGES["even"].tables())
    state = guide.init(context(4))
    for width in (5, VOCAB + 5):
        out = guide.transform(jnp.zeros(width), state)
        wanted = [token for token in (0, 1, 2, 4, 6, 8, 10, 12) if token < width]
        assert np.flatnonzero(np.isfinite(np.asarray(out))).tolist() == wanted
    assert allowed(guide, guide.advance(state, jnp.int32(VOCAB + 3))) == [], "an id beyond the table is dead"


def test_what_does_not_fit_is_refused():
    from tests.speculative.toys import PROMPTS, VOCAB, model

    with pytest.raises(jd.InputError, match=r"language=.a\+.: must be a grammar such as jaxdlm.grammar.regex"):
        jd.guides.grammar("a+")
    policy = jd.autoregressive(guide=jd.guides.grammar(LANGUAGES["even"].tables()))
    with pytest.raises(jd.InputError, match=f"made for 13 ids, toy has {VOCAB}: make it for this model"):
        jd.decode(model(3), PROMPTS, policy, max_new=2)
    policy = jd.autoregressive(guide=jd.guides.grammar(oracles.languages(VOCAB, END)["framed"].tables()))
    with pytest.raises(jd.InputError, match="needs at least 3 tokens, max_new is 2: raise max_new"):
        jd.decode(model(3), PROMPTS, policy, max_new=2)
    with pytest.raises(jd.InputError, match="each row needs its own grammar"):
        jd.decode(model(3), PROMPTS, jd.autoregressive(guide=GrammarGuide()), max_new=2)


def test_a_grammar_gives_its_tables():
    class Grammar:
        def tables(self) -> Tables:
            return LANGUAGES["even"].tables()

    guide = jd.guides.grammar(Grammar())
    assert allowed(guide, guide.init(context(2))) == [0, 1, 2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_nearer_token_leads_to_the_end_by_the_shortest_way(name):
    language = LANGUAGES[name]
    tables = language.tables()
    guide, answer = jd.guides.grammar(tables), []
    state, least = guide.init(context(20)), int(tables.distance[tables.state])
    for _ in range(least):
        answer.append(int(guide.nearer(state)))
        state = guide.advance(state, jnp.int32(answer[-1]))
    assert language.accepts(answer) and int(tables.distance[int(state.state)]) == 0
    dead = guide.advance(guide.advance(guide.init(context(20)), jnp.int32(3)), jnp.int32(3))
    assert int(guide.nearer(dead)) == -1 or int(dead.state) != 0
