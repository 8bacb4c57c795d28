"""`asap`: prompts and a grammar in, samples of the model's law on condition of the grammar out."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument
from jaxdlm.aligned.draw import Ledger, draw, read_prompts
from jaxdlm.aligned.guide import AsapGuide, Language, children_of, known_of
from jaxdlm.aligned.trie import AsapTrie, Facts, Sampled
from jaxdlm.core.carry import Status
from jaxdlm.decisions.calibrate import model_of
from jaxdlm.errors import InputError, exhausted
from jaxdlm.guides.grammar import grammar as grammar_guide
from jaxdlm.layout import COUNT, arrange_rows, bucket_of, encode, listed, row_numbers
from jaxdlm.methods.autoregressive import autoregressive
from jaxdlm.output import read_text
from jaxdlm.sharding import beside, widens
from jaxdlm.speculative.pair import check as check_pair
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Rows
from jaxdlm.stops import read_stops
from jaxdlm.structured import fitting, grammar_of

MODES = ("asap", "reject", "gcd")
PER_SAMPLE = 100  # rows that are drawn for a sample before mode="reject" gives up


@dataclasses.dataclass(frozen=True, eq=False)
class AsapOutput:
    """The result of `asap`: of each prompt a list or an array of its samples, in the order in which they were drawn.

    Attributes:
        texts: N texts of each prompt, None without a tokenizer.
        tokens: int32[N, max_new] of each prompt; behind the end of a text: ends.
        logp: float64[N] of each prompt, log P(sample) under the model alone, its end included.
        mass: float64[K], an upper bound of P(the answer belongs to the grammar) that falls to it.
        drawn: int[K], rows that were drawn in this call, rejected ones included.
        status: per prompt; FINISHED: all samples are there; NONFINITE: logits were NaN or infinite, or nothing that the
            grammar allows has any probability; STEP_LIMIT: rejections used up the attempts. The samples before that stay.
        tries: of each prompt, to go on with (`trie=`), or to save.
    """

    texts: list[list[str]] | None
    tokens: list[np.ndarray]
    logp: list[np.ndarray]
    mass: np.ndarray
    drawn: np.ndarray
    status: list[Status]
    tries: list[AsapTrie]

    def __repr__(self) -> str:
        """One line, also in a notebook."""
        samples, mass = "+".join(str(len(each)) for each in self.tokens), ", ".join(f"{each:.3g}" for each in self.mass)
        return f"<AsapOutput of {samples} samples, mass {mass}: {', '.join(map(str, self.status))}>"


def asap(
    lm: Any,
    prompts: Sequence[Any],
    grammar: Any,
    samples: int = 16,
    *,
    max_new: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    mode: str = "asap",
    trie: Any = None,
    batch: int = 1,
    attempts: int | None = None,
    raw: bool = False,
) -> AsapOutput:
    """Samples whose law tends to P(w) 1[w in G] / P(G), the model's own given the grammar (arXiv 2405.21047).

    P is softmax(l / T), token by token, up to an end or max_new tokens; G the grammar's texts that end within these. Token
    t behind x is drawn with p(t | x) c(x t), c >= P(the rest belongs to G), 1 until a sample has been there:

        c(x) = Σ_{t allowed} p(t | x) c(x t)   for every x that was read, p over the whole vocabulary.

    Args:
        lm: an autoregressive model, from `jaxdlm.load`.
        prompts: as in `decode`. Each has samples and a trie of its own.
        grammar: from `jaxdlm.grammar`, of this model; with depth=None what its checker allows is the grammar.
        samples: of each prompt; the paper evaluates 2000.
        max_new: the longest answer, in tokens, its end included.
        temperature: T > 0; 1 (paper).
        seed: sample n of a prompt draws from fold_in(fold_in(key(seed), id), n), n counted over all calls with its trie.
        ids: one int per prompt, by default 0, 1, ...
        mode: "asap": the first sample is that of token-by-token renormalisation, and the law is the above in the limit.
            "reject": behind texts that were never read any token may come, and an answer that leaves the grammar is
            dropped, and learnt from: exact from the first sample, at the cost of what is dropped. "gcd": renormalised
            token by token throughout; the trie learns all the same.
        trie: one that an earlier call has given or saved (an `AsapTrie`, or a path), or a list with one per prompt. It is
            not changed; of another model, prompt, grammar, temperature or max_new it is refused.
        batch: samples of a prompt that are drawn together with the trie as it is; 1 (paper). More is faster, and learns
            later.
        attempts: rows that mode="reject" draws for a prompt at most; default 100 per sample.
        raw: do not pass strings through the chat template.

    The samples of a prompt depend on nothing else than these arguments; other prompts of the call may move the last bits
    of `mass` and `logp`.

    Departures from the official code: a batch; a trie to each prompt; one number per node for all children that were not
    read; T before c; a text of max_new tokens needs no end.

    Raises:
        InputError: anything that cannot be sampled, before the first forward.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> names = jd.grammar.regex("\\\\[ (Alan|Kate)( , (Omar|Kate))* \\\\]", lm)
        >>> out = jd.asap(lm, "reverse : [ Kate , Alan ]", names, samples=8, max_new=16, batch=4)
        >>> out.texts[0][0], out.texts[0][-1]  # as token by token, and once the trie has learnt
        ('[ Kate , Omar ]', '[ Alan , Kate ]')
        >>> print(f"{out.mass[0]:.4f}")
        0.0702
    """
    argument.check_choice(mode, "mode", MODES)
    samples, max_new, batch = (
        COUNT(samples, "samples"),
        COUNT(max_new, "max_new"),
        argument.whole(1, argument.MOST_ROWS)(batch, "batch"),
    )
    if mode != "reject":
        argument.unused(f"with mode={mode!r}, which rejects nothing", attempts=(attempts, None))
    most = argument.whole(1, none=True)(attempts, "attempts")
    temperature = argument.real(argument.COLDEST, argument.HOTTEST)(temperature, "temperature")
    argument.flag(raw, "raw")
    language = fitting(lm, grammar_of(lm, "grammar", grammar), "grammar", max_new, read_stops(lm, True))
    guide = grammar_guide(language)
    prompts = listed(prompts)
    texts = [encode(lm, prompt, index, max_new, raw) for index, prompt in enumerate(prompts)]
    check_pair(lm, autoregressive(temperature), max_new, max(map(len, texts)))
    tries = _tries(lm, texts, language, temperature, max_new, trie)
    limit = samples if mode != "reject" else PER_SAMPLE * samples if most is None else most
    sampler = Sampler(lm, guide, mode, temperature, max_new, samples, limit, min(batch, limit))
    groups: dict[int, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(bucket_of(len(text)), []).append(index)
    numbers, jobs = row_numbers(ids, len(prompts)), [Job(each) for each in tries]
    for members in groups.values():
        try:
            sampler.run([texts[i] for i in members], [numbers[i] for i in members], seed, [jobs[i] for i in members])
        except jax.errors.JaxRuntimeError as error:
            if not exhausted(error):
                raise
            rows = f"{len(members)} prompts with batch={sampler.batch}"
            raise InputError(
                f"{rows} need more memory than the device has: lower batch, or pass fewer prompts"
            ) from error
    return sampler.output(jobs)


def _tries(
    lm: Any, texts: Sequence[np.ndarray], grammar: Any, temperature: float, max_new: int, tries: Any
) -> list[AsapTrie]:
    """A trie for each prompt: new, or a copy of its entry in `tries`."""
    model, language = model_of(lm), _digest(f"{grammar.fingerprint} {grammar.words}".encode())
    facts = [
        Facts(model, _digest(text.astype("<i4").tobytes()), language, float(temperature), max_new) for text in texts
    ]
    if tries is None:
        return [AsapTrie(each) for each in facts]
    every = list(tries) if isinstance(tries, list | tuple) else [tries]
    if len(every) != len(texts):
        raise InputError(f"trie has {len(every)} entries for {len(texts)} prompts: give one per prompt")
    made = []
    for index, (each, wanted) in enumerate(zip(every, facts, strict=True)):
        own = each.copy() if isinstance(each, AsapTrie) else AsapTrie(wanted) if each is None else AsapTrie.load(each)
        own.check(wanted, f"prompt {index}")
        made.append(own)
    return made


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@dataclasses.dataclass(eq=False)
class Job:
    """A prompt at work."""

    trie: AsapTrie
    drawn: int = 0
    status: Status = Status.RUNNING
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
    logp: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What is the same for all prompts. limit: rows that are drawn for one; batch: of these together."""

    lm: Any
    language: Language
    mode: str
    temperature: float
    max_new: int
    samples: int
    limit: int
    batch: int

    def run(self, texts: Sequence[np.ndarray], ids: Sequence[int], seed: int, jobs: Sequence[Job]) -> None:
        """All samples of prompts that stand in the same columns."""
        lm, each = self.lm, np.repeat(np.arange(len(texts)), self.batch).tolist()
        stops = [read_stops(lm, True).sequences] * len(each)
        rows, prompt = arrange_rows(
            lm, [texts[i] for i in each], max_new=self.max_new, seed=seed, ids=[ids[i] for i in each], stops=stops,
            guides=[np.int32(i) for i in each],
        )  # fmt: skip
        rows, _ = beside(lm.params, rows, ())
        kv = read_prompts(rows._replace(guide=()), lm.model, lm.params, prompt)
        while any(job.status == Status.RUNNING for job in jobs):
            busy = np.array([min(self.batch, self.limit - job.drawn) * (job.status == Status.RUNNING) for job in jobs])
            place = np.tile(np.arange(self.batch), len(jobs))
            number = np.array([job.trie.drawn for job in jobs])[each] + place
            batch = rows._replace(done=jax.device_put(place >= busy[each], rows.done.sharding))
            policy = self._policy([job.trie for job in jobs])
            policy = beside(lm.params, batch, policy)[1]
            decoding = Decoding(lm.model, lm.params, policy)
            made = draw(batch, jnp.asarray(number, jnp.int32), kv, decoding, prompt, self.max_new)
            answers, ledger = jax.device_get((made[0]._replace(key=(), ends=None), made[1]))
            for index, job in enumerate(jobs):
                if busy[index]:
                    first = index * self.batch
                    self._take(job, answers, ledger, range(first, first + int(busy[index])))

    def _policy(self, tries: Sequence[AsapTrie]) -> Any:
        guide = AsapGuide(self.language, known_of(tries), jnp.float32(self.temperature), self.mode, children_of(tries))
        return dataclasses.replace(autoregressive(self.temperature, guide=guide), placed=widens(self.lm.params))

    def _take(self, job: Job, rows: Rows, ledger: Ledger, own: range) -> None:
        """What the prompt's rows have come to."""
        job.drawn += len(own)
        job.trie.drawn += len(own)
        if any(rows.status[row] == Status.NONFINITE for row in own):
            job.status = Status.NONFINITE
            return
        learnt = []
        for row in own:
            count, start = int(rows.length[row] - rows.start[row]), int(rows.start[row])
            tokens = rows.tokens[row, start : start + count]
            answer = Sampled(
                tokens.tolist(), ledger.logp[row, :count].astype(np.float64).tolist(),
                ledger.unseen[row, :count].astype(np.float64).tolist(),
            )  # fmt: skip
            learnt.append(answer)
            if rows.status[row] != Status.INFEASIBLE and len(job.tokens) < self.samples:
                job.tokens.append(tokens)
                job.logp.append(sum(answer.logp))
        job.trie.learn(learnt)
        if len(job.tokens) == self.samples:
            job.status = Status.FINISHED
        elif job.drawn >= self.limit:
            job.status = Status.STEP_LIMIT

    def output(self, jobs: Sequence[Job]) -> AsapOutput:
        stops = read_stops(self.lm, True)
        tokens = [self._filled(job.tokens) for job in jobs]
        return AsapOutput(
            texts=None if self.lm.tokenizer is None else [read_text(self.lm, each, stops) or [] for each in tokens],
            tokens=tokens, logp=[np.array(job.logp) for job in jobs], mass=np.array([job.trie.mass for job in jobs]),
            drawn=np.array([job.drawn for job in jobs]), status=[job.status for job in jobs],
            tries=[job.trie for job in jobs],
        )  # fmt: skip

    def _filled(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        known = self.lm.config.tokens
        out = np.full((len(answers), self.max_new), known.eos[0] if known.eos else known.pad, np.int32)
        for row, answer in zip(out, answers, strict=True):
            row[: len(answer)] = answer
        return out
