"""Grammar-aligned sampling against enumeration: 136 ways to spell 17 texts with seven tokens (arXiv 2405.21047)."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

import jaxdlm as jd
from jaxdlm.aligned import trie as tries
from jaxdlm.aligned.trie import AsapTrie, Facts, Sampled
from jaxdlm.core.carry import Status
from jaxdlm.grammar import Grammar
from tests.guides.oracles import Language
from tests.speculative.toys import distribution_of, fit, model, next_logits

END, MAX_NEW, PROMPT, TEMPERATURE = 1, 6, [3, 1, 4], 0.8
WORDS = ("a", None, "0", "1", "00", "01", "10", "11")  # None: END
TEXTS = ["00000", *("1" + "".join(bits) for bits in itertools.product("01", repeat=4))]
LM = model(6, vocab=8, end=END)


def compiled(words: str, language: Language) -> Grammar:
    """As `jaxdlm.grammar` makes them of text."""
    tables = language.tables(states=64, classes=16)
    start = int(tables.state)
    return Grammar(words, "toy", tables.classes, tables.next, start, tables.accepting, tables.distance, tables.forced)


@functools.cache
def grammar() -> Grammar:
    """A state for each beginning of a text."""
    beginnings = sorted({text[:n] for text in TEXTS for n in range(len(text) + 1)}, key=len)
    number = {text: 1 + at for at, text in enumerate(beginnings)}
    edges = {
        (at, token): number[text + word]
        for text, at in number.items()
        for token, word in enumerate(WORDS)
        if word and text + word in number
    }
    return compiled("regex:00000|1[01]{4}", Language(edges, {number[text] for text in TEXTS}, 8, END))


ANYTHING = compiled("anything", Language({(1, token): 1 for token in range(8) if token != END}, {1}, 8, END))
SHORT = Language({(1, 0): 2, (1, 1): 3, (2, 1): 4, (3, 0): 4, (3, 1): 4}, {4}, 10, 9)  # all of two letters but AA


class Exact:
    """p, c and the laws of the toy by walking all its texts."""

    def __init__(self, temperature: float = TEMPERATURE, prompt: tuple[int, ...] = tuple(PROMPT)):
        self.temperature, self.prompt = temperature, prompt
        self.p = functools.cache(self._p)
        self.c = functools.cache(self._c)
        self.sentences = list(self._walk((), 0.0))

    def _p(self, x: tuple[int, ...]) -> np.ndarray:
        logits = next_logits(LM, [*self.prompt, *x]).astype(np.float64) / self.temperature
        return np.exp(logits - np.logaddexp.reduce(logits))

    def allowed(self, x: tuple[int, ...]) -> list[int]:
        text = "".join(WORDS[token] for token in x)
        further = [t for t, word in enumerate(WORDS) if word and any(each.startswith(text + word) for each in TEXTS)]
        return [*further, END] if text in TEXTS else further

    def _c(self, x: tuple[int, ...]) -> float:
        return 1.0 if x and x[-1] == END else sum(self.p(x)[t] * self.c((*x, t)) for t in self.allowed(x))

    def _walk(self, x: tuple[int, ...], logp: float):
        if x and x[-1] == END:
            yield x, logp
            return
        for t in self.allowed(x):
            yield from self._walk((*x, t), logp + np.log(self.p(x)[t]))

    @property
    def target(self) -> dict[tuple[int, ...], float]:
        return {x: np.exp(logp) / self.c(()) for x, logp in self.sentences}

    def law(self, trie: AsapTrie) -> dict[tuple[int, ...], float]:
        """Of samples drawn with the trie as it is."""

        def step(x: tuple[int, ...], t: int) -> float:
            w = {each: self.p(x)[each] * value(trie, (*x, each)) for each in self.allowed(x)}
            return w[t] / sum(w.values())

        return {x: np.prod([step(x[:n], t) for n, t in enumerate(x)]) for x, _ in self.sentences}

    def divergence(self, trie: AsapTrie) -> float:
        law = self.law(trie)
        return sum(q * np.log(q / law[x]) for x, q in self.target.items())


def value(trie: AsapTrie, x: tuple[int, ...]) -> float:
    known = trie.value(x)
    return 1.0 if known is None else known


@functools.cache
def exact() -> Exact:
    return Exact()


def padded(law: dict) -> dict:
    return {(*x, *[END] * (MAX_NEW - len(x))): chance for x, chance in law.items()}


def drawn(samples: int, trie=None, **settings) -> jd.AsapOutput:
    settings = {"max_new": MAX_NEW, "temperature": TEMPERATURE, "seed": 3} | settings
    return jd.asap(LM, [PROMPT], grammar(), samples, trie=trie, **settings)


def nodes(trie: AsapTrie) -> list[tuple[int, ...]]:
    """The texts that it has read."""
    found: list[tuple[int, ...]] = [()]
    for parent, token in zip(trie._parent[1:], trie._token[1:]):
        found.append((*found[parent], token))
    return found


@functools.cache
def many() -> list[jd.AsapOutput]:
    """3,000 samples in a row, forty together, in three calls."""
    outs = [drawn(40, batch=40)]
    for samples in (360, 2600):
        outs.append(drawn(samples, outs[-1].tries, batch=40))
    return outs


def test_the_toy_is_the_papers():
    assert len(exact().sentences) == 136
    for text in itertools.product(range(8), repeat=4):
        assert grammar().accepts(text) == ((text[: text.index(END)] if END in text else text) in spelled()) or (
            END in text and set(text[text.index(END) :]) != {END}
        )


@functools.cache
def spelled() -> set:
    return {x[:-1] for x, _ in exact().sentences}


@pytest.mark.slow
def test_the_first_samples_are_renormalised_token_by_token():
    """A batch draws all of them with the trie empty; later ones are not."""
    start = AsapTrie(Facts("", "", "", 1.0, 1))
    gcd = drawn(3000, batch=3000)
    assert fit(gcd.tokens[0], padded(exact().law(start))) > 1e-3
    assert fit(gcd.tokens[0], padded(exact().target)) < 1e-9
    for mode in ("asap", "gcd"):
        assert (drawn(1, mode=mode).tokens[0] == drawn(1).tokens[0]).all()
    later = [drawn(60, mode=mode) for mode in ("asap", "gcd")]
    assert (later[0].tokens[0] != later[1].tokens[0]).any()
    assert later[1].mass < later[0].mass < 1 or later[0].mass < later[1].mass < 1


@pytest.mark.slow
def test_the_law_tends_to_the_models_own_given_the_grammar():
    outs = many()
    c, apart = exact().c(()), [exact().divergence(out.tries[0]) for out in outs]
    start = exact().divergence(AsapTrie(outs[0].tries[0].facts))
    assert start > 0.1 and apart[1] < start / 2 and apart[2] < 2e-3
    masses = [float(out.mass[0]) for out in outs]
    assert 1 > masses[0] > masses[1] > masses[2] > c * (1 - 1e-6)
    assert masses[0] > 1.5 * c and masses[2] < c * 1.01
    more = drawn(3000, outs[-1].tries, batch=3000)
    assert fit(more.tokens[0], padded(exact().target)) > 1e-3
    for out in (*outs, more):
        assert all(grammar().accepts(row) for row in out.tokens[0])
        assert out.status == [Status.FINISHED] and out.texts is None


def test_log_probabilities_are_those_of_the_model_alone():
    logp = dict(exact().sentences)
    for row, told in zip(many()[0].tokens[0], many()[0].logp[0], strict=True):
        text = tuple(row[: row.tolist().index(END) + 1].tolist())
        assert told == pytest.approx(logp[text], abs=1e-4)


def test_c_only_falls_and_never_below_the_truth():
    trie, before = None, {}
    for samples in [1] * 12 + [20, 60]:
        trie = drawn(samples, trie).tries
        now = {x: trie[0].value(x) for x in nodes(trie[0])}
        for x, own in now.items():
            assert exact().c(x) * (1 - 1e-5) <= own <= before.get(x, 1.0) * (1 + 1e-6)
        before = now
    assert len(before) > 20


@pytest.mark.parametrize("batch", [1, 40])
def test_what_is_not_read_is_summed_exactly(batch):
    """Rows of one batch that go different ways behind one text leave each other's tokens out."""
    trie = drawn(40, batch=batch).tries[0]
    read = set(nodes(trie))
    assert len(read) == len(trie) > 15
    for node, x in enumerate(nodes(trie)):
        behind = sum(exact().p(x)[t] for t in exact().allowed(x) if (*x, t) not in read)
        assert np.exp(trie._unseen[node]) == pytest.approx(behind, rel=1e-4, abs=1e-9)
        if x:
            assert np.exp(trie._logp[node]) == pytest.approx(exact().p(x[:-1])[x[-1]], rel=1e-4)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_rejection_is_exact_with_any_trie():
    """With an empty one and with one that has learnt a little, where the other modes are not; c is the share that stays."""
    start = drawn(4).tries
    assert start[0].mass > 1.2 * exact().c(())
    for trie in (start, None):
        out = drawn(6000, trie, mode="reject", batch=6000, attempts=6000)
        assert out.drawn == [6000] and out.status == [Status.STEP_LIMIT]
        assert fit(out.tokens[0], padded(exact().target)) > 1e-3
        chance = exact().c(()) / (trie[0].mass if trie else 1.0)
        assert binomtest(len(out.tokens[0]), 6000, chance).pvalue > 1e-3
        assert all(grammar().accepts(row) for row in out.tokens[0])
    assert fit(drawn(3000, start, batch=3000).tokens[0], padded(exact().target)) < 1e-9


