"""Grammars are made once per words and tokenizer, in memory and on disk; a file can be missing or damaged."""

import os

import numpy as np
import pytest

from jaxdlm import grammar
from jaxdlm.core import programs
from jaxdlm.grammar import make, store
from tests.grammar import toys


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A folder of its own, and the list of what was compiled."""
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path))
    store.forget()
    done, table = [], make.token_table
    monkeypatch.setattr(make, "token_table", lambda *given: done.append(given[-1]) or table(*given))
    yield done
    store.forget()


def files(tmp_path):
    return sorted((tmp_path / "grammars").iterdir())


def same(one, other):
    for field in ("words", "fingerprint", "start"):
        assert getattr(one, field) == getattr(other, field)
    for field in ("classes", "next", "accepting", "distance", "forced"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert getattr(one, field).dtype == getattr(other, field).dtype


def test_memory_then_disk(compiled, tmp_path):
    lm = toys.of_words(toys.SEVEN)
    first = grammar.regex("(ab)+", lm)
    assert grammar.regex("(ab)+", toys.of_words(toys.SEVEN)) is first and compiled == ["regex '(ab)+'"]
    assert len(files(tmp_path)) == 1 and files(tmp_path)[0].suffix == ".npz"
    store.forget()
    again = grammar.regex("(ab)+", lm)
    assert again is not first and len(compiled) == 1
    same(first, again)
    grammar.regex("(ab)*", lm)
    grammar.regex("(ab)+", toys.of_words(toys.SEVEN, size=9))
    assert len(compiled) == 3 and len(files(tmp_path)) == 3


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "noise", "pickle", "state", "class", "draft", "other words", "missing", "type"]
)
def test_a_damaged_file_is_made_again(compiled, tmp_path, damage):
    lm = toys.of_words(toys.SEVEN)
    first = grammar.regex("(ab)+", lm)
    (file,) = files(tmp_path)
    arrays = dict(np.load(file))
    data = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "empty":
            file.write_bytes(b"")
        case "noise":
            middle = len(data) // 2
            file.write_bytes(
                data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 40]) + data[middle + 40 :]
            )
        case "pickle":
            np.savez(file, **arrays | {"next": np.array([{}], object)})
        case "state":
            np.savez(file, **arrays | {"next": arrays["next"] + 9})
        case "class":
            np.savez(file, **arrays | {"classes": arrays["classes"] - 1})
        case "draft":
            np.savez(file, **arrays | {"forced": arrays["forced"] + 99})
        case "other words":
            np.savez(file, **arrays | {"words": np.frombuffer(b"regex:x", np.uint8)})
        case "missing":
            np.savez(file, **{name: array for name, array in arrays.items() if name != "distance"})
        case "type":
            np.savez(file, **arrays | {"distance": arrays["distance"].astype(float)})
    store.forget()
    same(first, grammar.regex("(ab)+", lm))
    assert len(compiled) == 2
    store.forget()
    same(first, grammar.regex("(ab)+", lm))
    assert len(compiled) == 2 and len(files(tmp_path)) == 1


@pytest.mark.parametrize("stated", ["off", "gs://mine/programs"])
def test_no_files(compiled, monkeypatch, tmp_path, stated):
    monkeypatch.setenv(programs.VARIABLE, stated)
    lm = toys.of_words(toys.SEVEN)
    assert grammar.regex("(ab)+", lm) is grammar.regex("(ab)+", lm) and len(compiled) == 1
    assert not list(tmp_path.iterdir()) and store.folder() is None


def test_the_users_own_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.delenv(programs.VARIABLE)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "jaxdlm")
    assert store.folder() == tmp_path / "jaxdlm" / "grammars" and store.folder().stat().st_mode & 0o077 == 0


def test_a_folder_that_takes_no_file_costs_nothing_but_time(compiled, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    lm = toys.of_words(toys.SEVEN)
    assert grammar.regex("(ab)+", lm).accepts([2]) and files(tmp_path) == []


def test_another_version_of_the_compiler_reads_none_of_its_files(compiled, monkeypatch):
    lm = toys.of_words(toys.SEVEN)
    grammar.regex("(ab)+", lm)
    monkeypatch.setattr(store, "_compiler", lambda: "another")
    store.forget()
    grammar.regex("(ab)+", lm)
    assert len(compiled) == 2


def test_the_oldest_go(compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "ON_DISK", 3)
    monkeypatch.setattr(store, "IN_MEMORY", 2)
    lm = toys.of_words(toys.SEVEN)
    for age, pattern in enumerate(["a", "b", "a|b", "0", "1"]):
        grammar.regex(pattern, lm)
        newest = max(files(tmp_path), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (10**9 + age, 10**9 + age))
    assert len(files(tmp_path)) == 3
    grammar.regex("1", lm), grammar.regex("0", lm)
    assert len(compiled) == 5
    store.forget()
    grammar.regex("1", lm)
    assert len(compiled) == 5
    grammar.regex("a", lm)
    assert len(compiled) == 6
