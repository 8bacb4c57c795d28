"""Drafters without a model against slow ones: their proposals, their rounds, and the text that does not depend on them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm import speculative as S
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import trigrams
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.drafters.aded import Aded
from jaxdlm.speculative.drafters.aggressive import Aggressive
from jaxdlm.speculative.state import Rows
from jaxdlm.speculative.warp import DRAFT, stage_key
from tests.speculative import drafts
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import END, MAX_NEW, PROMPTS, VOCAB, expected, greedy_decode, model

RUN = {"max_new": MAX_NEW, "seed": 5}
HOT = jnp.float32(1)
# texts with repeats, in which there is something to find
TEXTS = [
    [5, 6, 7, 5, 6, 8, 5, 6, 7, 9, 5, 6, 7, 9, 2, 5, 6, 7, 9, 5, 6],
    [2, 3, 4] * 7, [9, 8, 7, 6, 5, 4, 3, 2, 9, 8, 7], [4] * 20, [3, 5],
]  # fmt: skip
CORPUS = [[5, 6, 10, 11, 5, 6, 10, 5, 6, 7, 5, 6, 12, 2, 3, 5], [2, 3, 4, 4, 2, 3, 9]]


@functools.cache
def table() -> trigrams.Table:
    return trigrams.count_trigrams(TARGET, CORPUS)


def base() -> dict:
    """The same by hand: successors of each key with their shares, the likeliest first."""
    counts: dict = {}
    for text in CORPUS:
        for a, b, c in zip(text, text[1:], text[2:]):
            counts.setdefault((a, b), {}).setdefault(c, 0)
            counts[a, b][c] += 1
    ranked = {key: sorted(after.items(), key=lambda each: (-each[1], each[0])) for key, after in counts.items()}
    total = {key: sum(count for _, count in after) for key, after in ranked.items()}
    return {key: [(c, np.float32(n / total[key])) for c, n in after[:12]] for key, after in ranked.items()}


def rows_of(texts, start=None, room: int = 12) -> Rows:
    columns = max(map(len, texts)) + room
    tokens = np.array([text + [0] * (columns - len(text)) for text in texts], np.int32)
    length = jnp.array([len(text) for text in texts], jnp.int32)
    begin = length if start is None else jnp.asarray(start, jnp.int32)
    keys = jax.random.split(jax.random.key(3), len(texts))
    blank = jnp.zeros(len(texts), jnp.int32)
    return Rows(jnp.asarray(tokens), length, begin, length + room, keys, blank > 0, *[blank] * 5)


def nodes_of(proposal, row: int) -> list[tuple[int, int]]:
    """The valid nodes as (token, place of the parent among them), in their order."""
    valid = np.flatnonzero(np.asarray(proposal.valid)[row])
    place = {-1: -1} | {int(node): index for index, node in enumerate(valid)}
    parents = proposal.tree.parent if proposal.parent is None else np.asarray(proposal.parent)[row]
    return [(int(proposal.token[row, node]), place[int(parents[node])]) for node in valid]


# ------------------------------------------------------------------------------------------------------------------ aded

SMALL = {"paths": 6, "deep": 4, "simulations": 24}


@pytest.mark.slow
def test_a_table_is_the_shares_of_its_corpus_and_finds_every_key():
    after = jax.jit(table().grams.after)
    for a in range(VOCAB):
        for b in range(0, VOCAB, 1 if a in (2, 3, 4, 5, 6, 10) else 7):
            token, weight = after(jnp.int32(a), jnp.int32(b))
            want = base().get((a, b), [])
            assert [(int(c), float(w)) for c, w in zip(token, weight) if w > 0] == [(c, float(w)) for c, w in want]


SEARCHES = [
    (search, grams, backoff) for search in ("mcts", "best") for grams in (True, False) for backoff in (0.1, 0.0)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "grams", "backoff"),
    [SEARCHES[0], *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in SEARCHES[1:])],
)
def test_trees_are_those_of_the_slow_search(search, grams, backoff):
    """Row by row, over three rounds: the window counts again, and what was counted stays."""
    rows = rows_of(TEXTS)
    more = {"backoff": jnp.float32(backoff), "orders": (2, 1) if backoff else (2,)}
    drafter = Aded(table().grams if grams else None, search=search, **SMALL, **more)
    state = jax.jit(drafter.init, static_argnums=1)(rows, rows.tokens.shape[1] - 12)
    propose, some = jax.jit(drafter.propose), 0
    slow = [
        drafts.Aded(
            text, base=base() if grams else None, paths=6, runs=24, backoff=backoff,
            keys=(lambda n, row=row: stage_key(rows.key[row], jnp.int32(n), DRAFT)) if search == "mcts" else None,
        )
        for row, text in enumerate(TEXTS)
    ]  # fmt: skip
    for _ in range(3):
        proposal, state = propose(
            state, rows, jax.vmap(functools.partial(stage_key, stage=DRAFT))(rows.key, rows.length)
        )
        for row in range(len(TEXTS)):
            length = int(rows.length[row])
            text = np.asarray(rows.tokens)[row, :length].tolist()
            mine, theirs = nodes_of(proposal, row), slow[row](text)
            assert mine == theirs, f"row {row} of {length} tokens"
            some += len(mine)
        column = jnp.arange(rows.tokens.shape[1])[None, :]
        new = jnp.where(column == rows.length[:, None], rows.tokens[:, :1], rows.tokens)
        rows = rows._replace(tokens=new, length=rows.length + 1)
    assert some > 25


SETTINGS = [
    {"search": "mcts", "simulations": 30}, {"recount": False}, {"backoff": 0.0}, {"prompt": False}, {"depth": 2, "paths": 3},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [SETTINGS[0], *(pytest.param(each, marks=pytest.mark.exhaustive) for each in SETTINGS[1:])]
)
def test_forwards_are_the_rounds_of_the_slow_drafter(settings):
    """Greedy: the target's own tokens, in as many forwards as its drafts need for them."""
    settings = {"search": "best", "paths": 6, "backoff": 0.1} | settings
    asked = [prompt * 3 for prompt in PROMPTS[:2]] + [[*PROMPTS[2], *expected(3)[2][:5]]]
    plain = decode(TARGET, asked, policy="autoregressive", **RUN)
    out = decode(TARGET, asked, policy=S.aded(table(), **settings), **RUN)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    keys = lay_out_rows(TARGET, asked, max_new=MAX_NEW, seed=5, ids=None, raw=False)[0].key
    wanted = []
    for row, prompt in enumerate(asked):
        stop = len(prompt) + int(plain.forwards[row])
        by_key = lambda n, row=row: stage_key(keys[row], jnp.int32(n), DRAFT)  # noqa: E731
        slow = drafts.Aded(
            prompt, base=base(), paths=settings["paths"], deep=settings.get("depth", 4), runs=settings.get("simulations"),
            recount=settings.get("recount", True), prompted=settings.get("prompt", True), backoff=settings["backoff"],
            keys=by_key if settings["search"] == "mcts" else None,
        )  # fmt: skip
        wanted.append(drafts.rounds(slow, len(prompt), [*prompt, *plain.tokens[row].tolist()], stop))
    assert out.forwards.tolist() == wanted
    assert sum(wanted) < plain.forwards.sum(), "nothing was ever accepted"


