"""Evaluation: tasks, checks, metrics and reports."""
