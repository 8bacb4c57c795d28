"""Training: one step, losses, and one recipe per file."""
