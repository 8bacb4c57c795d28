"""Grammar-aligned sampling: many answers to a prompt, by the model's law on condition that they belong to a language."""
