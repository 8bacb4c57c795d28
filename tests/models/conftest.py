"""Without PyTorch and transformers the comparisons with them are left out; everything else runs."""

import importlib.util

WITH_TORCH = ["test_parity.py", "families/test_diffusion_gemma.py"]
collect_ignore = [] if all(importlib.util.find_spec(name) for name in ("torch", "transformers")) else WITH_TORCH
