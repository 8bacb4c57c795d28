"""Typed decisions: choices, yes/no, scores and numbers with probabilities, read from a model without decoding."""