@pytest.mark.slow
def test_rejections_are_learnt_from():
    out = drawn(30, mode="reject")
    assert out.drawn[0] > 30 and len(out.tokens[0]) == 30 and out.status == [Status.FINISHED]
    c, later = exact().c(()), drawn(30, out.tries, mode="reject")
    assert later.drawn[0] < out.drawn[0] < 30 / c
    for x in nodes(later.tries[0]):
        if "".join(WORDS[token] or "" for token in x) in {text[: len(text)] for text in TEXTS}:
            assert later.tries[0].value(x) >= exact().c(x) * (1 - 1e-5)


@pytest.mark.slow
def test_a_grammar_of_everything_changes_nothing():
    """Also where a text fills all columns without an end."""
    settings = {"max_new": MAX_NEW, "temperature": TEMPERATURE, "seed": 5}
    out = jd.asap(LM, [PROMPT], ANYTHING, 3000, batch=3000, **settings)
    assert out.mass == pytest.approx(1, abs=1e-6)
    assert all(np.exp(value) == pytest.approx(1, abs=1e-6) for value in out.tries[0]._value)
    assert fit(out.tokens[0][:, :2], distribution_of(LM, PROMPT, 2, TEMPERATURE)) > 1e-3
    assert (out.tokens[0] != END).all(axis=1).any()
    rejecting = jd.asap(LM, [PROMPT], ANYTHING, 3000, batch=6000, mode="reject", **settings)
    assert (rejecting.tokens[0] == out.tokens[0]).all()


