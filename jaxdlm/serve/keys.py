"""Who may ask: API keys, which are compared in constant time and never shown."""

import hmac
import os
from collections.abc import Sequence

from jaxdlm import argument
from jaxdlm.checkpoint.files import read_text
from jaxdlm.errors import InputError

VARIABLE = "JAXDLM_API_KEY"
SHORTEST = 8
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Keys:
    """The keys that open a server; none: everybody may ask. Their words are in no message and no `repr`."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<{len(self._keys)} keys>"

    def open(self, header: str) -> bool:
        """Whether an Authorization header brings one of them. All are compared, each in the same time."""
        kind, _, key = header.partition(" ")
        own = key.strip().encode("utf-8", "surrogateescape")
        same = [hmac.compare_digest(own, each) for each in self._keys]
        return not self._keys or (kind.lower() == "bearer" and any(same))


def read_keys(file: str | None) -> Keys:
    """The keys of a file, one per line, and of the environment variable. Raises InputError, which shows none of them."""
    keys = [os.environ[VARIABLE].strip()] if VARIABLE in os.environ else []
    if file is not None:
        path = argument.path(file, "--api-key-file")
        if not path.is_file():
            raise InputError(f"--api-key-file {file} is no file: write one key per line into it")
        lines = [line.strip() for line in read_text(path, path.parent).splitlines()]
        keys += [line for line in lines if line]
        if not any(lines):
            raise InputError(f"--api-key-file {file} holds no key: write one per line")
    short = [key for key in keys if len(key) < SHORTEST or not key.isascii() or " " in key]
    if short:
        raise InputError(
            f"an API key has under {SHORTEST} letters, a space or a letter beyond ASCII: choose another one"
        )
    return Keys(keys)


def check_open(host: str, keys: Keys) -> None:
    """Raises InputError for a server that would answer anybody."""
    if host not in LOOPBACK and not keys:
        raise InputError(
            f"--host {host} without a key would answer anybody who reaches it: set {VARIABLE}, or --api-key-file"
        )
