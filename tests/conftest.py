"""Settings of every test: CPU, four virtual devices, strict promotion, a compilation cache that the workers share.

The environment is set before anything imports JAX, so this file imports it last.
"""

import gc
import importlib.metadata
import itertools
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    # small programs that run once: compiled quickly rather than well (a third of the time, same arithmetic), and in one
    # piece, as every core has a worker of its own
    quick = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    if version < (0, 12):  # XLA ends the process at a flag that it does not know
        quick += " --xla_cpu_use_fusion_emitters=false"
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=4 {quick}".strip()

import jax
import pytest

CACHE = pathlib.Path(
    os.environ.get("JAXDLM_TEST_CACHE", pathlib.Path(tempfile.gettempdir()) / f"jaxdlm-test-cache-{os.getuid()}")
)

os.environ.setdefault("JAXDLM_COMPILE_CACHE", str(CACHE))  # of processes that tests start
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)  # storing takes a tenth of a second
jax.config.update("jax_traceback_in_locations_limit", 0)  # nobody reads them
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


CHECKED = ["jaxdlm.models"]
# A compiled program holds some dozens of memory maps, and Linux gives a process 65,530: the process dies beyond. Counting
# tens of thousands of them takes a while, so that only every twentieth test does it.
MOST_MAPS = 45_000
ended = itertools.count(1)


def pytest_addoption(parser):
    parser.addoption("--shapes", action="store_true", help="check annotated arrays of the models at run time")


def pytest_configure(config):
    if config.getoption("--shapes"):
        import jaxtyping

        jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


def pytest_collection_modifyitems(config, items):
    """What is exhaustive runs where it is asked for by `-m`."""
    if "exhaustive" not in config.option.markexpr:
        apart = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]


def pytest_collection_finish(session):
    """Tracing makes many small objects and few cycles: what the imports made is searched for them no more, the rest less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def pytest_runtest_teardown(item, nextitem):
    """Drops the compiled programs of earlier tests before the process runs out of memory maps."""
    maps = pathlib.Path("/proc/self/maps")
    if next(ended) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


def pytest_sessionfinish(session):
    """What is left is searched for what was never closed once, not again by everything that ends after this."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _few_torch_threads():
    """Two workers with all cores each would only fight: one thread for PyTorch, where a test has imported it."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    yield
