"""The OpenAI batch schema: requests in (`custom_id`, `body`), responses out."""

import json
from collections.abc import Mapping
from typing import Any

from jaxdlm.batch import answers, sampling
from jaxdlm.errors import InputError
from jaxdlm.messages import ARGUMENTS

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
# settings of a body that change no token here; any other one is refused rather than ignored
HARMLESS = {"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "stream": (False,), "echo": (False,),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "function_call": ("none", "auto"),
    "functions": ([],), "stream_options": ({},),
}  # fmt: skip
LANGUAGE = ("response_format", "structured_outputs")
OURS = (  # the last three: of servers
    "tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt",
)  # fmt: skip
OWN = (  # which our own rows have by the same names
    "temperature", "seed", "stop", *LANGUAGE, *sampling.FIELDS, *answers.FIELDS,
)  # fmt: skip
LENGTHS = ("max_completion_tokens", "max_tokens")


def is_request(value: Mapping[str, Any]) -> bool:
    return "custom_id" in value or "body" in value


def is_chat(value: Mapping[str, Any]) -> bool:
    body = value.get("body")
    return isinstance(body, Mapping) and "messages" in body


def body_of(value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The body of a batch line. Raises InputError where there is none."""
    body = value.get("body")
    if not isinstance(value.get("custom_id"), str) or not isinstance(body, Mapping):
        raise InputError(f"{where}: a batch request needs custom_id (a string) and body (an object)")
    return body


def fields(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row in our own names. Raises InputError for what cannot be honoured."""
    body = body_of(value, where)
    if value.get("url", CHAT) not in (CHAT, COMPLETION):
        raise InputError(f"{where}: url {value['url']!r:.60} is not served: one of {CHAT}, {COMPLETION}")
    wanted = {CHAT: "messages", COMPLETION: "prompt"}.get(value.get("url", ""))
    if wanted is not None and body.get(wanted) is None:
        raise InputError(f"{where}: {value['url']} reads body.{wanted}, and there is none: write it, or change the url")
    lengths = [body[name] for name in LENGTHS if body.get(name) is not None]
    prompt = _completed(body.get("prompt"), where)
    known = {"messages", "prompt", *OWN, *LENGTHS, *HARMLESS, *OURS}
    for name, setting in body.items():
        if name not in known and setting is not None and setting not in NEUTRAL.get(name, ()):
            raise InputError(f"{where}: body.{name} is not supported: leave it out")
    return {
        "messages": _called(body.get("messages"), where),
        "prompt": None if isinstance(prompt, list) else prompt,
        "tokens": prompt if isinstance(prompt, list) else None,
        "max_new": lengths[0] if lengths else None,
        **{name: body.get(name) for name in (*OWN, *ARGUMENTS) if name in known},
        "continue_final_message": _resumed(body, where),
    }


def _resumed(body: Mapping[str, Any], where: str) -> Any:
    """`continue_final_message` of a body, which servers read beside `add_generation_prompt`."""
    resumed, opened = body.get("continue_final_message"), body.get("add_generation_prompt")
    if opened is None or (opened is False and resumed is True):
        return resumed
    if opened is True and not resumed:
        return False
    raise InputError(
        f"{where}: body.add_generation_prompt {opened!r:.60} with continue_final_message {resumed!r:.60}: an answer either "
        f"goes on with the last message or is one of its own, leave one of them out"
    )


def _called(messages: Any, where: str) -> Any:
    """Messages of a body, with their calls as templates read them."""
    if not isinstance(messages, list):
        return messages
    return [_spelled_out(message, f"{where}: message {at}") for at, message in enumerate(messages)]


def _spelled_out(message: Any, where: str) -> Any:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_call(call, f"{where}: tool_calls[{at}]") for at, call in enumerate(calls)]}


def _call(call: Any, where: str) -> Any:
    """A call with its arguments as an object, which templates read; the schema has them as JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(text := function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: arguments is no object of JSON ({text!r:.60}): write it as the model called it")
    return {**call, "function": {**function, "arguments": arguments}}


def _completed(prompt: Any, where: str) -> Any:
    """The prompt of a completion: text or token ids, alone or as the one entry of a list."""
    if not isinstance(prompt, list) or not any(isinstance(entry, str | list) for entry in prompt):
        return prompt
    if len(prompt) > 1:
        raise InputError(f"{where}: body.prompt holds {len(prompt)} prompts: write one request for each")
    return prompt[0]


def completed(
    number: str, model: str, choices: list[dict[str, Any]], prompt: int, written: int, chat: bool, created: int = 0
) -> dict[str, Any]:
    """The body of an answer. `created` is 0 in files: a row depends on nothing but its request."""
    return {
        "id": f"cmpl-{number}",
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage(prompt, written),
    }


def usage(prompt: int, written: int) -> dict[str, int]:
    """How many tokens were read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def choice(index: int, text: str | None, reason: str, logprobs: dict[str, Any] | None, chat: bool) -> dict[str, Any]:
    """One of the answers of a line."""
    answer = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    beside = {} if logprobs is None else {"logprobs": logprobs}
    return {"index": index, **answer, **beside, "finish_reason": reason}


def answered(identity: Any, number: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The line around a body."""
    answer = {"status_code": 200, "request_id": f"req-{number}", "body": body}
    return {"id": f"batch_req_{number}", "custom_id": identity, "response": answer, "error": None}


def failure(identity: Any, number: str, message: str, code: str = "invalid_request") -> dict[str, Any]:
    """The line of a request that was refused, or came to nothing."""
    error = {"code": code, "message": message}
    return {"id": f"batch_req_{number}", "custom_id": identity, "response": None, "error": error}
