"""Memory, time and money of a decode on TPU slices that are not here, from the TPU compiler and published figures."""

from jaxdlm.plan.cli import add_parser

__all__ = ["add_parser"]
