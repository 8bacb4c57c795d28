"""`jaxdlm pull`: a released model by its short name."""

import json

import click

from jaxdlm.command import Command, json_flag, section
from jaxdlm.errors import InputError, did_you_mean


@click.command(cls=Command)
@click.argument("name", metavar="NAME")
@section("Output", json_flag("one JSON object: name, hub, folder"))
def pull(name: str, as_json: bool) -> None:
    """Fetch a released model by the short name of jaxdlm models, or by its Hub id: configuration, weights and tokenizer.

    Nothing is fetched that the disk has no room for. Afterwards the name loads without a connection (HF_HUB_OFFLINE=1).
    """
    from jaxdlm._load import hub_id
    from jaxdlm.checkpoint.hub import pulled
    from jaxdlm.models.registry import HUB, RELEASED

    hub = hub_id(name)
    if name in RELEASED and name not in HUB:
        raise InputError(f"nobody has told the Hub id of {name} here: give OWNER/NAME")
    if hub.count("/") != 1:
        raise InputError(
            f"there is no model {name!r:.80}{did_you_mean(name, HUB)}: jaxdlm models lists them, or OWNER/NAME"
        )
    folder = pulled(hub)
    if as_json:
        print(json.dumps({"name": name, "hub": hub, "folder": str(folder)}))
    else:
        print(folder)
