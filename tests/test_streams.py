"""Gates of streams: against a slow form that keeps every frame, the clustering of SciPy, and one of our own by squared errors."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

import jaxdlm as jd
from jaxdlm import InputError
from jaxdlm.streams import begin, gate, segments, step

RNG = np.random.default_rng(3)


def scenes(lengths, noise=0.05, width=6, seed=0):
    """(embeddings, the scene of each frame): one random vector per scene, and noise."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(lengths)), lengths)
    return (rng.normal(0, 1, (len(lengths), width))[of] + noise * rng.normal(0, 1, (len(of), width))).astype(
        np.float32
    ), of


def spread(frames):
    return ((frames - frames.mean(0)) ** 2).sum()


def distance(a, b):
    """From what the merger adds to the squared error."""
    return np.sqrt(max(0.0, 2 * (spread(np.concatenate([a, b])) - spread(a) - spread(b))))


def slow_gate(frames, threshold, patience):
    segment, waiting, opened = [], [], []
    for frame in frames.astype(np.float64):
        if not segment:
            segment, moved = [frame], True
        elif distance(np.array(segment), frame[None]) <= threshold:
            segment, waiting, moved = [*segment, frame], [], False
        else:
            agree = waiting and distance(np.array(waiting), frame[None]) <= threshold
            waiting = [*waiting, frame] if agree else [frame]
            moved = len(waiting) >= patience and distance(np.array(segment), np.array(waiting)) > threshold
            segment, waiting = (waiting, []) if moved else (segment, waiting)
        opened.append(moved)
    return opened


def slow_segments(frames, threshold=None, count=1):
    parts = [frames[i : i + 1].astype(np.float64) for i in range(len(frames))]
    while len(parts) > count:
        gaps = [distance(a, b) for a, b in zip(parts, parts[1:])]
        at = int(np.argmin(gaps))
        if threshold is not None and gaps[at] > threshold:
            break
        parts[at : at + 2] = [np.concatenate(parts[at : at + 2])]
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.0])
def test_the_gate_is_the_slow_one(threshold, patience):
    for seed in range(6):
        frames, _ = scenes(RNG.integers(1, 6, 9), noise=0.4, seed=seed)
        frames = np.pad(frames, ((0, 64 - len(frames)), (0, 0)), mode="wrap")  # one program
        assert gate(frames, threshold, patience).tolist() == slow_gate(frames, threshold, patience)


def test_segments_are_those_of_squared_errors():
    for seed in range(8):
        frames, _ = scenes(RNG.integers(1, 5, 6), noise=0.5, seed=seed)
        np.testing.assert_array_equal(segments(frames, threshold=1.2), slow_segments(frames, 1.2))
        np.testing.assert_array_equal(segments(frames, count=4), slow_segments(frames, count=4))


def test_where_scenes_lie_apart_gate_segments_and_scipys_ward_agree():
    frames, of = scenes([4, 7, 1, 5, 9], noise=0.02)
    np.testing.assert_array_equal(segments(frames, threshold=0.8), of)
    assert gate(frames, 0.8).tolist() == [True, *(np.diff(of) > 0).tolist()]
    labels = fcluster(linkage(frames.astype(np.float64), "ward"), 0.8, "distance")
    assert (
        all((labels[of == scene] == labels[of == scene][0]).all() for scene in range(5))
        and len(set(labels.tolist())) == 5
    )
    merged = linkage(frames[:2].astype(np.float64), "ward")[0, 2]
    assert merged == pytest.approx(distance(frames[:1].astype(np.float64), frames[1:2].astype(np.float64)), rel=1e-6)


def test_patience_lets_a_flash_pass_and_a_new_scene_in_late():
    frames = np.zeros((12, 2), np.float32)
    frames[3], frames[6:] = [5, 0], [0, 5]
    assert np.flatnonzero(gate(frames, 1.0)).tolist() == [0, 3, 4, 6]
    assert np.flatnonzero(gate(frames, 1.0, patience=2)).tolist() == [0, 7]
    assert np.flatnonzero(gate(frames, 100.0)).tolist() == [0] and gate(frames[:1], 0).tolist() == [True]
    assert np.flatnonzero(gate(frames, 0)).tolist() == [0, 3, 4, 6]


def test_frame_by_frame_is_the_whole():
    frames, _ = scenes([3, 2, 4], noise=0.3)
    state, opened = begin(6), []
    for frame in frames:
        state, moved = step(state, jnp.asarray(frame), 1.0, 2)
        opened.append(bool(moved))
    assert opened == gate(frames, 1.0, 2).tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(([], 1), "embeddings="), (([[1, 2], [3]], 1), "embeddings="),
     (([[np.nan]], 1), "embeddings="), (([["a"]], 1), "embeddings="),
     ((np.ones(3), 1), "embeddings="), ((np.ones((2, 2)), -1), "threshold=-1"), ((np.ones((2, 2)), 1, 0), "patience=0")],
)  # fmt: skip
def test_what_is_no_stream(wrong, message):
    with pytest.raises(InputError, match=message):
        gate(*wrong)


def test_segments_take_one_of_two_numbers():
    for wrong in ({}, {"threshold": 1.0, "count": 2}):
        with pytest.raises(InputError, match=r"count=.* without a threshold"):
            segments(np.ones((3, 2)), **wrong)
    for wrong in ({"count": 4}, {"count": 0}, {"threshold": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            segments(np.ones((3, 2)), **wrong)
    with pytest.raises(InputError, match="width=0"):
        jd.streams.begin(0)
