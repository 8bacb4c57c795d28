"""A job as the command line states it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdlm.batch.gating import Gate
from jaxdlm.structured import Depth


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `jaxdlm batch`; its --help has the meaning of each."""

    input: str
    output: str
    policy: str
    max_new: int
    cache: str = "none"
    block: int | None = None
    seed: int = 0
    raw: bool = False
    stop: Any = True
    language: tuple[str, Any] | None = None
    depth: Depth = "usual"  # to which rows nest that state none of their own
    chat: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # `system`, `tools`, `chat_template_kwargs`
    slots: int = 16
    rows_per_program: int | None = None
    order: str = "longest"
    schema: str = "native"
    shard_rows: int | None = None
    window: int = 8192
    flush: float = 30.0
    lease: float = 60.0
    grace: float = 15.0
    gate: Gate | None = None
    worker: bool = False
    new_run: bool = False
    quiet: bool = False
    host: int = 0
    hosts: int = 1
