"""Compiled programs are kept by default, where the user has said nothing else; a folder that cannot be used harms nobody."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from jaxdlm import command
from jaxdlm.core import programs
from tests.conftest import CACHE

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def config(monkeypatch):
    """JAX's settings as they are where nobody touched them; what is set is only noted."""
    noted = {}
    monkeypatch.setattr(jax.config, "update", noted.__setitem__)
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.delenv(programs.VARIABLE, raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    return noted


keep = programs.keep.__wrapped__


def test_the_users_own_folder_of_caches(config, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "jaxdlm")
    folder = pathlib.Path(keep())
    assert folder.parent == tmp_path / "jaxdlm" and folder.name == f"programs-{programs.machine()}"
    assert folder.stat().st_mode & 0o077 == 0, "whoever writes there runs code here"
    assert config == dict(zip(SETTINGS, (str(folder), programs.SECONDS)))


def test_moved(config, monkeypatch, tmp_path):
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "there"))
    assert keep() == str(tmp_path / "there") == config["jax_compilation_cache_dir"]


def test_a_bucket_is_left_to_jax(config, monkeypatch):
    monkeypatch.setenv(programs.VARIABLE, "gs://mine/programs")
    assert keep() == "gs://mine/programs"


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_switched_off(config, monkeypatch, word):
    monkeypatch.setenv(programs.VARIABLE, word)
    assert keep() is None and config == {}


def test_what_jax_was_told_stays(config, monkeypatch, tmp_path):
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", "mine")
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path))
    assert keep() is None and config == {}
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    assert keep() and set(config) == {"jax_compilation_cache_dir"}


def test_a_folder_that_cannot_be_made(config, monkeypatch, tmp_path):
    """A file stands where the folder should: no folder anywhere is no error, a named one is worth a word."""
    (tmp_path / "file").touch()
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "file" / "jaxdlm")
    assert keep() is None
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "file" / "x"))
    with pytest.warns(UserWarning, match="cannot be written to"):
        assert keep() is None
    assert config == {}


def test_the_tests_own_folder_is_in_force():
    assert programs.keep() is None and jax.config.jax_compilation_cache_dir == str(CACHE)


@pytest.mark.parametrize("found", [True, False])
def test_libtpu_is_told_where_there_are_no_chips(found, tmp_path, monkeypatch):
    for name in command.NO_TPU:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5p-8")
    (tmp_path / "accel0").touch()
    command.without_tpu([str(tmp_path / ("accel*" if found else "vfio*"))])

    assert os.environ["TPU_ACCELERATOR_TYPE"] == "v5p-8", "what is set stays"
    assert ("TPU_WORKER_HOSTNAMES" in os.environ) is not found


@pytest.mark.slow
@pytest.mark.parametrize("usable", [True, False])
def test_a_process_of_its_own(usable, tmp_path):
    """What is compiled there lies in the folder afterwards; where there can be none, it runs all the same."""
    folder = tmp_path / "kept"
    if not usable:
        folder.touch()
    code = "from jaxdlm.core.compiled import compiled\nprint(float(compiled()(lambda x: x + 1)(1.0)))"
    env = os.environ | {programs.VARIABLE: str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "2.0\n"
    assert usable is any(folder.glob("*-cache")) and usable is not ("cannot be written to" in done.stderr)
