# SPDX-License-Identifier: Apache-2.0
"""How tests have XLA compile: most of their time is the compiler's."""

from importlib.metadata import version

from suti.runtime.xla_flags import eigen_flag

FLAGS = " ".join(
  [
    "--xla_backend_optimization_level=0",
    # A tiny U-Net and its gradient compile in 5.3 s instead of 8.5; and in a
    # tenth less where a program is not cut for the cores, which all have tests
    # of their own. They may not be in every jaxlib, and a process ends at a
    # flag that its own lacks.
    "--xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith("0.10.")
    else "",
    eigen_flag(),  # as commands do that tests start
  ]
).strip()
# A process keeps every program for those that are started after it.
KEEP_ALL = {
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
