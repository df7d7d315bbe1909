# SPDX-License-Identifier: Apache-2.0
"""Whose code a config runs; its flags are in `tests.runtime.test_stage`."""

import os
import subprocess
import sys

_CONFIG = """
from ml_collections import ConfigDict
def get_config():
  return ConfigDict({"seed": 3})
"""
_BESIDE = """
import sys
import suti.config.flags
sys.path.remove(ROOT)
config, _ = suti.config.flags.parse(
  ["--config", "configs/mine.py", "--workdir", "w"]
)
import jax, ml_collections
print(config.seed, jax.__name__)
"""


def test_what_lies_beside_the_configs_is_not_run(tmp_path, root):
  """They import each other, and nothing takes the place of a package."""
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "base.py").write_text(_CONFIG)
  (tmp_path / "configs" / "mine.py").write_text(
    "from configs import base\nget_config = base.get_config\n"
  )
  for name in ("jax", "ml_collections", "absl", "json"):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('stolen')\n")
  done = subprocess.run(
    [sys.executable, "-P", "-c", _BESIDE.replace("ROOT", repr(str(root)))],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(root)},
    capture_output=True,
    text=True,
  )
  assert (done.stdout, done.stderr) == ("3 jax\n", "")