@pytest.mark.slow
def test_weights_rise_by_a_step_up_to_the_ceiling():
    rows = rows_of([[1, 2, 3]])
    drafter = Aded(None, search="best", paths=2, prompt=False, orders=(2,))

    @jax.jit
    def call(state):
        _, state = drafter.propose(state, rows, rows.key)
        own = jax.tree.map(lambda x: x[0], state)  # of the only row
        return state, drafter.successors(own, rows.tokens[0], rows.length[0], jnp.int32(1), jnp.int32(2))

    state = drafter.init(rows, 3)
    for calls in range(1, 101):
        state, (token, weight) = call(state)
        if calls in (1, 10, 100):
            assert int(token[0]) == 3 and float(weight[0]) == pytest.approx(min(0.04 * calls, 3.0), rel=1e-5)
            assert not weight[1:].any()


def test_the_score_of_a_child_is_that_of_the_paper():
    """s = 3, n = 2, N = 10, p = 0.5: 18.8214 with c1 = 32, 2.9120 with the first release's 1.814."""
    from jaxdlm.speculative.drafters.aded import Found, Grove

    zero = jnp.zeros(3, jnp.int32)
    found = Found(zero, zero, jnp.float32([1, 0.5, 0.5]), zero, jnp.float32([10, 2, 0]))
    grove = Grove(found, jnp.float32([30, 3, 0]), zero, jnp.int32(3))
    for c1, wanted in ((32.0, 18.8214), (1.814, 2.9120)):
        urge = jax.jit(Aded(None, jnp.float32(c1)).urge)(grove, jnp.int32(0), jnp.array([1, 2]))
        np.testing.assert_allclose(urge, [wanted, jnp.inf], atol=1e-3)


