"""Peak memory and time of a conversion against a plain copy of the same file, both in one run.

    python -m benchmarks.convert --gigabytes 4

Writes a random bfloat16 checkpoint of LLaDA's widths (4096, 12288) to a temporary folder, copies it (cp, fsync), and
converts it in a process of its own while that process's anonymous memory is sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxdlm.checkpoint.safetensors import SafetensorsWriter

D, F, N, H = 4096, 12288, 32, 128
NAMES = {
    "attn_norm": (D,), "ff_norm": (D,), "q_proj": (D, D), "k_proj": (D, D), "v_proj": (D, D), "attn_out": (D, D),
    "ff_proj": (F, D), "up_proj": (F, D), "ff_out": (D, F),
}  # fmt: skip
LAYER_BYTES = 2 * sum(int(np.prod(shape)) for shape in NAMES.values())


def generate(folder: Path, layers: int, vocab: int) -> int:
    """A checkpoint of LLaDA's widths; returns its bytes."""
    shapes = {"model.transformer.wte.weight": (vocab, D)}
    for i in range(layers):
        shapes |= {f"model.transformer.blocks.{i}.{name}.weight": shape for name, shape in NAMES.items()}
    shapes |= {"model.transformer.ln_f.weight": (D,), "model.transformer.ff_out.weight": (vocab, D)}
    config = {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "d_model": D, "n_layers": layers, "n_heads": N,
        "n_kv_heads": N, "mlp_hidden_size": F, "vocab_size": vocab, "embedding_size": vocab, "rope_theta": 5e5,
        "max_sequence_length": 4096, "rms_norm_eps": 1e-5, "weight_tying": False, "mask_token_id": vocab - 1,
        "eos_token_id": 1, "pad_token_id": 1, "rope_full_precision": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    kind = np.dtype(ml_dtypes.bfloat16)
    noise = np.random.default_rng(0).standard_normal(D * F, dtype=np.float32).astype(kind)
    with SafetensorsWriter(
        folder / "model.safetensors", {name: (kind, shape) for name, shape in shapes.items()}
    ) as writer:
        for name, shape in shapes.items():
            writer.write(name, np.resize(noise, shape))
    return (folder / "model.safetensors").stat().st_size


def plain_copy(source: Path, target: Path) -> float:
    """Seconds to copy a file and flush it to the disk."""
    start = time.perf_counter()
    with open(source, "rb") as read, open(target, "wb") as write:
        while os.sendfile(write.fileno(), read.fileno(), None, 2**26):
            pass
        write.flush()
        os.fsync(write.fileno())
    return time.perf_counter() - start


def convert(source: Path, out: Path, more: list[str]) -> tuple[float, float]:
    """(seconds, peak anonymous gigabytes) of the command in a process of its own, output flushed to the disk."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "checkpoints_convert", str(source), str(out), "--quiet", *more]
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"the conversion failed with status {process.returncode}")
    os.sync()
    return time.perf_counter() - start, peak * 1024 / 1e9


def processor_seconds() -> float:
    """Of finished child processes: what the conversion costs whatever else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Generate, copy, convert; one JSON object on stdout."""
    parser = argparse.ArgumentParser(description="Conversion against a plain copy.")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--folder", help="where to write (default: the system's temporary folder)")
    parser.add_argument("--option", action="append", default=[], help="passed on to checkpoints_convert")
    args = parser.parse_args()
    layers = max(1, round((args.gigabytes * 1e9 - 4 * args.vocab * D) / LAYER_BYTES))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (folder / "hub").mkdir()
        size = generate(folder / "hub", layers, args.vocab)
        os.sync()
        copy = min(plain_copy(folder / "hub" / "model.safetensors", folder / "copy") for _ in range(2))
        (folder / "copy").unlink()
        seconds, peak = convert(folder / "hub", folder / "out", args.option)
    stacked = layers * 2 * D * F
    largest = (stacked if stacked <= 2**30 else 2 * D * F) / 1e9
    largest = max(largest, 2 * args.vocab * D / 1e9)
    print(
        json.dumps(
            {
                "gigabytes": round(size / 1e9, 3), "layers": layers, "copy_seconds": round(copy, 2),
                "convert_seconds": round(seconds, 2), "ratio": round(seconds / copy, 2),
                "convert_processor_seconds": round(processor_seconds(), 2), "load": os.getloadavg()[0], "peak_gb": round(peak, 2),
                "largest_leaf_gb": round(largest, 3), "bound_gb": round(0.7 + 3 * largest, 2),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
