# SPDX-License-Identifier: Apache-2.0
"""XLA's flags, set before anything is compiled.

JAX is not imported here: commands call `prepare` first, and a mistake on their
command line must not cost its start-up. Programs that use this code as a
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
  """Keeps compiled programs, and picks the faster convolutions on CPUs."""
  use_compilation_cache()
  use_eigen_convolutions()


def use_compilation_cache() -> None:
  """Keeps compiled programs between commands, in ~/.cache/suti/jax.

  JAX_COMPILATION_CACHE_DIR names another folder; empty, it switches this off.
  """
  home = os.environ.get("HOME")
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ and home:
    folder = Path(home) / ".cache" / "suti" / "jax"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  # JAX's own bound is a second; small models are many programs of less.
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
  """Has XLA run a CPU's convolutions by Eigen, not by YNNPACK.

  YNNPACK is what XLA chooses by itself as of jaxlib 0.10, and slower over those
  of U-Nets, most of all in gradients: suti/models/README.md says by how much.
  XLA reads its flags when it first compiles or looks for devices.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if _YNN not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {eigen_flag()}".strip()


def eigen_flag() -> str:
  """What `use_eigen_convolutions` adds; nothing where XLA may not know it."""
  known = version("jaxlib").startswith(_KNOWS_YNN)
  return f"{_YNN}=-individual_convolution" if known else ""
