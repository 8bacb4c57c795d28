"""Conversion of released PyTorch checkpoints: `python -m checkpoints_convert SOURCE OUT`."""
