# SPDX-License-Identifier: Apache-2.0
"""Times `suti.hf.weights.load`, and measures the memory that it needs.

  python tests/benchmarks/time_load.py [MEGABYTES]

Writes sets of two files with the shapes of a large U-Net and reads each in a
process of its own, beside safetensors' own reader, which neither converts nor
transposes nor looks for NaN. "extra" is the peak of the process's memory above
what it held before and what it returns. Not a test: a machine at work on
something else decides the figures.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
SHAPES = {  # published, of one block; the layout of the last three is ours
  "conv.weight": ((1280, 1280, 3, 3), "o i h w -> h w i o"),
  "up.weight": ((10240, 1280), "o i -> i o"),
  "down.weight": ((1280, 5120), "o i -> i o"),
  "to_q.weight": ((1280, 1280), "o i -> i o"),
  "to_k.weight": ((1280, 2048), "o i -> i o"),
  "embed.weight": ((4096, 1280), None),
  "norm.weight": ((1280,), None),
  "norm.bias": ((1280,), None),
}
READ = {  # dtype of the file -> dtypes to read it as; None keeps it
  "float32": (None, "bfloat16"),
  "float16": (None, "float32", "bfloat16"),
  "bfloat16": (None, "float32"),
}


def main() -> None:
  """Prints one line for each way to read each set."""
  megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 400
  print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
  for stored, dtypes in READ.items():
    with tempfile.TemporaryDirectory() as folder:
      num = write_set(pathlib.Path(folder), stored, megabytes)
      size = sum(f.stat().st_size for f in pathlib.Path(folder).iterdir())
      print(f"{stored}, {size / 1e6:.0f} MB in two files")
      for cached in (False, True):
        for dtype in ("safetensors", *dtypes):
          if not cached:
            drop_from_cache(pathlib.Path(folder))
          report(folder, num, dtype, cached=cached, size=size)


def write_set(folder: pathlib.Path, dtype: str, megabytes: int) -> int:
  """Writes blocks into two files; returns how many."""
  import ml_dtypes
  import numpy as np
  import safetensors.numpy

  rng = np.random.default_rng(0)
  kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
  block = {
    name: (rng.standard_normal(shape, np.float32) * 0.05).astype(kind)
    for name, (shape, _) in SHAPES.items()
  }
  num = max(2, round(megabytes * 1e6 / sum(v.nbytes for v in block.values())))
  for part in range(2):
    safetensors.numpy.save_file(
      {f"{i}.{n}": v for i in range(part, num, 2) for n, v in block.items()},
      folder / f"model-{part + 1:05d}-of-00002.safetensors",
    )
  return num


def drop_from_cache(folder: pathlib.Path) -> None:
  """Makes the next reader wait for the disk."""
  for path in folder.iterdir():
    with path.open("rb") as file:
      os.fsync(file.fileno())
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(folder: str, num: int, dtype: str | None, **about) -> None:
  """Reads the set in a new process and prints what it measured."""
  command = [sys.executable, __file__, "--read", folder, str(num), str(dtype)]
  output = subprocess.run(
    command, check=True, capture_output=True, text=True
  ).stdout
  seconds, extra = json.loads(output)
  source = "cached" if about["cached"] else "disk"
  print(
    f"  {source:6s} -> {dtype or 'own':12s} {seconds:5.2f} s"
    f" {about['size'] / seconds / 1e9:6.2f} GB/s   extra {extra / 1e6:6.1f} MB"
  )


def read(folder: str, num: int, dtype: str) -> None:
  """Reads the set here; prints seconds and bytes of extra memory."""
  import jax
  import safetensors.numpy

  from suti.hf.weights import load
  from suti.nn.param import ZEROS, Param

  spec = {}
  for i in range(num):
    for name, (shape, torch) in SHAPES.items():
      theirs, ours = (torch or "a -> a").split(" -> ")
      sizes = dict(zip(theirs.split(), shape, strict=False))
      ours = tuple(sizes[d] for d in ours.split()) if torch else shape
      spec[f"{i}.{name}"] = Param(
        shape=ours, init=ZEROS, axes=(None,) * len(ours), torch=torch
      )
  jax.device_put(0.0).block_until_ready()
  before = memory("VmRSS")
  start = time.monotonic()
  if dtype == "safetensors":
    tensors = {}
    for file in sorted(pathlib.Path(folder).iterdir()):
      tensors |= safetensors.numpy.load_file(file)
  else:
    tensors = load(spec, folder, dtype=None if dtype == "None" else dtype)
  seconds = time.monotonic() - start
  size = sum(value.nbytes for value in tensors.values())
  print(json.dumps([seconds, memory("VmHWM") - before - size]))


def memory(what: str) -> int:
  """Bytes that this process holds now (VmRSS) or held at most (VmHWM)."""
  status = pathlib.Path("/proc/self/status").read_text()
  line = next(line for line in status.splitlines() if line.startswith(what))
  return int(line.split()[1]) * 1024


if __name__ == "__main__":
  if sys.argv[1:2] == ["--read"]:
    read(sys.argv[2], int(sys.argv[3]), sys.argv[4])
  else:
    main()
