import pytest

from jaxdlm.models.registry import RELEASED, released_config
from jaxdlm.models.segments import layer_shapes, locate, segments
from tests.models.configs import CONFIGS


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("llada-8b", [(1, 32)]),
        ("dream-7b", [(1, 28)]),
        ("sdar-30b-a3b", [(1, 48)]),
        ("gemma3-27b", [(1, 62)]),
        ("llada2-mini", [(1, 1), (1, 19)]),
        ("diffusion-gemma-26b", [(6, 5)]),
    ],
)
def test_runs_of_released_models(name: str, runs: list[tuple[int, int]]) -> None:
    assert [(segment.period, segment.repeats) for segment in segments(released_config(name))] == runs


@pytest.mark.parametrize("config", [*CONFIGS.values(), *map(released_config, RELEASED)])
def test_every_layer_is_found_once_with_its_own_shape(config) -> None:
    runs, shapes = segments(config), layer_shapes(config)
    seen = [
        layer
        for segment in runs
        for repeat in range(segment.repeats)
        for layer in (segment.layers(position)[repeat] for position in range(segment.period))
    ]
    assert seen == list(range(config.num_layers))
    for layer, shape in enumerate(shapes):
        number, position, repeat = locate(config, layer)
        assert runs[number].layers(position)[repeat] == layer and runs[number].shapes[position] == shape


def test_a_layer_beyond_the_stack() -> None:
    with pytest.raises(IndexError):
        locate(CONFIGS["full"], 3)
