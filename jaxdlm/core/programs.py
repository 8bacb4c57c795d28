"""Compiled programs are kept on disk from one process to the next, by JAX's own persistent cache."""

import functools
import hashlib
import os
import pathlib
import platform
import warnings

import jax
import platformdirs

VARIABLE = "JAXDLM_COMPILE_CACHE"
OFF = ("off", "0", "false", "no", "none")
SECONDS = 0.2  # a program that compiled faster is not worth a file; JAX's own bound is 1


@functools.cache
def keep() -> str | None:
    """The folder that compiled programs go to from now on, or None. Nothing happens where JAX was told of one already.

    JAXDLM_COMPILE_CACHE: another folder, or "off". A folder that cannot be written to costs a warning (where it was
    named) and the time to compile, nothing else. Whoever can write to it can run code here, so it is the user's own.
    """
    stated = os.environ.get(VARIABLE, "")
    if stated.lower() in OFF or jax.config.jax_compilation_cache_dir is not None:
        return None
    folder = pathlib.Path(stated).expanduser() if stated else default()
    if "://" in stated:
        name = stated  # a bucket: what JAX says when it cannot be reached is a warning, too
    elif writable(folder):
        name = str(folder)
    else:
        if stated:
            warnings.warn(f"{VARIABLE}={stated} cannot be written to: programs are compiled again", stacklevel=2)
        return None
    jax.config.update("jax_compilation_cache_dir", name)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    return name


def default() -> pathlib.Path:
    """`jaxdlm/programs-...` in the user's folder of caches; its name ends in the kind of machine, as programs for CPUs
    use its instructions."""
    return platformdirs.user_cache_path("jaxdlm", appauthor=False) / f"programs-{machine()}"


def machine() -> str:
    """Eight letters for the processor's architecture and instructions."""
    try:
        with open("/proc/cpuinfo") as file:
            words = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:  # no Linux
        words = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {words}".encode()).hexdigest()[:8]


def writable(folder: pathlib.Path) -> bool:
    """Whether the folder is there, or can be made (for the user alone), and takes files."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
