"""Steppers, one per file: what one forward is spent on."""
