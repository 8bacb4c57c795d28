"""Errors that a user can fix; the command line prints their one line and exits with status 2."""


class InputError(ValueError):
    """Bad input: one line that names the thing and the fix."""


class ConfigUnsupported(InputError):
    """A model setting that this library does not implement; the message names the key."""
