"""lm-evaluation-harness: the model `jaxdlm` for tasks of the `lm_eval` package (extra: eval).

    python -m jaxdlm.eval.harness run --model jaxdlm --model_args model=tiny,policy=threshold --tasks T

is `lm_eval` with that model known. `lm_eval` is imported where it is used, so this module loads without it.
"""

import functools
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdlm import distribution
from jaxdlm.errors import InputError
from jaxdlm.eval import likelihood, metrics
from jaxdlm.layout import bucket_of
from jaxdlm.policies import default, read

CHAT = (
    "\u241ajaxdlm-chat "  # a rendered chat: its messages as JSON, so that control tokens come from the template alone
)
NAME = "jaxdlm"
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # as lm_eval's own models read them


class Adapter:
    """The requests of lm_eval answered by `jaxdlm.decode` and by `jaxdlm.eval.likelihood`.

    Args:
        model: what `jaxdlm.load` takes. policy, cache: as for `jaxdlm generate`. The harness splits model_args at
            commas, so write arguments of a policy with `+`: policy=local_leap+kappa=0.9.
        gen_length: columns to generate at most; a task's smaller max_gen_toks wins. block: block length.
        batch_size: rows per forward. mc_num: Monte-Carlo samples per likelihood (128 in arXiv 2502.09992).
        cfg: classifier-free guidance of the likelihoods. greedy: also find whether the answer is what one token per
            forward would write (N forwards each; as LLaDA's class does by default, off here: then False).
        max_length: columns of prompt and answer together. seed: of everything random.
    A row's result does not depend on batch or order. Prompts that are too long lose their beginning.
    Attributes: errors: Monte-Carlo standard errors of the last likelihoods. counts: tokens and forwards of all
    generations, counted on ids before the text is cut.
    """

    def __init__(
        self, model: str = "tiny", policy: str | None = None, cache: str = "none", gen_length: int = 256,
        block: int = 32, batch_size: int | str = 16, mc_num: int = 128, cfg: float = 0.0, greedy: bool = False,
        max_length: int | None = None, seed: int = 0, dtype: str | None = None, device: Any = None,
        max_batch_size: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        import jaxdlm as jd

        self.lm = jd.load(model, dtype=dtype)
        self.tokenizer: Any = self.lm.tokenizer
        if self.tokenizer is None:
            raise InputError(f"model {model!r} has no tokenizer: {self.lm.advice or 'the harness asks with text'}")
        words = default(self.lm.config) if policy is None else str(policy)
        self.policy, self.cache, self.block = words.replace("+", ","), cache, int(block)
        self.gen_length, self.mc_num, self.cfg, self.greedy = int(gen_length), int(mc_num), float(cfg), bool(greedy)
        self.batch = 16 if batch_size in (None, "auto") else int(str(batch_size).split(":")[0])
        limit = self.lm.config.max_position
        self.max_length, self.seed = min(int(max_length or limit), limit), int(seed)
        self.errors: list[float] = []
        self.counts = {"tokens": 0, "forwards": 0, "rows": 0}
        _policy(self.policy, 0.0)

    # ------------------------------------------------------------------------------------------------- prompts

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm_eval's request cache."""
        digest = hashlib.sha256(self.tokenizer.backend.to_str().encode()).hexdigest()[:8]
        return f"{NAME}-{self.lm.name.replace('/', '__')}-{digest}"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as one string that `generate_until` and `loglikelihood` read back.

        Without add_generation_prompt the last message is the beginning of the answer.
        """
        opened, rest = (chat_history, "") if add_generation_prompt else (chat_history[:-1], chat_history[-1]["content"])
        return CHAT + json.dumps(opened, ensure_ascii=False) + rest

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Stored by lm_eval beside its results."""
        return self.tokenizer.template or ""

    def prompt_ids(self, context: str) -> list[int]:
        """Ids of a context: plain text, or a chat with what the answer begins with. Empty: the beginning of text."""
        head, text = self._split(context)
        return [*head, *self.tokenizer.encode_inside(text)] or [self._prefix()]

    def _split(self, context: str) -> tuple[list[int], str]:
        """(ids that stand before the text of a context, the text): what is put in front of every text, or a chat."""
        if not context.startswith(CHAT):
            return (self.tokenizer.front, context) if context.strip() else ([], "")
        messages, end = json.JSONDecoder().raw_decode(context[len(CHAT) :])
        return self.tokenizer.encode_chat(messages), context[len(CHAT) + end :]

    def _prefix(self) -> int:
        tokens = self.lm.config.tokens
        first_id = next((i for i in (self.tokenizer.bos, tokens.bos, *tokens.eos) if i is not None), None)
        if first_id is None:
            raise InputError(f"{self.lm.name} has no token that begins or ends a text, so an empty context is none")
        return first_id

    def pair(self, context: str, continuation: str) -> likelihood.Pair:
        """Ids of both, which are those of the two texts together, cut where they leave those of the context alone.

        So a token that spans context and continuation is scored with the continuation. Spaces at the end of the context
        belong to the continuation. A context that leaves no token is the beginning of text.
        """
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        head, text = self._split(context)
        alone, whole = map(self.tokenizer.encode_inside, (text, text + continuation))
        shared = next((at for at, (a, b) in enumerate(zip(alone, whole)) if a != b), min(len(alone), len(whole)))
        before = [*head, *whole[:shared]] or [self._prefix()]
        answer = whole[shared:][: self.max_length - 1]
        return likelihood.Pair(tuple(before[-(self.max_length - len(answer)) :]), tuple(answer))

    # ---------------------------------------------------------------------------------------------- likelihoods

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """[(log-likelihood, or its bound; whether it is what greedy decoding writes)]."""
        pairs = [self.pair(*request.args) for request in requests]
        estimates = self._score(pairs)
        self.errors = [estimate.se for estimate in estimates]
        is_greedy = self._is_greedy(pairs) if self.greedy else [False] * len(pairs)
        return [(estimate.value, same) for estimate, same in zip(estimates, is_greedy)]

    def _score(self, pairs: Sequence[likelihood.Pair]) -> list[likelihood.Estimate]:
        """An answer without a token is certain."""
        options: dict[str, Any] = {"draws": self.mc_num, "seed": self.seed, "batch": self.batch, "cfg": self.cfg}
        scored = iter(likelihood.score(self.lm, [pair for pair in pairs if pair.answer], **options))
        return [next(scored) if pair.answer else likelihood.Estimate(0.0, 0.0) for pair in pairs]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Whole texts in disjoint windows, each after the beginning-of-text token."""
        estimates = []
        for request in requests:
            ids = self.tokenizer.encode_inside(request.args[0])
            options = {"draws": self.mc_num, "seed": self.seed, "batch": self.batch, "cfg": self.cfg}
            estimates.append(likelihood.rolling(self.lm, ids, self._prefix(), self.max_length, **options))
        self.errors = [estimate.se for estimate in estimates]
        return [estimate.value for estimate in estimates]

    def _is_greedy(self, pairs: Sequence[likelihood.Pair]) -> list[bool]:
        """One token per forward, the surest first, in one block of the answer's length."""
        import jaxdlm as jd

        same = [not pair.answer for pair in pairs]
        groups: dict[int, list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            if pair.answer:
                groups[len(pair.answer)].append(index)
        causal = self.lm.config.tokens.mask is None
        for length, members in groups.items():
            for part in _parts(members, self.batch):
                prompts = [list(pairs[i].context) for i in part]
                policy = "autoregressive" if causal else "low_confidence"
                out = jd.decode(
                    self.lm, prompts, policy=policy, max_new=length, block=None if causal else length, seed=self.seed
                )
                for i, row in zip(part, out.tokens):
                    same[i] = row.tolist() == list(pairs[i].answer)
        return same

    # ---------------------------------------------------------------------------------------------- generation

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut at the first `until` string and at the end of text."""
        answers = [""] * len(requests)
        groups: dict[tuple[int, float, int], list[tuple[int, list[int]]]] = defaultdict(list)
        for index, request in enumerate(requests):
            context, options = request.args
            columns = self._columns(options)
            temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
            ids = self.prompt_ids(context)[-(self.max_length - columns) :]
            groups[columns, temperature, bucket_of(len(ids))].append((index, ids))
        for (columns, temperature, _), members in sorted(groups.items()):
            for part in _parts(members, self.batch):
                for (index, _), text in zip(part, self._generate([ids for _, ids in part], columns, temperature)):
                    answers[index] = cut(text, requests[index].args[1].get("until"))
        return answers

    def _columns(self, options: Mapping[str, Any]) -> int:
        """Columns to generate for a request: the task's number, under any of its names, unless gen_length is smaller."""
        asked = next((options[name] for name in LENGTHS if options.get(name) is not None), self.gen_length)
        columns = min(self.gen_length, int(asked))
        if not 1 <= columns < self.max_length:
            raise InputError(
                f"{columns} tokens to generate leave no prompt in max_length={self.max_length}: set gen_length (or the "
                f"task's max_gen_toks) from 1 to {self.max_length - 1}"
            )
        return columns

    def _generate(self, prompts: list[list[int]], columns: int, temperature: float) -> list[str]:
        """Texts of a batch that is filled up to the batch size, so that one program serves all."""
        import jaxdlm as jd
        from jaxdlm.resolve import has_blocks

        filled = prompts + [prompts[-1]] * (self.batch - len(prompts))
        ids = [likelihood.Pair(tuple(prompt), (0,)).number for prompt in filled]
        policy = _policy(self.policy, temperature)
        block = min(self.block, columns) if has_blocks(policy) else None
        out = jd.decode(
            self.lm, filled, policy=policy, cache=self.cache, max_new=columns, block=block, seed=self.seed, ids=ids,
        )  # fmt: skip
        size = len(prompts)
        counted = metrics.tokens_to_end(out.tokens[:size], self.lm.config.tokens.eos)
        for name, value in (("tokens", counted.sum()), ("forwards", np.sum(out.forwards[:size])), ("rows", size)):
            self.counts[name] += int(value)
        return list(out.text or [])[:size]

    @property
    def tokens_per_forward(self) -> float:
        """Counted tokens over forwards, of all generations so far."""
        return self.counts["tokens"] / max(1, self.counts["forwards"])

    def get_model_info(self) -> dict[str, Any]:
        """Stored by lm_eval beside its results."""
        return {"policy": self.policy, "gen_length": self.gen_length, "block": self.block, **self.counts}


def _parts(members: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [members[first : first + size] for first in range(0, len(members), size)]


def _policy(words: str, temperature: float) -> Any:
    return read(words, {"temperature": temperature} if temperature else {})


def cut(text: str, until: Any) -> str:
    """Text before the first of the `until` strings (one, a list, or None)."""
    words = [until] if isinstance(until, str) else list(until or [])
    ends = [text.find(word) for word in words if word and word in text]
    return text[: min(ends)] if ends else text


@functools.cache
def register() -> type:
    """The class under the name `jaxdlm` in lm_eval's registry. Raises InputError where lm_eval is not installed."""
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise InputError(f"lm-evaluation-harness is not installed: {distribution.install('eval')}") from error
    import lm_eval.models  # the table of lazy names first: it would not be read once the registry holds one

    assert lm_eval.models
    return register_model(NAME)(type("JaxDLM", (Adapter, LM), {"__doc__": Adapter.__doc__}))


def __getattr__(name: str) -> Any:
    if name == "JaxDLM":  # what the entry point of group lm_eval.models names
        return register()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """The command of lm_eval, with the model registered."""
    try:
        register()
    except InputError as error:
        sys.exit(f"jaxdlm: {error}")
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
