"""The programs of a batch job, compiled before it runs."""

import time
from collections.abc import Callable, Hashable

from jaxdlm.batch.progress import counted
from jaxdlm.batch.rows import Request
from jaxdlm.batch.run import Job
from jaxdlm.batch.threads import Reader


def warm(job: Job, say: Callable[[str], None]) -> int:
    """The number of programs that the rows of a job run, all compiled: into JAX's persistent cache, where there is one.

    Each runs once on slots without a row, so that nothing is decoded; rows that would be refused ask for none.
    """
    programs: dict[Hashable, Request] = {}
    for raw in Reader(job.options.input).rows(range(job.index.rows)):
        request = job.understand(raw)
        if isinstance(request, Request):
            programs.setdefault(job.engine.group(request), request)
    begin = time.monotonic()
    for number, request in enumerate(programs.values(), 1):
        columns = f"prompts like that of line {request.line}, {request.max_new} new columns"
        job.engine.ready(request)
        say(f"program {number} of {len(programs)} ({columns}): after {time.monotonic() - begin:.1f} s")
    say(f"{counted(len(programs), 'program')} ready for {counted(job.index.rows, 'row')}")
    return len(programs)