@pytest.mark.slow
def test_two_tokens_without_aa():
    """The running example of the paper: uniform P; 1/2, 1/4, 1/4 before, and thirds once A has been read."""
    lm = model(0, vocab=2, end=END)
    config = dataclasses.replace(lm.config, tokens=dataclasses.replace(lm.config.tokens, eos=()))
    lm = dataclasses.replace(
        lm, model=dataclasses.replace(lm.model, config=config), params=jax.tree.map(jnp.zeros_like, lm.params)
    )
    language = compiled("two", SHORT)
    language = dataclasses.replace(language, classes=language.classes[:2].copy())
    settings = {"max_new": 2, "batch": 3000}
    before = jd.asap(lm, [[1]], language, 3000, **settings)
    shares = lambda out: np.bincount(out.tokens[0] @ [2, 1], minlength=4) / 3000  # noqa: E731
    assert shares(before) == pytest.approx([0, 0.5, 0.25, 0.25], abs=0.04)
    trie = before.tries[0]
    assert (trie.value(()), trie.value((0,)), trie.value((1,))) == pytest.approx((0.75, 0.5, 1))
    assert np.exp(before.logp[0]) == pytest.approx(0.25)
    assert shares(jd.asap(lm, [[1]], language, 3000, trie=trie, **settings)) == pytest.approx(
        [0, *[1 / 3] * 3], abs=0.04
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "prompts"),
    [("asap", [PROMPT, [2] * 17]), pytest.param("reject", [PROMPT, [5, 2]], marks=pytest.mark.exhaustive)],
)
def test_each_prompt_has_a_trie_of_its_own(mode, prompts):
    """And its samples are those that it has alone, whoever else is there; numbers up to rounding."""
    settings = {"max_new": MAX_NEW, "mode": mode, "batch": 3, "seed": 1}
    together = jd.asap(LM, prompts, grammar(), 7, ids=[4, 5, 6][: len(prompts)], **settings)
    assert len({round(float(mass), 3) for mass in together.mass}) == len(prompts)
    for index, prompt in enumerate(prompts):
        alone = jd.asap(LM, [prompt], grammar(), 7, ids=[4 + index], **settings)
        assert (alone.tokens[0] == together.tokens[index]).all() and alone.drawn == together.drawn[index]
        assert alone.mass[0] == pytest.approx(together.mass[index], rel=1e-6)
        assert alone.logp[0] == pytest.approx(together.logp[index], rel=1e-6)


