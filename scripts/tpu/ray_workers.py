"""Runs `jaxdlm batch --worker` on TPU hosts of a Ray cluster: python ray_workers.py --chips 8 --workers 4 -- INPUT ...

A worker whose host vanishes is started again on another one; what it had claimed is done by the others meanwhile.
"""

import argparse
import subprocess
import sys

BAD_INPUT = 2  # another start would not help


def command(arguments: list[str]) -> list[str]:
    """What a host runs."""
    return [sys.executable, "-m", "jaxdlm", "batch", *arguments, "--worker", "--quiet"]


def work(arguments: list[str]) -> int:
    """Answers until nothing is left. Raises when the work fails, so that Ray tries again; returns 2 for bad input."""
    done = subprocess.run(command(arguments), check=False)
    if done.returncode not in (0, BAD_INPUT):
        raise RuntimeError(f"jaxdlm batch ended with {done.returncode}")
    return done.returncode


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, required=True, help="TPU chips of one host")
    parser.add_argument("--workers", type=int, required=True, help="hosts to use")
    parser.add_argument("arguments", nargs="+", help="of jaxdlm batch, after --")
    args = parser.parse_args()
    ray.init()
    task = ray.remote(num_cpus=1, resources={"TPU": args.chips}, max_retries=-1, retry_exceptions=True)(work)
    sys.exit(max(ray.get([task.remote(args.arguments) for _ in range(args.workers)])))


if __name__ == "__main__":
    main()
