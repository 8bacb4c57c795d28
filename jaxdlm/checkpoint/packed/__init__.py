"""Weights that other tools have quantised: read as the numbers they stand for, a few rows at a time.

`open_packed` has a file per layout: FP8 with scales, AWQ, GPTQ, bitsandbytes and compressed-tensors.
"""
