"""Cuts a stack of layers into runs that one `lax.scan` each can run."""

from typing import NamedTuple

from jaxdlm.models.config import ModelConfig

MAX_PERIOD = 8


class LayerShape(NamedTuple):
    """The properties that must be equal for two layers to share a scan body: attention head shapes and the kind of
    feed-forward."""

    attention: str  # "global" or "local"; always "global" where both have the same shapes
    ffn: str  # dense, moe or parallel


class Segment(NamedTuple):
    """Layers start .. start + period * repeats - 1, as `repeats` rounds over `shapes` (one entry per position)."""

    start: int
    repeats: int
    shapes: tuple[LayerShape, ...]

    @property
    def period(self) -> int:
        return len(self.shapes)

    @property
    def stop(self) -> int:
        return self.start + self.period * self.repeats

    def layers(self, position: int) -> range:
        """Layer numbers at this position of the period, in the order of the stacked axis."""
        return range(self.start + position, self.stop, self.period)


def layer_shapes(config: ModelConfig) -> list[LayerShape]:
    """The shape class of each layer."""

    def ffn(layer: int) -> str:
        if config.num_experts == 0 or layer < config.first_dense_layers:
            return "dense"
        return "parallel" if config.moe_parallel_dense else "moe"

    kinds = config.kinds if config.local_shapes_differ else ("global",) * config.num_layers
    return [LayerShape(kind, ffn(layer)) for layer, kind in enumerate(kinds)]


def segments(config: ModelConfig) -> tuple[Segment, ...]:
    """Greedy from the first layer: the (period, repeats) that covers most layers, the shorter period on a tie.

    A period longer than one must repeat, otherwise it would only unroll the stack.
    """
    shapes = layer_shapes(config)
    runs, start = [], 0
    while start < len(shapes):
        candidates = [(period, _repeats(shapes, start, period)) for period in range(1, MAX_PERIOD + 1)]
        period, repeats = max(
            (run for run in candidates if run[0] == 1 or run[1] > 1), key=lambda run: (run[0] * run[1], -run[0])
        )
        runs.append(Segment(start, repeats, tuple(shapes[start : start + period])))
        start += period * repeats
    return tuple(runs)


def locate(config: ModelConfig, layer: int) -> tuple[int, int, int]:
    """(segment, position in its period, index on the stacked axis) of a layer."""
    for number, segment in enumerate(segments(config)):
        if layer < segment.stop:
            repeat, position = divmod(layer - segment.start, segment.period)
            return number, position, repeat
    raise IndexError(layer)


def _repeats(shapes: list[LayerShape], start: int, period: int) -> int:
    first = shapes[start : start + period]
    count = 0
    while len(first) == period and shapes[start + count * period : start + (count + 1) * period] == first:
        count += 1
    return count
