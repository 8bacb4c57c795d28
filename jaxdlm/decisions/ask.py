"""`decide`: prompts and typed questions in, probabilities out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxdlm.decisions import thought
from jaxdlm.decisions.output import Answers
from jaxdlm.decisions.reader import Reader
from jaxdlm.decisions.wire import one_set, read_questions
from jaxdlm.errors import InputError
from jaxdlm.layout import listed, row_numbers


def decide(
    lm: Any, prompts: Sequence[Any], questions: Any, *, read: str = "label", law: str = "auto", joint: bool | str = False,
    sequential: bool = False, orders: int | str = 1, draws: int | str = "auto", templates: Any = None,
    calibration: Any = None, prior: str | float | None = None, temperature: float = 1.0, cfg: float = 0.0,
    width: int | None = None, cache: str = "auto", seed: int = 0, ids: Sequence[Any] | None = None, batch: int = 16,
    confidence: str = "jev", max_contexts: int = 4096, tolerance: float = 0.01, tokenisations: str = "canonical",
    think: int = 0, order: Any = None, steps: int = 1, reread: float = 0.0, pool: str = "log",
    noise: str = "row",
) -> Answers:  # fmt: skip
    """The probability of every allowed answer to typed questions about each prompt, read from a few forwards.

    p_k = P_k / Σ P over the options of a question, P_k by the law; then the mean of log p over orders and templates, the
    prior's correction, the temperature (arXiv 2102.09690), all in float64.

    Args:
        lm: from `jaxdlm.load`.
        prompts: as in `decode`: what is decided about. A dict is shown as JSON.
        questions: one set for all prompts, or a list with one for each. A set is a list of `Choice`, `Predicate`, `Score`,
            `Number` or of objects as OpenAI's /v1/decisions has them, or a map from names to objects as TypeSafe's
            /v1/systemone has them.
        read: "label": options are listed in the prompt under labels of one token, and these are read. "text": the words of
            the options are scored, and are not listed. Numbers are always read as text.
        law: "slot": one column. "chain": left to right, the end included; sums to 1 over all texts. "product": all columns
            as if independent, one read. "pseudo", "anyorder": see docs/decisions.md. "auto": slot for labels, chain for text.
        joint: all questions in one reply, every label open at once: marginals given the other questions' words and not their
            answers; one read (models with masks or noise). "chain": marginals of P(a_1 .. a_S) = Π p(a_s | those before),
            from all combinations, or from texts drawn where these are more than 256 contexts; and the likeliest answers
            together.
        sequential: all in one reply, one after the other, each given the likeliest answers before it.
        orders: 1, "reverse", "cyclic" or a number: listings of the options that are read and pooled.
        draws: of the noise of a model with uniform noise, whose probabilities are averaged. "auto": 1, and 4 of a question
            whose answer has more than 0.1 nats of entropy then. Else texts that joint="chain" draws: "auto" is 64.
        templates: one or several, pooled: a prompt with {state}, {instructions}, {options}, {ask}, or a `Template`.
        calibration: a file that `jaxdlm decide --calibrate` has written, or what `jaxdlm.decisions.calibrate.fit` returns.
        prior: "contextual" or its strength γ in [0, 1]: log p - γ log r, r from states without content.
        temperature: p = softmax(log p / T); 1. A calibration brings its own.
        cfg: guidance of strength w of labels of masked models, (w + 1) log p - w log u, u with masks in place of the prompt.
        width: open columns of a full-attention masked model under read="text"; default: whole blocks.
        cache: "auto" or "none": every sequence is read whole.
        seed, ids: key the noise of a row, where there is any; ids come back as the ids of rows, by default their places.
        batch: sequences per program, always that many.
        confidence: "jev", "mass" or "entropy"; see `jaxdlm.decisions.pool.confidence`.
        max_contexts: sequences that a question may read; above, the likeliest first, until at most a share `tolerance` of
            the probability is left. The distance that this may make is `bound`.
        tokenisations: "canonical": options under read="text" as the tokenizer spells them. "all": the sum over every way in
            which tokens spell the same letters, up to 4096 of each (law chain or product).
        think: tokens that the model may write about a row before it is asked; `thought` of the row's answers has them.
        order: in which law="chain" writes the columns of a full-attention masked model: left to right (None), a permutation
            such as [2, 1, 0] (the others follow), or "confidence": always the column whose likeliest token is likeliest.
        steps: forwards of a model with uniform noise before it is read: between two, open columns are drawn anew, and the
            model is told what it made of them (self-conditioning); 1: the first forward, as vLLM reads.
        reread: questions whose two likeliest options differ by less than this in log p are read again with weights and
            activations in float32, and marked so; 0: none. `jaxdlm decide --self-check` measures what is worth it.
        pool: "log": readings of orders and templates are pooled as mean of log p, which removes a bias of places that adds to
            logits; "mean": log of the mean of p.
        noise: of a model with uniform noise, drawn by the row's id ("row") or by the tokens that it is asked ("content"): equal
            rows then have equal answers, and equal errors.

    A row's bits depend on its own prompt and questions, the model and these arguments, and on nothing else.

    Raises:
        InputError: for anything that cannot be read; row, question and fix are named. Nothing is read then.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> names = jd.Choice("answer", ["[ Omar , Fay , Kate ]", "[ Kate , Fay , Omar ]"])
        >>> answers = jd.decide(lm, ["reverse : [ Omar , Fay , Kate ]"], [names], read="text")
        >>> answers[0]["answer"].value
        '[ Kate , Fay , Omar ]'
    """
    reader = Reader(
        lm, read=read, law=law, orders=orders, draws=draws, templates=templates, calibration=calibration, prior=prior,
        temperature=temperature, width=width, cache=cache, seed=seed, batch=batch, confidence=confidence,
        max_contexts=max_contexts, tolerance=tolerance, joint=joint, sequential=sequential, cfg=cfg,
        tokenisations=tokenisations, think=think, order=order, steps=steps, reread=reread, pool=pool, noise=noise,
    )  # fmt: skip
    prompts = listed(prompts)
    numbers = list(range(len(prompts))) if ids is None else row_numbers(ids, len(prompts))
    if one_set(questions):
        sets = [read_questions(questions)] * len(prompts)
    elif len(questions) != len(prompts):
        raise InputError(f"questions has {len(questions)} sets for {len(prompts)} prompts: give one, or one per prompt")
    else:
        sets = [read_questions(each, f"questions[{index}]") for index, each in enumerate(questions)]
    thoughts: list[str] | None = None
    if reader.think:
        reading = {"seed": reader.seed, "ids": numbers, "batch": reader.batch}
        prompts, thoughts = thought.think(lm, prompts, sets, reader.think, **reading)
    rows = [reader.prepare(*each, f"row {index}") for index, each in enumerate(zip(prompts, sets, numbers))]
    answers = reader.answer(rows)
    if thoughts is not None:
        answers = [dataclasses.replace(row, thought=text) for row, text in zip(answers, thoughts, strict=True)]
    return Answers(answers)
