"""The same rows through Ray Data: a pool of actors, each with a model on its own devices (extra `ray`).

For data sets and clusters that outgrow one slice. Ray schedules and retries; a row's result is that of `jaxdlm batch`.
"""

import dataclasses
import math
import queue
from typing import Any

import numpy as np

from jaxdlm import distribution
from jaxdlm.errors import InputError, Unfinished


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings by which an actor builds its engine; plain values, since it is sent to other machines."""

    model: str = "tiny"
    policy: str | None = None
    cache: str = "none"
    max_new: int = 128
    block: int | None = None
    seed: int = 0
    raw: bool = False
    stop: Any = True
    slots: int = 16
    mesh: str | None = None


class Actor:
    """Decodes batches of rows with columns `id` and one of `prompt`, `messages`, `tokens`, as the command does."""

    def __init__(self, settings: Settings) -> None:
        import jaxdlm as jd
        from jaxdlm import policies as methods
        from jaxdlm._load import describe
        from jaxdlm.batch.cli import make_mesh, read_policies
        from jaxdlm.batch.rows import Defaults
        from jaxdlm.batch.run import make_engine
        from jaxdlm.batch.sampling import heat_of, refusals
        from jaxdlm.resolve import resolve_cache
        from jaxdlm.stops import ends_wanted, read_stops

        words = methods.default(describe(settings.model).config) if settings.policy is None else settings.policy
        policies, cache, mesh = read_policies(words), resolve_cache(settings.cache), make_mesh(settings.mesh)
        self.lm = jd.load(settings.model, mesh=mesh)
        self.engine = make_engine(
            self.lm, policies, cache, max_new=settings.max_new, block=settings.block, mesh=mesh, slots=settings.slots
        )
        stops = read_stops(self.lm, ends_wanted(policies.plain, settings.stop))
        self.defaults = Defaults(
            settings.max_new, settings.seed, settings.raw, policies.heated is not None, stops,
            heat=heat_of(policies.plain), refused=refusals(policies, self.lm.name),
        )  # fmt: skip

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from jaxdlm.batch.answers import Answers
        from jaxdlm.batch.rows import Raw, Refusal, Request, read
        from jaxdlm.batch.sampling import FIELDS, TEMPERATURE

        count = len(next(iter(batch.values())))
        results: list[tuple[Any, Any, str, int, str]] = [(None, None, "error", 0, "")] * count
        window: list[Request] = []
        self.engine.asked = frozenset(batch) & {
            TEMPERATURE,
            *FIELDS,
        }  # of the data set, so that batches are programs alike
        for row in range(count):
            value = {name: _plain(column[row]) for name, column in batch.items()}
            request = read(Raw(row, row, {k: v for k, v in value.items() if v is not None}), self.lm, self.defaults, {})
            if isinstance(request, Request) and request.wants != Answers():
                request = request.refused("several answers and log-probabilities have no column here: leave them out")
            if isinstance(request, Refusal):
                results[row] = (None, None, "error", 0, request.message)
            else:
                window.append(request)

        def sink(request: Request, result: Any) -> None:
            if result is None:
                raise Unfinished(f"row {request.id!r} needs more memory than a device has: use fewer slots")
            if isinstance(result, Refusal):
                results[request.row] = (None, None, "error", 0, result.message)
                return
            text = None if self.lm.tokenizer is None else request.stops.text(self.lm.tokenizer, result.tokens.tolist())
            results[request.row] = (text, result.tokens.tolist(), result.status, result.forwards, "")

        feed: queue.Queue[list[Request] | None] = queue.Queue()
        feed.put(sorted(window, key=lambda request: (-request.max_new, -len(request.tokens), request.row)))
        feed.put(None)
        self.engine.run(feed, sink, lambda: False)
        columns = dict(zip(("text", "tokens", "status", "forwards", "error"), zip(*results)))
        tokens = np.empty(count, object)
        tokens[:] = [np.asarray(row if row is not None else [], np.int32) for row in columns["tokens"]]
        return {**batch, **{name: np.asarray(column, object) for name, column in columns.items()}, "tokens": tokens}


def _plain(value: Any) -> Any:
    """The value as JSON would hold it. In a column with holes Ray makes floats of whole numbers and NaN of the
    holes."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def decode_dataset(
    dataset: Any, settings: Settings, *, actors: int | tuple[int, int] = 1, batch: int = 256, **resources: Any
):
    """A Ray Dataset with `text`, `tokens`, `status`, `forwards` and `error` beside its own columns.

    Args:
        dataset: with columns `id` and one of `prompt`, `messages`, `tokens`; `max_new`, `seed`, `temperature` and
            the other fields of a row (docs/batch.md) are each a column.
        actors: number of actors, or (least, most). batch: rows that an actor takes at a time; its slots run dry in
            between, so give it many times `slots`. resources: of each actor, such as num_cpus=4, resources={"TPU": 4}.
    Rows without an id draw by their place in a batch, which Ray does not promise to keep: give ids.
    Raises InputError where ray is missing, or no column holds ids.
    """
    try:
        from ray.data import ActorPoolStrategy
    except ImportError:
        raise InputError(f"a Ray pipeline needs ray: {distribution.install('ray')}") from None
    if "id" not in dataset.schema().names:
        raise InputError("the data set has no column id: a row's randomness is keyed by it, so add one")
    least, most = actors if isinstance(actors, tuple) else (actors, actors)
    return dataset.map_batches(
        Actor, fn_constructor_args=(settings,), batch_size=batch, compute=ActorPoolStrategy(min_size=least, max_size=most),
        **resources,
    )  # fmt: skip
