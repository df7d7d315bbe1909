# SPDX-License-Identifier: Apache-2.0
"""Sets XLA's flags and the compilation cache, before anything is compiled.

JAX is not imported here: commands call `prepare` first, and its start-up would
delay the error of a wrong command line. Programs that use this code as a
library may call it too, before their first computation.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

# XLA ends a process over a flag that it does not know.
_KNOWS_YNN = ("0.10.", "0.11.")
_YNN = "--xla_cpu_experimental_ynn_fusion_type"


def prepare() -> None:
  """Caches compiled programs, and selects the faster convolutions on CPUs."""
  use_compilation_cache()
  use_eigen_convolutions()


def use_compilation_cache() -> None:
  """Caches compiled programs between commands, in ~/.cache/suti/jax.

  JAX_COMPILATION_CACHE_DIR names another folder; if empty, there is no cache.
  """
  home = os.environ.get("HOME")
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ and home:
    folder = Path(home) / ".cache" / "suti" / "jax"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  # JAX's default bound is a second; small models have many shorter programs.
  seconds = os.environ.setdefault(
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2"
  )
  folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  jax = sys.modules.get("jax")
  if jax is not None and folder:
    # JAX read the environment when it was imported, before this line.
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update(
      "jax_persistent_cache_min_compile_time_secs", float(seconds)
    )


def use_eigen_convolutions() -> None:
  """Makes XLA run a CPU's convolutions with Eigen, not YNNPACK.

  YNNPACK is XLA's default as of jaxlib 0.10, and slower for those of U-Nets,
  most of all in gradients: suti/models/README.md has the numbers. XLA reads its
  flags when it first compiles or looks for devices.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if _YNN not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {eigen_flag()}".strip()


def eigen_flag() -> str:
  """The flag of `use_eigen_convolutions`; "" if XLA may not know it."""
  known = version("jaxlib").startswith(_KNOWS_YNN)
  return f"{_YNN}=-individual_convolution" if known else ""
