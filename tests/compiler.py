# SPDX-License-Identifier: Apache-2.0
"""How tests have XLA compile: most of their time is the compiler's."""

from importlib.metadata import version

from suti.runtime.xla_flags import eigen_flag

FLAGS = " ".join(
  [
    "--xla_backend_optimization_level=0",
    # A tiny U-Net and its gradient compile in 5.3 s instead of 8.5. It may not
    # be in every jaxlib, and a process ends at a flag that its own lacks.
    "--xla_cpu_use_fusion_emitters=false"
    if version("jaxlib").startswith("0.10.")
    else "",
    eigen_flag(),  # as commands do that tests start
  ]
).strip()
