"""Generators and checks of the embedded benchmark, one family per file."""
