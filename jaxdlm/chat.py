"""Chat templates: messages -> one string, by the model's own Jinja template, in a sandbox of bounded size."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm.controls import Controls
from jaxdlm.errors import InputError

MAX_TEMPLATE = 1 << 18  # characters; the longest released templates (with tools) have about 20,000
MAX_RENDERED = 1 << 22  # characters
MAX_LOOP = 100_000  # iterations of `range` in one rendering

Message = Mapping[str, Any]


def render(
    template: str,
    messages: Sequence[Message],
    variables: Mapping[str, Any],
    controls: Controls | None = None,
    opened: bool = True,
) -> str:
    """messages -> text, with the assistant's turn opened.

    Args:
        template: Jinja source as checkpoints ship it.
        messages: [{"role": ..., "content": ...}, ...].
        variables: the special tokens by name (`bos_token`, `eos_token`, ...), undefined names render as nothing.
        controls: control tokens, which the text then holds as private characters (see `jaxdlm.controls`).
        opened: False leaves the assistant's turn closed.
    Raises InputError where the template fails, refuses the messages (`raise_exception`), or exceeds a bound.
    The environment is that of transformers' apply_chat_template: trim_blocks, lstrip_blocks, loop controls, `tojson`
    without HTML escapes, `tools` and `documents` None. Departure: work and size are bounded, and `strftime_now` is
    absent, since a prompt must not depend on the day.
    """
    from jinja2.exceptions import TemplateError

    if len(template) > MAX_TEMPLATE:
        raise InputError(f"the chat template has {len(template)} characters, more than {MAX_TEMPLATE}: pass raw=True")
    try:
        compiled = _compile(template, controls)
        pieces, length = [], 0
        names = {"tools": None, "documents": None, **variables, "messages": messages, "add_generation_prompt": opened}
        if controls is not None:
            names = controls.mark(names)
        for piece in compiled.generate(**names, range=_bounded_range()):
            length += len(piece)
            if length > MAX_RENDERED:
                raise InputError(f"the chat template renders more than {MAX_RENDERED} characters: shorten the prompt")
            pieces.append(piece)
    except InputError:
        raise
    except (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"the chat template refuses these messages: {first}") from error
    return "".join(pieces)


def _bounded_range():
    """`range` for one rendering, whose calls share a budget of MAX_LOOP iterations (nested loops too)."""
    left = MAX_LOOP

    def bounded(*bounds: int):
        for number in range(*bounds):
            nonlocal left
            left -= 1
            if left < 0:
                raise InputError(f"the chat template loops more than {MAX_LOOP} times: pass raw=True to do without it")
            yield number

    return bounded


@functools.lru_cache(maxsize=8)
def _compile(template: str, controls: Controls | None):
    environment = _environment()
    tree = environment.parse(template)
    return environment.from_string(tree if controls is None else controls.exchange(tree))


@functools.cache
def _environment():
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's words for training masks; for a prompt only its body matters."""

        tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context, operator, left, right):
            """Powers and repeated sequences are the two ways to make something huge without a loop."""
            if operator == "**" and not (abs(left) <= 1 << 16 and abs(right) <= 16):
                raise TemplateError(f"{left} ** {right} is too large for a chat template")
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and len(sequence) * times > MAX_RENDERED:
                    raise TemplateError(f"a sequence repeated {times} times is too large for a chat template")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment
