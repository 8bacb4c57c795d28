"""What pip calls this project, and whether another project is in its way; the only place that knows the name.

The import and the folder are `jaxdlm`; a distribution of that name on the package index is somebody else's.
"""

import importlib.metadata
import shlex

NAME = "jaxdlm-decode"
VERSION = "0.1.0"


def check() -> None:
    """Raises ImportError where another project's `jaxdlm` is installed: both own one folder, in which files of either
    replace those of the other."""
    for other in importlib.metadata.distributions(name="jaxdlm"):
        if any(point.value.startswith("jaxdlm.eval.harness:") for point in other.entry_points):
            continue  # this project, installed before its distribution had a name of its own
        what = " ".join(filter(None, (other.metadata["Version"], other.metadata["Summary"])))
        raise ImportError(
            f"another project named jaxdlm ({what or 'no version'}) is installed in {other.locate_file('')} and shares "
            f"its folder with this one ({NAME} {VERSION}): pip uninstall jaxdlm, then install this one again from its "
            f"wheel or checkout: pip install --force-reinstall --no-deps WHEEL"
        )


def install(extra: str) -> str:
    """`pip install ...` of what an extra brings, for messages. Its packages are named, as no index has this project."""
    try:
        stated = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        stated = []
    parts = [(requirement, marker.replace('"', "'")) for requirement, _, marker in (x.partition(";") for x in stated)]
    wanted = [shlex.quote(requirement.strip()) for requirement, marker in parts if f"extra == '{extra}'" in marker]
    return f"pip install {' '.join(wanted)}" if wanted else f"pip install '.[{extra}]' in the checkout"


check()  # here and not in the package alone: files of the other project may have replaced that one's
