"""One table per model family: how to read its config.json and where each of its tensors goes."""
