"""Bodies of requests into rows, read as those of batch files are."""

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdlm import argument
from jaxdlm.batch import decisions
from jaxdlm.batch.openai import CHAT, COMPLETION
from jaxdlm.batch.rows import LARGEST, Defaults, Raw, Refusal, Request, parse, read
from jaxdlm.errors import InputError
from jaxdlm.serve.methods import Methods, Variant
from jaxdlm.serve.refusals import Refused

PLACE = "the body"  # what messages call it
STREAMING = {"include_usage": "usage", "include_obfuscation": "", "denoising": "denoising"}  # of stream_options
TOKENS = "return_token_ids"  # of vLLM's bodies
SERVED = ("stream", "stream_options", "policy", TOKENS)  # which files do not have
LONGER = "has more tokens than"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes at most."""

    body: int = 1 << 22  # bytes
    prompt: int = 1 << 20  # tokens, besides what the model can read
    new: int = 1024  # columns of an answer
    answers: int = 128  # of one request
    queue: int = 256  # answers that wait for a slot
    connections: int = 512
    patience: float = 60.0  # seconds that a client may keep the server waiting


class Asked(NamedTuple):
    """A request that can be decoded. requests: of each prompt; engine: what decodes them."""

    requests: list[Request]
    engine: Any
    chat: bool
    stream: bool = False
    usage: bool = False
    denoising: bool = False
    tokens: bool = False
    seed: int = 0


class Reading:
    """Reads bodies for a model. seed: None, a fresh one for each request that states none."""

    def __init__(
        self, lm: Any, name: str, methods: Methods, seed: int | None, limits: Limits, readers: decisions.Readers
    ) -> None:
        self.lm, self.name, self.methods, self.seed = lm, name, methods, seed
        self.limits, self.readers = limits, readers

    def generation(self, data: bytes, url: str) -> Asked:
        """The rows of a body of CHAT or COMPLETION. Raises Refused."""
        body = self._body(data)
        stream = self._flag(body, "stream")
        told = self._streaming(body, stream)
        tokens = self._flag(body, TOKENS)
        prompts = _prompts(body) if url == COMPLETION else [{}]
        seed = (secrets.randbelow(LARGEST) if self.seed is None else self.seed) if body.get("seed") is None else None
        rest = {key: value for key, value in body.items() if key not in SERVED}
        engine, defaults = self._variant(body.get("policy"))
        defaults = defaults if seed is None else dataclasses.replace(defaults, seed=seed)
        requests = [self._request({**rest, **own}, url, at, defaults) for at, own in enumerate(prompts)]
        most = self.limits.answers
        if sum(request.wants.n for request in requests) > most:
            raise Refused(400, f"{PLACE} asks for more than {most} answers: send several requests", param="n")
        return Asked(requests, engine, url == CHAT, stream, *told, tokens, requests[0].seed)

    def _variant(self, words: Any) -> Variant:
        """The method of a request."""
        try:
            return self.methods.of(None if words is None else argument.text(words, "policy"))
        except InputError as error:
            raise Refused(400, f"{PLACE}: {error}", param="policy") from None

    def questions(self, data: bytes, url: str) -> decisions.Row:
        """The row of a body of typed questions. Raises Refused."""
        value = {"custom_id": "0", "url": url, "body": self._body(data)}
        row = decisions.understand(Raw(0, 0, value, place=PLACE), self.readers, {})
        if isinstance(row, Refusal):
            raise Refused(400, row.message)
        return row

    def _body(self, data: bytes) -> Mapping[str, Any]:
        try:
            body = parse(Raw(0, 0, data, place=PLACE))
        except InputError as error:
            raise Refused(400, str(error)) from None
        model = body.get("model")
        if model is not None and model != self.name:
            raise Refused(
                404, f"there is no model {model!r:.80} here: ask for {self.name!r}", "model_not_found", "model"
            )
        return body

    def _request(self, body: Mapping[str, Any], url: str, at: int, defaults: Defaults) -> Request:
        value = {"custom_id": str(at), "url": url, "body": body}
        request = read(Raw(at, 0, value, place=PLACE), self.lm, defaults, {})
        if isinstance(request, Refusal):
            raise Refused(400, request.message, self._code(request.message))
        length, limits = len(request.tokens), self.limits
        if length > limits.prompt:
            raise Refused(400, f"{PLACE}: the prompt {LONGER} this server reads ({length} > {limits.prompt}): "
                          f"shorten it", "context_length_exceeded", "prompt")  # fmt: skip
        if request.max_new > limits.new:
            raise Refused(400, f"{PLACE}: max_tokens={request.max_new} is more than this server writes "
                          f"({limits.new}): lower it", param="max_tokens")  # fmt: skip
        return dataclasses.replace(request, id=at, key=at)  # as `decode` numbers its rows

    def _code(self, message: str) -> str | None:
        return "context_length_exceeded" if "positions" in message else None

    def _streaming(self, body: Mapping[str, Any], stream: bool) -> tuple[bool, bool]:
        """(whether usage is told at the end of a stream, whether the canvas is after each forward)."""
        options = body.get("stream_options")
        if options is None:
            return False, False
        if not stream:
            raise Refused(400, f"{PLACE}: stream_options needs stream: true", param="stream_options")
        if not isinstance(options, Mapping):
            raise Refused(400, f"{PLACE}: stream_options is no object", param="stream_options")
        for name in options:
            if name not in STREAMING:
                raise Refused(400, f"{PLACE}: stream_options.{name} is not supported: leave it out",
                              param="stream_options")  # fmt: skip
        return self._flag(options, "include_usage"), self._flag(options, "denoising")

    def _flag(self, fields: Mapping[str, Any], name: str) -> bool:
        try:
            return argument.flag(False if fields.get(name) is None else fields[name], name)
        except InputError as error:
            raise Refused(400, f"{PLACE}: {error}", param=name) from None


def _prompts(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompts of a completion, of which there may be several: each a text, or token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(each, str | list) for each in prompt):
        return [{"prompt": each} for each in prompt]
    return [{"prompt": prompt}]
