"""Caches, one per file."""