@pytest.mark.slow
def test_a_table_that_knows_the_answer_is_worth_five_tokens_a_forward():
    prompt = [6, 12, 3, 10]
    answer = greedy_decode(TARGET, prompt)
    text = [*prompt, *answer]
    assert len(set(zip(text, text[1:], text[2:]))) == len(set(zip(text, text[1:-1]))), "a key with two continuations"
    known = trigrams.count_trigrams(TARGET, [text])
    out = decode(TARGET, [prompt], policy=S.aded(known, paths=4, search="best"), **RUN)
    assert out.tokens[0].tolist() == answer
    assert out.forwards[0] == -(-MAX_NEW // 5) and END not in answer


@pytest.mark.slow
def test_sampled_tokens_are_those_of_plain_sampling():
    """Token by token, whatever the table says: drafts never touch what is drawn."""
    plain = decode(TARGET, PROMPTS, policy=S.autoregressive(HOT), **RUN)
    texts = [[*prompt, *answer] for prompt, answer in zip(PROMPTS, plain.tokens.tolist())]
    known = trigrams.count_trigrams(TARGET, texts)
    wrong = known._replace(grams=known.grams._replace(token=(known.grams.token + 1) % VOCAB))
    policy = S.aded(known, paths=6, search="best", temperature=HOT)
    out = decode(TARGET, PROMPTS, policy=policy, **RUN)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    assert out.forwards.sum() < 0.6 * plain.forwards.sum(), "drafts of the very text are accepted"
    before = generate._cache_size()
    for grams, temperature in ((wrong.grams, 1.0), (known.grams, 0.0)):
        policy = policy.replace(drafter=policy.drafter.replace(table=grams))
        policy = policy.replace(warp=policy.warp.replace(temperature=jnp.float32(temperature)))
        out = decode(TARGET, PROMPTS, policy=policy, **RUN)
        np.testing.assert_array_equal(out.tokens, plain.tokens if temperature else expected(3))
    assert generate._cache_size() == before


def test_a_table_is_saved_and_read_back(tmp_path):
    file = tmp_path / "table.safetensors"
    table().save(file)
    back = trigrams.read_trigrams(file)
    jax.tree.map(np.testing.assert_array_equal, back.grams, table().grams)
    assert (back.vocab_size, back.vocabulary) == (VOCAB, 0) and "table.safetensors" in back.name
    read = jd.policies.read(f"aded,table={file},paths=6")
    jax.tree.map(np.testing.assert_array_equal, read.drafter, S.aded(table(), paths=6).drafter)
    assert read.draft.vocab_size == VOCAB


def test_tables_that_mean_nothing_are_refused(tmp_path):
    from jaxdlm.checkpoint.safetensors import read_safetensors, write_safetensors

    other = trigrams.count_trigrams(model(4, vocab=29), [[1, 2, 28]])
    with pytest.raises(InputError, match=r"29 words.*23 words.*different vocabularies: make one with scripts/trigrams"):
        decode(TARGET, PROMPTS, policy=S.aded(other), **RUN)
    with pytest.raises(InputError, match="must be a file that scripts/trigrams"):
        S.aded(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no text has three tokens"):
        trigrams.count_trigrams(TARGET, [[1, 2]])
    for text, shown in (([1, 23, 2], "[1, 23, 2]"), ([[1], [2, 3]], "[[1], [2, 3]]"), ([0.5, 1, 2], "[0.5, 1, 2]")):
        with pytest.raises(
            InputError, match=re.escape(f"texts[0]={shown}: must be a string or a list of ids from 0 to 22")
        ):
            trigrams.count_trigrams(TARGET, [text])
    with pytest.raises(InputError, match="has no tokenizer"):
        trigrams.count_trigrams(TARGET, ["a b c"])
    file = tmp_path / "t.safetensors"
    table().save(file)
    stored, notes = read_safetensors(file)
    spoilt = {
        "it holds first": ({"first": stored["first"]}, notes),
        "not say of which": (stored, notes | {"vocabulary": "x"}),
        "not in order": (stored | {"first": stored["first"][::-1].copy()}, notes),
        "outside 0 .. 22": (stored | {"token": stored["token"] + 23}, notes),
        "no shares": (stored | {"weight": stored["weight"] - 1}, notes),
        "do not fit": (stored | {"start": stored["start"][:-1]}, notes),
        "other types": (stored | {"token": stored["token"].astype(np.int64)}, notes),
    }
    for message, (arrays, texts) in spoilt.items():
        write_safetensors(file, arrays, texts)
        with pytest.raises(InputError, match=f"t.safetensors is no n-gram table .*{message}"):
            trigrams.read_trigrams(file)


def test_a_table_of_another_tokenizer_is_refused():
    """Of as many words: what counts is which."""
    known = trigrams.count_trigrams(jd.load("tiny-ar"), ["copy : [ Alan , Kate ]"])
    stranger = known._replace(vocabulary=known.vocabulary ^ 1)
    with pytest.raises(InputError, match="different vocabularies: make one with scripts/trigrams"):
        decode(jd.load("tiny-ar"), ["copy : [ Alan ]"], policy=S.aded(stranger), max_new=4)


# ------------------------------------------------------------------------------------------------------------ aggressive


def test_the_place_in_the_source_is_that_of_the_paper():
    source = [5, 6, 7, 6, 8]
    answers = {(5, 6): 2, (9,): -1, (8,): 5, (6,): -1, (7,): 3, (6, 8): 5, (): 0, (3, 6): -1}
    drafter = Aggressive(jnp.array(source, jnp.int32))
    rows = rows_of([[9, *answer] for answer in answers], start=[1] * len(answers))
    proposal, _ = jax.jit(drafter.propose)((), rows, rows.key)
    for row, end in enumerate(answers.values()):
        drafted = [token for token, _ in nodes_of(proposal, row)]
        assert drafted == (source[end:] if end >= 0 else [])


def test_places_are_those_of_the_slow_search():
    rng = np.random.default_rng(1)
    texts = [rng.integers(2, 9, 20).tolist() for _ in range(40)]
    start = rng.integers(8, 19, 40).tolist()
    rows = rows_of(texts, start)
    for ngram in (1, 3):
        proposal, _ = jax.jit(Aggressive(None, 5, ngram).propose)((), rows, rows.key)
        ends = [drafts.suffix_end(text[:n], text[n:], ngram) for text, n in zip(texts, start)]
        for row, (text, n, end) in enumerate(zip(texts, start, ends)):
            wanted = text[:n][end : end + 5] if end >= 0 else []
            assert [token for token, _ in nodes_of(proposal, row)] == wanted
        assert 5 < sum(end >= 0 for end in ends) < 38


@pytest.mark.slow
def test_an_input_that_is_the_answer_takes_one_forward():
    row = 4
    answer = expected(3)[row].tolist()
    answer = answer[: answer.index(END)] if END in answer else answer[:-1]
    out = decode(TARGET, [PROMPTS[row]], policy=S.aggressive(answer), **RUN)
    assert out.forwards[0] == 1 and out.tokens[0].tolist() == expected(3)[row].tolist()


def copied(start: int, source: list[int], text: list[int]) -> list[tuple[int, int]]:
    """IAD's draft of up to eight tokens behind an answer that begins at column `start`."""
    end = drafts.suffix_end(source, text[start:]) if len(text) > start else 0
    return [(token, i - 1) for i, token in enumerate(source[end : end + 8] if end >= 0 else [])]


@pytest.mark.slow
def test_a_copy_with_noise_is_verified_token_by_token():
    """The text of plain sampling for sources that are it, nearly it, or nothing like it; rounds are the slow ones'."""
    plain = decode(TARGET, PROMPTS, policy=S.autoregressive(HOT), **RUN)
    rng, saved = np.random.default_rng(0), 0
    source = plain.tokens[3].tolist()
    for noise in (0.0, 0.2, 1.0):
        moved = np.where(rng.random(MAX_NEW) < noise, rng.integers(2, VOCAB, MAX_NEW), source).tolist()
        out = decode(TARGET, PROMPTS, policy=S.aggressive(moved, k=8, temperature=HOT), **RUN)
        np.testing.assert_array_equal(out.tokens, plain.tokens)

        for row, prompt in enumerate(PROMPTS):
            slow = functools.partial(copied, len(prompt), moved)
            text = [*prompt, *plain.tokens[row].tolist()]
            assert out.forwards[row] == drafts.rounds(slow, len(prompt), text, len(prompt) + int(plain.forwards[row]))
        saved += int(plain.forwards[3] - out.forwards[3])
    assert saved > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"source": []}, "source=[]: must be a list of token ids, at least one"), ({"source": "text"}, "source='text'"),
     ({"source": [1, -1]}, "source[1]=-1"), ({"k": 65}, "k=65"), ({"ngram": 0}, "ngram=0"),
     ({"source": [3, 23]}, "source names token 23, and target toy has 23")],
)  # fmt: skip
def test_bad_sources_are_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        decode(TARGET, PROMPTS, policy=S.aggressive(**arguments), **RUN)
