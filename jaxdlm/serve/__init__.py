"""`jaxdlm serve`: models behind HTTP, as OpenAI's clients know it."""
