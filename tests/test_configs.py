# SPDX-License-Identifier: Apache-2.0
"""Every file of configs: it loads, it is right, and says how to run it.

That `:tiny` runs is tests/end_to_end's; what configs may import is
tests/test_architecture.py's.
"""

import ast
import importlib
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from suti import options

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
# Parts that other configs include, no config of a command.
PARTS = {"configs/pretrain/pool.py"}
FILES = sorted(
  {
    path.relative_to(CONFIGS.parent).as_posix()
    for path in CONFIGS.rglob("*.py")
    if path.name != "__init__.py"
  }
  - PARTS
)
LOOP = [f for f in FILES if not f.startswith("configs/pretrain/")]


def module(file: str):
  return importlib.import_module(file.removesuffix(".py").replace("/", "."))


@pytest.fixture
def places(tmp_path, monkeypatch):
  """The places that configs name: a table, and two folders of photographs."""
  (tmp_path / "web.csv").write_text("url,path,text\n")
  for folder in ("my_photos", "data/dreambench"):
    (tmp_path / folder).mkdir(parents=True)
  monkeypatch.chdir(tmp_path)


ARGUMENTS = {
  "configs/experts/photos.py": ("my_photos",),
  "configs/experts/lora_sdxl.py": ("my_photos",),
  "configs/experts/suti_if.py": ("web.csv",),
  "configs/experts/suti_imagen64.py": ("web.csv",),
  "configs/apprentice/suti_imagen64.py": ("web.csv",),
  "configs/quickstart.py": ("", "tiny"),
  "configs/experts/lora_world.py": ("", "tiny"),
  "configs/evaluation/dreambench.py": ("", "data/dreambench"),
}


@pytest.mark.parametrize("file", LOOP)
def test_a_config_is_right_and_locked(file, places):
  for arg in ARGUMENTS.get(file, ("",)):
    config = module(file).get_config(arg)
    options.check(config)
    assert config.is_locked
    with pytest.raises(AttributeError, match="batch_sise"):
      config.train.batch_sise = 1


@pytest.mark.parametrize("file", FILES)
def test_a_config_is_plain_data(file, places):
  """It prints, and two calls give two equal configs that share nothing."""
  arg = ARGUMENTS.get(file, ("",))[0]
  one, two = (module(file).get_config(arg) for _ in range(2))
  assert isinstance(one, ConfigDict)
  assert one.to_dict() == two.to_dict()
  one.unlock()
  one.seed = -1
  assert two.get("seed") != -1
  assert one.to_json_best_effort()


@pytest.mark.parametrize("file", FILES)
def test_the_docstring_has_its_own_command(file):
  """What a reader copies must start this file, not another."""
  text = ast.get_docstring(ast.parse((CONFIGS.parent / file).read_text()))
  assert text
  assert re.search(rf"--config[ =]\S*{re.escape(file)}", text), text
  assert "--workdir" in text


@pytest.mark.parametrize("file", [f for f in LOOP if "quickstart" not in f])
def test_the_docstring_says_what_it_differs_in(file):
  text = ast.get_docstring(ast.parse((CONFIGS.parent / file).read_text()))
  assert text and "Differs from configs/" in text


def test_tiny_is_the_quickstart_but_for_its_size():
  quickstart = importlib.import_module("configs.quickstart")
  whole, tiny = quickstart.get_config(), quickstart.get_config("tiny")
  for section in ("method", "mesh"):
    assert whole[section] == tiny[section]
  assert tiny.train.num_steps < whole.train.num_steps
  assert tiny.benchmark.num_subjects < whole.benchmark.num_subjects


def test_an_unknown_argument_is_one_line():
  quickstart = importlib.import_module("configs.quickstart")
  with pytest.raises(ValueError, match="expected ':tiny' or nothing"):
    quickstart.get_config("teeny")