def test_two_calls_are_one(tmp_path):
    """Through a file, too, and the trie that goes in stays what it was."""
    first, whole = drawn(10), drawn(20)
    first.tries[0].save(tmp_path / "trie")
    held = first.tries[0].mass
    for trie in (first.tries[0], tmp_path / "trie", [str(tmp_path / "trie")]):
        rest = drawn(10, trie)
        assert (np.concatenate([first.tokens[0], rest.tokens[0]]) == whole.tokens[0]).all()
        assert rest.mass == whole.mass and rest.tries[0].drawn == 20
    assert first.tries[0].mass == held and first.tries[0].drawn == 10
    loaded = AsapTrie.load(tmp_path / "trie")
    assert loaded.facts == first.tries[0].facts and repr(loaded) == repr(first.tries[0])
    assert nodes(loaded) == nodes(first.tries[0])
    assert [loaded.value(x) for x in nodes(loaded)] == [first.tries[0].value(x) for x in nodes(loaded)]


def test_a_full_trie_learns_no_more(monkeypatch):
    monkeypatch.setattr(tries, "MOST_NODES", 15)
    out = drawn(40)
    assert 9 < len(out.tries[0]) <= 15 and len(out.tokens[0]) == 40
    c = exact().c(())
    assert out.mass[0] > c
    law = exact().law(out.tries[0])
    assert sum(law.values()) == pytest.approx(1)


def trie_of(*answers: Sampled) -> AsapTrie:
    trie = AsapTrie(Facts("m", "p", "g", 1.0, 4))
    for answer in answers:
        trie.learn([answer])
    return trie


def test_sums_hold_where_numbers_are_tiny():
    """Probabilities that float32 has no numbers for, and a beginning that turns out to be nothing."""
    trie = trie_of(Sampled([2, 3], [-400.0, -500.0], [-np.inf, -600.0]))
    assert trie._value[:2] == pytest.approx([-1000.0, -600.0])
    trie.learn([Sampled([2, 3], [-400.0, -500.0], [-700.0, -np.inf])])
    assert trie._value[1] == -np.inf and trie._value[0] == pytest.approx(-700) and trie.value([2]) == 0
    assert trie.value([2, 3]) is None and trie.value([9]) is None and len(trie) == 2
    assert AsapTrie(trie.facts).mass == 1 and AsapTrie(trie.facts).value([]) is None


def test_a_file_that_is_no_trie(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    drawn(3).tries[0].save(good)
    with np.load(good) as arrays:
        parts = dict(arrays)

    def refused(data: bytes | None = None, **changed) -> None:
        if data is None:
            with bad.open("wb") as out:
                np.savez(out, **parts | changed)
        else:
            bad.write_bytes(data)
        with pytest.raises(jd.InputError, match=r"bad is damaged, or no trie that asap has saved: draw a new one$"):
            AsapTrie.load(bad)

    raw = good.read_bytes()
    for data in (b"", b"words", raw[: len(raw) // 2], raw[:200] + bytes(64) + raw[264:]):
        refused(data)
    parent, token, unseen = parts["parent"], parts["token"], parts["unseen"]
    head = bytes(parts["head"])
    refused(parent=parent + 1)
    refused(parent=np.where(np.arange(parent.size) == 1, 2, parent).astype(np.int32))
    refused(parent=parent.astype(np.float64))
    refused(parent=np.zeros_like(parent))
    refused(token=np.full_like(token, -1))
    refused(token=token[:-1])
    refused(unseen=unseen * np.nan)
    refused(unseen=np.array([{}] * unseen.size, object))
    refused(head=np.frombuffer(head.replace(b'"version": 1', b'"version": 9'), np.uint8))
    refused(head=np.frombuffer(head.replace(b'"max_new": 6', b'"max_new": []'), np.uint8))
    refused(head=np.frombuffer(b"[]", np.uint8))
    with pytest.raises(jd.InputError, match=r"nowhere cannot be read \(No such file or directory\): check the path"):
        AsapTrie.load(tmp_path / "nowhere")
    with pytest.raises(jd.InputError, match="cannot be written"):
        AsapTrie.load(good).save(tmp_path / "nowhere" / "trie")


def test_a_trie_of_something_else_is_refused_by_name():
    trie = drawn(1).tries[0]
    other = model(5, vocab=8, end=END)
    for message, arguments in {
        "prompt 0: the trie was drawn with another model: use the same, or a new trie": {"lm": other},
        "prompt 0: the trie was drawn with another prompt": {"prompts": [[3, 1, 5]]},
        "prompt 0: the trie was drawn with another grammar": {"grammar": ANYTHING},
        r"another temperature \(0.8, not 1.0\)": {"temperature": 1.0},
        r"another max_new \(6, not 7\)": {"max_new": 7},
        "trie has 1 entries for 2 prompts: give one per prompt": {"prompts": [PROMPT, PROMPT]},
    }.items():
        usual = {"lm": LM, "prompts": [PROMPT], "grammar": grammar(), "temperature": TEMPERATURE, "max_new": MAX_NEW}
        with pytest.raises(jd.InputError, match=message):
            jd.asap(**usual | arguments, samples=1, trie=trie)
