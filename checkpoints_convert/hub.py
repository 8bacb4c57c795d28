"""Where SOURCE is: a local folder or GGUF file, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from jaxdlm import argument
from jaxdlm._load import PACKAGED, packaged
from jaxdlm.errors import InputError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "tokenizer.model"]


def find_source(source: str, revision: str | None = None) -> Path:
    """A local folder or file as it is, or the file of a packaged model by its name.

    Else the snapshot of a Hub id (weights, JSON and tokenizer files; never code).
    """
    path = argument.path(source, "SOURCE")
    if path.exists() or source in PACKAGED:
        if revision is not None:
            what = "folder" if path.is_dir() else "file" if path.exists() else "model"
            raise InputError(
                f"--revision {revision} has no effect on the {what} {source}: give a Hub id, or leave it out"
            )
        return path if path.exists() else packaged(source)
    if path.is_symlink():
        raise InputError(f"{source}: is a link to nowhere; give an existing folder or GGUF file")
    if not HUB_ID.fullmatch(source):
        raise InputError(f"{source}: no such folder or file, and not a Hub id (owner/name); check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: cannot be fetched from the Hub ({line}); download it and give the folder"
        ) from None
