"""The playground: one page, which may do nothing but ask its own server."""

import base64
import hashlib
import pathlib
import re
from typing import Any

from jaxdlm.serve.service import Service

FILE = pathlib.Path(__file__).with_name("page.html")


def page() -> tuple[str, dict[str, str]]:
    """(the page, its headers): styles and scripts are those of the file alone, by their hashes, and nothing is fetched from
    elsewhere."""
    text = FILE.read_text(encoding="utf-8")
    hashes = {name: " ".join(_hash(part) for part in _parts(text, name)) for name in ("style", "script")}
    policy = (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; connect-src 'self'; img-src data:; "
        f"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return text, headers


def _parts(text: str, name: str) -> list[str]:
    return re.findall(f"<{name}>(.*?)</{name}>", text, flags=re.DOTALL)


def _hash(part: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"


def offered(service: Service) -> dict[str, Any]:
    """What the page offers: the model, prompts that it understands, the most columns, and methods with their numbers."""
    tokenizer = service.lm.tokenizer
    return {
        "model": service.name, "chat": tokenizer is not None and tokenizer.template is not None,
        "examples": [] if tokenizer is None else list(tokenizer.examples),
        "columns": min(service.limits.new, service.methods.own.defaults.max_new),
        "methods": service.methods.listed(),
    }  # fmt: skip
