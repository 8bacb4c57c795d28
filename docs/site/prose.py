"""Docstrings are prose for a terminal: brackets and angles in them are mathematics and shapes, no links and no HTML."""

import re
from typing import Any

import griffe

LITERAL = re.compile(r"(``?[^`]*``?)")  # code stays as it is
EXAMPLES = re.compile(r"^\s*Examples:\s*$", re.MULTILINE)


def escaped(text: str) -> str:
    parts = LITERAL.split(text)
    return "".join(
        part if index % 2 else part.replace("[", "\\[").replace("<", "&lt;") for index, part in enumerate(parts)
    )


class Prose(griffe.Extension):
    """Escapes what Markdown would read as its own, up to the examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = obj.docstring.value
        examples = EXAMPLES.search(text)
        cut = examples.start() if examples else len(text)
        obj.docstring.value = escaped(text[:cut]) + text[cut:]
