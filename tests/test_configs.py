# SPDX-License-Identifier: Apache-2.0
"""Every file of configs: it loads, it is right, and says how to run it.

That `:tiny` runs is tests/end_to_end's; what configs may import is
tests/test_architecture.py's.
"""

import ast
import importlib
import pathlib
import re
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from apprentice import train_step
from apprentice.model import declare
from configs import quickstart
from experts import teacher
from suti.cli import run
from suti.cli.study import STEPS, list_runs
from suti.config import options
from suti.evaluation.findings import MEASURES, list_rows
from suti.io.files import write_json
from suti.nn.param import functional
from suti.pipeline.backbone import describe_backbone

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
# Parts that other configs include, no config of a command.
PARTS = {
  "configs/pretrain/pool.py",
  "configs/studies/study.py",
  *(
    f"configs/{folder}/{path.name}"
    for folder in ("backbones", "sections")
    for path in (CONFIGS / folder).glob("*.py")
  ),
}
FILES = sorted(
  {
    path.relative_to(CONFIGS.parent).as_posix()
    for path in CONFIGS.rglob("*.py")
    if path.name != "__init__.py"
  }
  - PARTS
)
STUDIES = [f for f in FILES if f.startswith("configs/studies/")]
LOOP = [
  f
  for f in FILES
  if not f.startswith(("configs/pretrain/", "configs/studies/"))
]
# {file of configs/backbones: parameters of its U-Net}
BACKBONES = {
  "if1": 935_365_830,
  "imagen64": 2_125_500_419,
  "sd15": 859_520_964,
  "sdxl": 2_567_463_684,
}


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
  "configs/experts/suti_if.py": ("web.csv",),
  "configs/experts/suti_imagen64.py": ("web.csv",),
  "configs/experts/lora_sd15.py": ("web.csv",),
  "configs/experts/lora_sdxl.py": ("web.csv",),
  "configs/experts/syncd_sdxl.py": ("web.csv", "web.csv,tiny"),
  "configs/apprentice/suti_imagen64.py": ("web.csv",),
  "configs/apprentice/syncd_sdxl.py": ("web.csv", "tiny"),
  "configs/apprentice/syncd_world.py": ("", "tiny"),
  "configs/quickstart.py": ("", "tiny"),
  "configs/experts/lora_world.py": ("", "tiny"),
  "configs/experts/textual_inversion.py": ("", "tiny"),
  "configs/experts/syncd_world.py": ("", "tiny"),
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
  before = two.to_dict()
  for content in [one, *one.values()]:
    if isinstance(content, ConfigDict):
      content.unlock()["changed"] = True
  assert two.to_dict() == before
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


@pytest.mark.parametrize("arg", ["", "tiny"])
@pytest.mark.parametrize("file", STUDIES)
def test_each_variant_of_a_study_is_right(file, arg):
  config = module(file).get_config(arg)
  assert config.is_locked
  runs = list(list_runs(config))
  assert len(runs) == len(config.seeds) * len(config.variants)
  assert {name for name, _, _ in runs} == set(config.variants)
  # Two variants never are the same run.
  configs = {one.to_json_best_effort() for _, _, one in runs}
  assert len(configs) == len(runs)
  labels = [row.label for row in list_rows(config, pathlib.Path())]
  assert len(set(labels)) == len(labels)
  assert config.reference in labels
  assert set(config.measures) <= set(MEASURES)


@pytest.mark.parametrize("file", STUDIES)
def test_each_variant_of_a_study_passes_what_a_run_checks(file, monkeypatch):
  """Models and examples are there; the rest is checked as `suti study` does."""
  monkeypatch.setattr("suti.hf.find.find_model", lambda name: None)
  monkeypatch.setattr("apprentice.data.open_folder", lambda folder: None)
  for _, _, one in list_runs(module(file).get_config()):
    run.look_ahead(one, STEPS)


def test_tiny_is_the_quickstart_but_for_its_size():
  quickstart = importlib.import_module("configs.quickstart")
  whole, tiny = quickstart.get_config(), quickstart.get_config("tiny")
  for section in ("method", "mesh"):
    assert whole[section] == tiny[section]
  assert tiny.train.num_steps < whole.train.num_steps
  assert tiny.benchmark.num_subjects < whole.benchmark.num_subjects


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_has_the_parameters_that_its_text_says(name, tmp_path):
  """The published numbers; and its parts fit each other."""
  backbone = importlib.import_module(f"configs.backbones.{name}")
  for part, content in backbone.get_config().to_dict().items():
    stem = "scheduler_config" if part == "scheduler" else "config"
    write_json(tmp_path / part / f"{stem}.json", content)
  opened = describe_backbone(tmp_path)
  spec, _ = functional(opened.unet)
  assert sum(p.size for p in spec.values()) == BACKBONES[name]
  assert f"{BACKBONES[name]:,}" in (backbone.__doc__ or "")
  papers = {"imagen64": "suti_imagen64", "if1": "suti_if"}
  experts = papers.get(name, f"lora_{name}")
  config = module(f"configs/experts/{experts}.py").get_config()
  assert opened.size_px == config.size_px


def test_the_papers_apprentice_has_the_parameters_that_its_text_says(tmp_path):
  """2.5B, 400M of them new; declared, not allocated."""
  paper = importlib.import_module("configs.apprentice.suti_imagen64")
  config = paper.get_config("web.csv").unlock()
  for part, content in config.plan.backbone.to_dict().items():
    stem = "scheduler_config" if part == "scheduler" else "config"
    write_json(tmp_path / part / f"{stem}.json", content)
  opened = describe_backbone(tmp_path)
  rows = re.findall(
    r"  (all|the decoder's) +(4|1|none).* ([\d,]+)  ([\d,]+)",
    paper.__doc__ or "",
  )
  assert len(rows) == 4 and f"{rows[0][3]}  (here)" in (paper.__doc__ or "")
  assert (config.method.sites, config.method.feed_forward) == (paper.DECODER, 4)
  for where, feed_forward, new, total in rows:
    config.method.sites = paper.ALL if where == "all" else paper.DECODER
    config.method.feed_forward = int(feed_forward.replace("none", "0"))
    declared = declare(opened, name="suti", config=config.method)
    num = sum(p.size for p in declared.spec.values())
    assert f"{num:,}" == total
    assert f"{num - BACKBONES['imagen64']:,}" == new


def test_an_unknown_argument_is_one_line():
  quickstart = importlib.import_module("configs.quickstart")
  with pytest.raises(ValueError, match="expected ':tiny' or nothing"):
    quickstart.get_config("teeny")


@pytest.mark.parametrize("user", [teacher, train_step])
@pytest.mark.parametrize(
  ("mean", "expected"), [(None, None), (-0.5, (-0.5, 2.0))]
)
def test_both_losses_are_at_the_steps_of_the_config(
  monkeypatch, user, mean, expected
):
  seen = []

  def record(*args, log_snr, **kw):
    seen.append(log_snr)
    return jnp.zeros(1)

  monkeypatch.setattr(user, "denoising_loss", record)
  config = quickstart.get_config()
  config.train.log_snr_mean = config.finetune.log_snr_mean = mean
  backbone = SimpleNamespace(schedule=None)
  batch = {"image": None, "x_BHWC": None}
  if user is teacher:
    user.tuning_loss(None, backbone, {}, batch, None, config.finetune)
  else:
    method = SimpleNamespace(loss=None, losses=None, encode=lambda *_: None)
    apprentice = SimpleNamespace(backbone=backbone, method=method, apply=None)
    user.make_loss(apprentice, config.train)({}, batch, None)
  assert seen == [expected]
