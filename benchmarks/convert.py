"""Peak memory and time of a conversion against a plain copy of the same file, both in one run.

    python -m benchmarks.convert --gigabytes 4

Writes a random bfloat16 checkpoint of LLaDA's widths (4096, 12288) to a temporary folder; then, in turns, copies it by
reads and writes with an fsync, and converts it in a process of its own, start to exit, everything flushed, while that
process's anonymous memory is sampled. The source is in the page cache for both where it fits. Before each there is a
pause: a virtual machine gives freed pages back to its host, and what starts sooner gets them for a fifth of the processor
time. The best turn of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
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
PAUSE = 10.0  # seconds
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


def plain_copy(source: Path, target: Path) -> tuple[float, float]:
    """(seconds, processor seconds) to copy a file through one buffer and flush it to the disk; the copy is removed."""
    start, used = time.perf_counter(), time.process_time()
    buffer = memoryview(bytearray(2**23))
    with open(source, "rb", buffering=0) as read, open(target, "wb", buffering=0) as write:
        while count := read.readinto(buffer):
            write.write(buffer[:count])
        os.fsync(write.fileno())
    took = time.perf_counter() - start, time.process_time() - used
    target.unlink()
    return took


def convert(source: Path, out: Path, more: list[str]) -> tuple[float, float, float]:
    """(seconds, processor seconds, peak anonymous gigabytes) of the command in a process of its own, all flushed."""
    start, used = time.perf_counter(), processor_seconds()
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
    took = time.perf_counter() - start
    shutil.rmtree(out)
    return took, processor_seconds() - used, peak * 1024 / 1e9


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
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--option", action="append", default=[], help="passed on to checkpoints_convert")
    args = parser.parse_args()
    layers = max(1, round((args.gigabytes * 1e9 - 4 * args.vocab * D) / LAYER_BYTES))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (folder / "hub").mkdir()
        size = generate(folder / "hub", layers, args.vocab)
        os.sync()
        copies, conversions = [], []
        for _ in range(args.turns):
            time.sleep(PAUSE)
            copies.append(plain_copy(folder / "hub" / "model.safetensors", folder / "copy"))
            time.sleep(PAUSE)
            conversions.append(convert(folder / "hub", folder / "out", args.option))
        copy, seconds = (min(took[0] for took in turns) for turns in (copies, conversions))
    stacked = layers * 2 * D * F
    largest = (stacked if stacked <= 2**30 else 2 * D * F) / 1e9
    largest = max(largest, 2 * args.vocab * D / 1e9)
    print(
        json.dumps(
            {
                "gigabytes": round(size / 1e9, 3), "layers": layers,
                "copy_seconds": [round(took[0], 2) for took in copies],
                "convert_seconds": [round(took[0], 2) for took in conversions], "ratio": round(seconds / copy, 2),
                "copy_processor_seconds": [round(took[1], 2) for took in copies],
                "convert_processor_seconds": [round(took[1], 2) for took in conversions],
                "load": round(os.getloadavg()[0], 1), "peak_gb": round(max(took[2] for took in conversions), 2),
                "largest_leaf_gb": round(largest, 3), "bound_gb": round(0.7 + 3 * largest, 2),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
