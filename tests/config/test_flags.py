# SPDX-License-Identifier: Apache-2.0
"""Whose code a config runs; its flags are in `tests.runtime.test_stage`."""

import os
import subprocess
import sys

import pytest

from suti.config import flags

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


@pytest.mark.parametrize(
  ("body", "line"),
  [
    ("{}['MY_DATA']", "KeyError: MY_DATA"),
    ("sys.pth", "AttributeError: module 'sys' has no attribute 'pth'"),
    ("None", "its get_config returns nothing."),
    (
      "ConfigDict({'size': 3}).lock().update(sise=3)",
      'KeyError: Key "sise" does not exist. Did you mean "size"',
    ),
  ],
)
def test_a_mistake_inside_of_a_config_is_told_as_one(tmp_path, body, line):
  """And not as a flag that nobody gave."""
  file = tmp_path / "mine.py"
  file.write_text(
    "import sys\nfrom ml_collections import ConfigDict\n"
    f"def get_config():\n  return {body}\n"
  )
  with pytest.raises(ValueError) as caught:
    flags.parse([f"--config={file}", "--workdir", "w"])
  assert str(caught.value).startswith(f"--config={file} failed: {line}")


@pytest.mark.parametrize(
  ("flag", "line"),
  [
    ("train.remat=maybe", "train.remat=maybe: True or False is expected."),
    ("train.remat.x=1", "train.remat.x: FILE has no such field. See the file"),
    ("train.remat.x=None", "train.remat.x: FILE has no such field. See the"),
    ("train.remmat=None", "train.remmat: FILE has no such field. Did you mean"),
  ],
)
def test_a_mistake_of_a_flag_is_told_as_one(tmp_path, flag, line):
  file = tmp_path / "mine.py"
  file.write_text(_CONFIG.replace('"seed": 3', '"train": {"remat": True}'))
  with pytest.raises(ValueError) as caught:
    flags.parse([f"--config={file}", "--workdir", "w", f"--config.{flag}"])
  line = line.replace("FILE", str(file))
  assert str(caught.value).startswith(f"--config.{line}")


def test_a_field_of_any_type_is_left_without_a_value(tmp_path):
  """As configs can; whether it may be, `suti.config.options` says."""
  file = tmp_path / "mine.py"
  file.write_text(
    _CONFIG.replace('"seed": 3', '"a": {"x": 1.5, "n": 2}, "word": "w", "y": 1')
  )
  config, _ = flags.parse(
    [
      *(f"--config={file}", "--workdir=w"),
      *("--config.a.x=None", "--config.word=None", "-config.a.n=None"),
      *("--config.y=None", "--config.y=7"),
    ]
  )
  assert config.to_dict() == {"a": {"x": None, "n": None}, "word": None, "y": 7}
  assert config.is_locked and config.a.is_locked
