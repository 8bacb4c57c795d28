"""The child that renders chat templates: Jinja in a sandbox that counts what a template does.

A template gets a number of steps. A turn of a loop, a call, an attribute or item, an operator, a filter and a printed value
take one each, and one more for every UNIT characters (or ITEMS entries) that they read or make, so that whatever is bounded
by the steps has a bounded size, too. What is counted does not depend on the machine: a template that is refused here is
refused everywhere. Memory and time are limited by the process (`jaxdlm.confined`), should the count miss something.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import jinja2.defaults
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.visitor import NodeTransformer

from jaxdlm.confined import limits
from jaxdlm.confined.meter import MAX_RENDERED, Exceeded, check_filter, check_format, check_text, meter
from jaxdlm.controls import Controls

MEMORY = 512 * 2**20
SHOWN = 200  # characters of an error of the template's own
INSTANT = {"length", "count", "first", "default", "d"}  # filters that take no longer for longer values
OPERATORS = {name for name, test in jinja2.defaults.DEFAULT_TESTS.items() if "_operator" in test.__module__}
COMPARING = OPERATORS | {"in", "lower", "upper"}
UNWANTED = {"encode", "translate", "maketrans"}


class Turns:
    """The items of a loop, each turn paid for; its length, where it has one, is for `loop.length`."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            meter.spend()
            yield value

    def __len__(self) -> int:
        return len(self._values)


class Counting(NodeTransformer):
    """Puts the counter into what Jinja compiles to bare Python: loops, `~`, slices, comparisons and literals."""

    def _through(self, name: str, *nodes: Any) -> Any:
        known = {"lineno": nodes[0].lineno, "environment": nodes[0].environment}
        function = jinja2.nodes.EnvironmentAttribute(name, **known)
        return jinja2.nodes.Call(function, list(nodes), [], None, None, **known)

    def visit_For(self, node: Any) -> Any:
        self.generic_visit(node)
        node.iter = self._through("turns", node.iter)
        return node

    def visit_Concat(self, node: Any) -> Any:
        self.generic_visit(node)
        return self._through("joined", *node.nodes)

    def visit_Compare(self, node: Any) -> Any:
        self.generic_visit(node)
        how = "weighed" if {operand.op for operand in node.ops} <= {"in", "notin"} else "weighed_whole"
        for side in (node, *node.ops):
            side.expr = self._through(how, side.expr)
        return node

    def _weighed(self, node: Any) -> Any:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else self._through("weighed", node)

    visit_List = visit_Tuple = visit_Dict = _weighed

    def visit_Getitem(self, node: Any) -> Any:
        return self._weighed(node) if isinstance(node.arg, jinja2.nodes.Slice) else self.generic_visit(node)


