"""Marks of ParallelBench (arXiv 2510.04767) on free text, each part from the library that its own graders call.

Grammar is LanguageTool's (en-US, no match at all), ROUGE that of rouge_score with stems, BERTScore that of bert_score for
English. BLEU is sacrebleu's without smoothing, with 13a tokens: the same formula as in the `evaluate` package, which
cannot be had without the network. All come with the extra `parallelbench`.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from jaxdlm import distribution
from jaxdlm.eval.tasks.base import Score

EXTRA = "parallelbench"
GRAMMAR, ROUGE, BLEU, BERT = "language_tool_python", "rouge_score", "sacrebleu", "bert_score"
Marks = dict[str, float]


@functools.cache
def _language_tool() -> Any:
    import language_tool_python

    return language_tool_python.LanguageTool("en-US", config={"maxCheckThreads": 1, "maxSpellingSuggestions": 1})


def grammatical(text: str) -> float:
    """1 where the text has words and LanguageTool finds nothing in it, else 0."""
    return float(bool(text.strip()) and not _language_tool().check(text.strip()))


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def rouge(text: str, reference: str) -> Marks:
    """F of ROUGE-1, -2 and -L."""
    return {f"{name}_score": float(one.fmeasure) for name, one in _rouge().score(reference, text).items()}


def bleu(text: str, reference: str) -> float:
    """BLEU of one sentence, 0 to 1: 0 where no four words in a row agree."""
    from sacrebleu import corpus_bleu

    return corpus_bleu([text], [[reference]], smooth_method="none", force=True, use_effective_order=False).score / 100


def bert(text: str, reference: str) -> float:
    """F of BERTScore."""
    from bert_score import score

    return float(score([text], [reference], lang="en")[2][0])


def sentence(payload: Mapping[str, Any], text: str) -> Marks:
    """All words occur, as letters anywhere, and the grammar holds."""
    included = float(all(word in text for word in payload["words"]))
    grammar = grammatical(text)
    return {"inclusion_score": included, "grammar_score": grammar, "score": included * grammar}


def summary(payload: Mapping[str, Any], text: str) -> Marks:
    """ROUGE-L times grammar."""
    text = text.strip()
    made, grammar = rouge(text, payload["summary"].strip()), grammatical(text)
    return {**made, "grammar_score": grammar, "score": made["rougeL_score"] * grammar}


def paraphrase(payload: Mapping[str, Any], text: str) -> Marks:
    """(1 - BLEU) times BERTScore times grammar, of the sentence that was to be said otherwise; 0 for nothing."""
    text = text.strip()
    if not text:
        return dict.fromkeys(("inv_bleu_score", "bertscore_score", "grammar_score", "score"), 0.0)
    other, alike, grammar = 1 - bleu(text, payload["text"]), bert(text, payload["text"]), grammatical(text)
    product = other * alike * grammar
    return {"inv_bleu_score": other, "bertscore_score": alike, "grammar_score": grammar, "score": product}


METRICS: Mapping[str, tuple[Callable[[Mapping[str, Any], str], Marks], tuple[str, ...], tuple[str, ...]]] = {
    # metric -> (marks, fields of the stored answer that it reads, packages)
    "sentence_to_words_score": (sentence, ("words",), (GRAMMAR,)),
    "summary_score": (summary, ("summary",), (ROUGE, GRAMMAR)),
    "paraphrase_score": (paraphrase, ("text",), (BLEU, BERT, GRAMMAR)),
}


def missing(metric: str) -> str | None:
    """Why a metric cannot be computed here, with the fix; None where it can."""
    packages = METRICS[metric][2]
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"{metric} needs {', '.join(absent)} of the extra {EXTRA}: {distribution.install('parallelbench')}"
    if GRAMMAR in packages and shutil.which("java") is None:
        return f"{metric} needs Java, which LanguageTool runs on: install a Java runtime"
    return None


def grade(metric: str, payload: Mapping[str, Any], text: str) -> Score:
    """Marks of an answer; right means the full score. There is no strict form."""
    marks = METRICS[metric][0](payload, text)
    full = marks["score"] >= 1
    return Score(full, full, bool(text.strip()), marks)
