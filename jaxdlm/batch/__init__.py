"""Batch generation that survives anything: `jaxdlm batch`."""
