"""Checkpoints from the Hub: what is fetched of them, and whether the disk has room for it."""

import fnmatch
import pathlib
import shutil

from jaxdlm.errors import InputError

# Configuration, weights, tokenizer. Never code, never pickles.
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
GB = 10**9


def fetched(name: str, revision: str | None = None) -> pathlib.Path:
    """The folder of a Hub id, which is downloaded where it is not there. Raises InputError."""
    import huggingface_hub

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
    except Exception as error:  # its errors share no base class, and the network adds its own
        raise _refused(name, error) from error


def pulled(name: str) -> pathlib.Path:
    """`fetched`, once the disk is known to have room for what is missing. Raises InputError with the numbers where it has
    not."""
    import huggingface_hub
    from huggingface_hub import constants

    try:
        files = huggingface_hub.HfApi().model_info(name, files_metadata=True).siblings or []
    except Exception as error:
        raise _refused(name, error) from error
    wanted = [each for each in files if any(fnmatch.fnmatch(each.rfilename, pattern) for pattern in WANTED)]
    missing = [
        each for each in wanted if not isinstance(huggingface_hub.try_to_load_from_cache(name, each.rfilename), str)
    ]
    need, folder = sum(each.size or 0 for each in missing), _existing(pathlib.Path(constants.HF_HUB_CACHE))
    free = shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{name} has {need / GB:.2f} GB to fetch, and the disk of {folder} has {free / GB:.2f} GB free: make room, or set "
            f"HF_HUB_CACHE to a folder elsewhere"
        )
    return fetched(name)


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _refused(name: str, error: Exception) -> InputError:
    reason = " ".join((str(error) or type(error).__name__).split())[:160]
    return InputError(
        f"there is no folder {name!r}, and the Hub did not give it ({type(error).__name__}: {reason}): check the name and the "
        f"connection, or give a local folder"
    )
