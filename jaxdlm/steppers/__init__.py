"""Policies around a policy that decide themselves what one forward is spent on."""

from jaxdlm.steppers.freedave import draft_and_verify

__all__ = ["draft_and_verify"]
