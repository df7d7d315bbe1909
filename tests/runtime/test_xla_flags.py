# SPDX-License-Identifier: Apache-2.0
"""What commands tell XLA."""

import os
import subprocess
import sys

import pytest

from suti.runtime import xla_flags

YNN = "--xla_cpu_experimental_ynn_fusion_type"
ADDED = f"{YNN}=-individual_convolution"


def test_the_compilation_cache_is_switched_on(monkeypatch, tmp_path):
  import jax

  before = jax.config.jax_compilation_cache_dir
  bound = jax.config.jax_persistent_cache_min_compile_time_secs
  bound_name = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
  try:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("JAX_COMPILATION_CACHE_DIR", bound_name):
      # Set first, so that what the command sets is taken back too.
      monkeypatch.setenv(name, "")
      monkeypatch.delenv(name)
    xla_flags.use_compilation_cache()
    expected = str(tmp_path / ".cache" / "suti" / "jax")
    assert jax.config.jax_compilation_cache_dir == expected
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == expected
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.2
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    xla_flags.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", bound)


@pytest.mark.parametrize(
  ("jaxlib", "before", "after"),
  [
    ("0.10.2", "", ADDED),
    ("0.11.2", "--xla_force_host_platform_device_count=8", None),
    ("0.10.2", f"{YNN}=", f"{YNN}="),
    ("0.12.0", "", ""),
  ],
)
def test_a_flag_is_added_where_it_is_known_and_not_given(
  monkeypatch, jaxlib, before, after
):
  monkeypatch.setattr(xla_flags, "version", lambda _: jaxlib)
  monkeypatch.setenv("XLA_FLAGS", before)
  for _ in range(2):
    xla_flags.use_eigen_convolutions()
    expected = f"{before} {ADDED}" if after is None else after
    assert os.environ["XLA_FLAGS"] == expected


def test_this_jaxlib_knows_the_flag_and_runs_convolutions_by_eigen():
  program = """
import sys
from suti.runtime import xla_flags
xla_flags.use_eigen_convolutions()
assert "jax" not in sys.modules
import jax, jax.numpy as jnp
from suti.nn.convolution import convolve
x, kernel = jnp.ones((2, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
text = jax.jit(convolve, static_argnums=(2, 3)).lower(x, kernel, 1, 1)
print(text.compile().as_text().count(" convolution("))
"""
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  ran = subprocess.run(
    [sys.executable, "-c", program],
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  )
  # Elsewhere it is a call of YNNPACK.
  assert ran.stdout.split() == ["1"]