class Generation(jinja2.ext.Extension):
    """{% generation %} marks the assistant's words for training masks; for a prompt only its body matters."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with every operation counted."""

    intercepted_binops = frozenset(jinja2.sandbox.SandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols],
            optimized=False,  # the optimiser would run a template's constants while it is compiled
            finalize=printed,
        )  # fmt: skip
        del self.globals["lipsum"], self.filters["random"]  # a prompt depends on nothing but its messages
        self.globals["raise_exception"] = raise_exception
        self.filters["tojson"] = tojson
        self.filters |= {name: counted(name, each) for name, each in self.filters.items() if name not in INSTANT}
        self.tests |= {name: counted(name, each) for name, each in self.tests.items() if name in COMPARING}

    # what compiled templates call

    def turns(self, values: Any) -> Turns:
        return Turns(values)

    def weighed(self, value: Any) -> Any:
        return meter.weigh(value)

    def weighed_whole(self, value: Any) -> Any:
        meter.weigh_whole(value)
        return value

    def joined(self, *parts: Any) -> str:
        return self.concat([str(printed(None, part)) for part in parts])

    def concat(self, parts: Any) -> str:  # type: ignore[override]
        parts = list(parts)
        meter.size(sum(map(len, parts)))
        return meter.weigh("".join(parts))

    def getattr(self, obj: Any, attribute: str) -> Any:
        meter.spend()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        meter.spend()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Not what makes bytes, or a text by a table: neither is counted, and a prompt needs neither."""
        wanted = attr not in UNWANTED and not isinstance(obj, int | float)
        return wanted and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format`, which the sandbox replaces by its own."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None

        @functools.wraps(safe)
        def paid(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, [*args, *kwargs.values()])
            return safe(*args, **kwargs)

        return paid

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if owner is self:
            return obj(*args)
        meter.spend()
        if isinstance(owner, str):
            check_text(getattr(obj, "__name__", ""), owner, args, kwargs)
        return meter.weigh(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter.spend()
        if operator == "**" and not (abs(left) <= 1 << 16 and abs(right) <= 16):
            raise Exceeded("raises a number to a large power")
        if operator == "%" and isinstance(left, str):
            check_format(left, right)
        for sequence, times in ((left, right), (right, left)) if operator == "*" else ():
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                meter.size(len(sequence) * times)
        return meter.weigh(super().call_binop(context, operator, left, right))


@jinja2.pass_context  # so that nothing is printed while a template is compiled
def printed(context: Any, value: Any) -> Any:
    """The text of `{{ value }}`, paid for."""
    if not meter.weigh_whole(value):
        raise TemplateError(f"it prints a {type(value).__name__}, which is no text")
    return value


def counted(name: str, function: Any) -> Any:
    """A filter or test whose arguments and result are paid for."""

    @functools.wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        own = 1 if getattr(function, "jinja_pass_arg", None) else 0  # the environment or context comes first
        check_filter(name, args[own:], kwargs)
        return meter.weigh(function(*args, **kwargs))

    return paid


def raise_exception(message: str) -> None:
    raise TemplateError(message)


def tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.cache
def environment() -> Environment:
    return Environment()


CONTROLS: dict[int, Controls] = {}  # as the caller numbers them


@functools.lru_cache(maxsize=8)
def _compile(template: str, controls: Controls | None) -> Any:
    tree = environment().parse(template)
    return environment().from_string(Counting().visit(tree if controls is None else controls.exchange(tree)))


@functools.lru_cache(maxsize=8)
def _reads(template: str) -> list[str]:
    """The variables that a template asks its caller for."""
    return sorted(jinja2.meta.find_undeclared_variables(environment().parse(template)))


def render(question: Mapping[str, Any]) -> dict[str, Any]:
    """Of {"template", "variables", "steps"}, with the caller's own variables as "more", the number of the template's control
    tokens as "controls" and, once, these as "aliases": {"text", "steps"}; or {"exceeded": the bound}, {"syntax": where and
    why}, {"error": what the template says}, {"unread": one of "more" that it does not ask for, "reads": what else it does}."""
    try:
        number, variables, more = question.get("controls", 0), question["variables"], question.get("more") or {}
        if question.get("aliases") is not None:
            CONTROLS[number] = Controls(question["aliases"])
        controls = CONTROLS.get(number)
        compiled = _compile(question["template"], controls)
        reads = _reads(question["template"]) if more else []
        for name in more:
            if name not in reads:
                return {"unread": name, "reads": [each for each in reads if each == "tools" or each not in variables]}
        variables = (variables if controls is None else controls.mark(variables)) | more
        meter.start(question["steps"])
        pieces, length = [], 0
        for piece in compiled.generate(**variables):
            length += len(piece)
            if length > MAX_RENDERED:
                raise Exceeded(f"renders more than {MAX_RENDERED} characters")
            pieces.append(piece)
        return {"text": "".join(pieces), "steps": meter.most - meter.left}
    except Exceeded as error:
        return {"exceeded": str(error)}
    except MemoryError:
        return {"exceeded": f"takes more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # whatever Python raises where an operation does not fit its operands
        line = " ".join(str(error)[:SHOWN].split()) or type(error).__name__
        if isinstance(error, TemplateSyntaxError):
            return {"syntax": f"line {error.lineno}: {line}"}
        return {"syntax" if isinstance(error, SyntaxError) else "error": line}


# What Jinja and Python import when they first need it, which a confined process cannot any more: escapes, names that are
# not ASCII, some filters, and what becomes of an error
WARM_UP = (
    "{% set é = '\\n' %}",
    "{{ 'a' | wordwrap | striptags | urlize | pprint | xmlattr }}",
    "{{ {'a': 1} | xmlattr }}{{ [{}] | tojson(indent=1) }}",
    "{{ missing.attribute }}",
)


def main() -> None:
    for template in WARM_UP:
        render({"template": template, "variables": {}, "steps": 1000})
        _reads(template)
    limits.confine(MEMORY)
    limits.answer("ready")
    while True:
        question = limits.receive()
        limits.allow_seconds(question["seconds"])
        limits.answer(render(question))
