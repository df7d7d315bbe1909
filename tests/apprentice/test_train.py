# SPDX-License-Identifier: Apache-2.0
"""Stage 6: how parameters move, what is refused; kills change nothing."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from apprentice import start as starts
from apprentice import train
from apprentice.model import declare, load_apprentice, save_apprentice
from apprentice.optimizer import learning_rate, optimizer
from apprentice.validation import BLIND_LOSS, GAIN, LOSS
from suti.io.files import read_json, write_json
from suti.pipeline.backbone import load_backbone
from suti.runtime.log import read_log
from tests import compiler, tiny
from tests.apprentice import inputs

# --- How parameters move -----------------------------------------------------


def test_rate_warms_up_stays_and_falls():
  rate = learning_rate(
    ConfigDict(
      {
        "learning_rate": 0.5,
        "warmup_steps": 10,
        "num_steps": 100,
        "decay": 0.2,
      }
    )
  )
  np.testing.assert_allclose(
    [rate(s) for s in (0, 5, 10, 79, 90, 100)],
    [0.0, 0.25, 0.5, 0.5, 0.25, 0.0],
    atol=1e-6,
  )


def test_the_rate_is_constant_by_default():
  rate = learning_rate(
    ConfigDict(
      {
        "learning_rate": 0.5,
        "warmup_steps": 0,
        "num_steps": 10,
        "decay": None,
      }
    )
  )
  assert [float(rate(s)) for s in (0, 9)] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["adafactor", "adam"])
def test_parameters_at_zero_move_as_far_as_others(name):
  """Steps relative to a parameter's size would hold new layers at zero."""
  config = ConfigDict({"optimizer": name, "grad_clip": 1e9})
  tx = optimizer(config, lambda step: 0.1)
  params = {"old": jnp.full((4,), 5.0), "new": jnp.zeros((4,))}
  grads = {"old": jnp.full((4,), 0.3), "new": jnp.full((4,), 0.3)}
  # optax.adam raises a float to an integer power.
  with jax.numpy_dtype_promotion("standard"):
    updates, _ = tx.update(grads, tx.init(params), params)
  moved = optax.apply_updates(params, updates)
  np.testing.assert_allclose(moved["new"], -0.1, rtol=1e-3)
  np.testing.assert_allclose(moved["old"], 4.9, rtol=1e-3)


# --- What it refuses ---------------------------------------------------------


def test_a_batch_that_the_devices_cannot_share(tiny_backbone, tmp_path):
  inputs.write_pack(tmp_path)
  config = inputs.make_config(tiny_backbone).unlock()
  config.train.batch_size = 30
  with pytest.raises(
    ValueError,
    match=r"config\.train\.batch_size=30 is not divisible by the 8 devices of "
    r"mesh axis 'data': use a multiple of 8 or set config\.mesh\.data\.",
  ):
    train.run(config, tmp_path)


def test_examples_that_are_not_packed(tiny_backbone, tmp_path):
  with pytest.raises(ValueError, match=r"experts\.pack"):
    train.run(inputs.make_config(tiny_backbone), tmp_path)


def test_an_unknown_method(tiny_backbone, tmp_path):
  inputs.write_pack(tmp_path)
  config = inputs.make_config(tiny_backbone, method="sutii")
  with pytest.raises(ValueError, match=r"Did you mean 'suti'\?"):
    train.run(config, tmp_path)


# --- A killed run ------------------------------------------------------------

STEPS = 12
CONFIG = """
import pathlib
from tests.apprentice.inputs import make_config

def get_config():
  return make_config(
    pathlib.Path({backbone!r}),
    num_devices=1,
    num_steps={steps},
    learning_rate=1e-3,
    warmup_steps=2,
    checkpoint_every=4,
    log_every=2,
    ema=0.9,
  )
"""
# The step in which a run ends: past the second checkpoint, and between two
# lines of the log.
DEATH = 11
DYING = f"""
import os, runpy, signal, sys
import apprentice.validation  # with its own put_batch: steps alone count
from suti.parallel import mesh

put_batch, batches = mesh.put_batch, []
by = getattr(signal, sys.argv.pop(1))

def put_and_die(batch, place):
  batches.append(batch)
  if len(batches) == {DEATH}:
    os.kill(os.getpid(), by)
  return put_batch(batch, place)

mesh.put_batch = put_and_die
runpy.run_module("apprentice.train", run_name="__main__")
"""


def start(
  config: pathlib.Path,
  workdir: pathlib.Path,
  root: pathlib.Path,
  *args,
  program=("-m", "apprentice.train"),
  **env,
):
  """`python -m apprentice.train` as a user starts it, on one device."""
  return subprocess.Popen(
    [
      sys.executable,
      *program,
      *("--config", str(config), "--workdir", str(workdir)),
      *args,
    ],
    cwd=root,
    env=os.environ
    | {
      "XLA_FLAGS": compiler.FLAGS,
      # All runs compile once.
      "JAX_COMPILATION_CACHE_DIR": str(config.parent / "compiled"),
      **compiler.KEEP_ALL,
    }
    | env,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  _, error = process.communicate(timeout=400)
  assert process.returncode == 0, error


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory):
  folder = tmp_path_factory.mktemp("smallest")
  return tiny.write_backbone(folder, unet=tiny.SMALLEST_UNET)


@pytest.fixture(scope="module")
def config_file(tiny_backbone, tmp_path_factory):
  path = tmp_path_factory.mktemp("config") / "config.py"
  path.write_text(CONFIG.format(backbone=str(tiny_backbone), steps=STEPS))
  return path


@pytest.fixture(scope="module")
def unbroken(config_file, tmp_path_factory, root):
  """The workdir of an unbroken run."""
  workdir = tmp_path_factory.mktemp("unbroken")
  inputs.write_pack(workdir)
  finish(start(config_file, workdir, root))
  return workdir


@pytest.fixture
def config(tiny_backbone):
  """What that run was started with."""
  return inputs.make_config(
    tiny_backbone,
    num_devices=1,
    num_steps=STEPS,
    learning_rate=1e-3,
    warmup_steps=2,
    checkpoint_every=4,
    log_every=2,
    ema=0.9,
  )


def losses(workdir):
  return read_scalars(workdir, "loss", "grad_norm")


def held_out_losses(workdir):
  return read_scalars(workdir, LOSS, BLIND_LOSS, GAIN)


def read_scalars(workdir, *names):
  return [
    (line["step"], *(line[name] for name in names))
    for line in read_log(workdir / "apprentice" / "train")
    if names[0] in line
  ]


def weights(workdir):
  folder = workdir / "apprentice" / "train" / "model"
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize(
  ("by", "code", "step"),
  [("SIGKILL", -signal.SIGKILL, 8), ("SIGTERM", 143, DEATH)],
)
def test_a_killed_run_and_an_unbroken_run_are_equal(
  unbroken, config_file, tmp_path, root, by, code, step
):
  inputs.write_pack(tmp_path)
  process = start(config_file, tmp_path, root, program=("-c", DYING, by))
  _, error = process.communicate(timeout=400)
  assert process.returncode == code, error
  folder = tmp_path / "apprentice" / "train"
  assert not (folder / "done.json").exists()
  assert read_log(folder)[-1]["step"] == DEATH - 1
  saved = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")]
  assert max(saved) == step
  assert not (folder / "model").exists()

  finish(start(config_file, tmp_path, root))
  steps = [step for step, _, _ in losses(unbroken)]
  assert steps == list(range(2, STEPS + 1, 2))
  assert losses(tmp_path) == losses(unbroken)
  assert [row[0] for row in held_out_losses(unbroken)] == [0, 4, 8, STEPS]
  assert held_out_losses(tmp_path) == held_out_losses(unbroken)
  assert weights(tmp_path) == weights(unbroken)


@pytest.mark.processes
def test_two_processes_learn_what_one_does(unbroken, config_file, place, root):
  inputs.write_pack(place)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    coordinator = f"127.0.0.1:{free.getsockname()[1]}"
  changes = ("--config.mesh.data=2", "--config.train.num_steps=4")
  processes = [
    start(
      config_file,
      place,
      root,
      *changes,
      SUTI_COORDINATOR=coordinator,
      SUTI_NUM_PROCESSES="2",
      SUTI_PROCESS_ID=str(index),
    )
    for index in (0, 1)
  ]
  for process in processes:
    finish(process)
  one, two = losses(unbroken)[:2], losses(place)
  np.testing.assert_allclose(two, one, rtol=1e-4)
  one, two = (held_out_losses(run) for run in (unbroken, place))
  np.testing.assert_allclose(
    [row[:-1] for row in two],
    [row[:-1] for row in one[:2]],  # the gain is a small difference of these
    rtol=1e-4,
  )
  # The first alone wrote, and the last step is saved.
  folder = place / "apprentice" / "train"
  assert read_json(folder / "done.json")["summary"]["steps"] == 4
  assert (folder / "checkpoints" / "4").is_dir()
  assert weights(place).keys() == weights(unbroken).keys()


def test_the_folder_records_how_it_was_made(unbroken, tiny_backbone):
  folder = unbroken / "apprentice" / "train" / "model"
  record = read_json(folder / "apprentice.json")
  assert record["method"] == "suti"
  assert record["base"] == str(tiny_backbone)
  assert record["config"]["num_heads"] == 2
  assert record["sampling"]["sampler"] == "dpmpp_2m"
  parts = {path.name for path in folder.iterdir()}
  assert parts == {
    "apprentice.json",
    "model_index.json",
    "scheduler",
    "text_encoder",
    "tokenizer",
    "unet",
  }


def _started(declared, config, *, base=None, **train):
  given = config.train.copy_and_resolve_references().unlock()
  given.update(
    {n: str(x) if isinstance(x, pathlib.Path) else x for n, x in train.items()}
  )
  base = base or config.backbone
  return starts.start_params(declared, given, base=str(base), seed=0)


def test_what_was_learned_on_a_base_is_moved_to_another(
  unbroken, config, tiny_backbone, tmp_path
):
  folder = unbroken / "apprentice" / "train" / "model"
  other = tiny.write_backbone(
    tmp_path / "other", seed=5, unet=tiny.SMALLEST_UNET
  )
  declared = declare(load_backbone(other), name="suti", config=config.method)
  given = {"init": folder, "init_base": tiny_backbone, "base": other}
  moved = _started(declared, config, **given)
  # As stage 7 asks for it again, of an apprentice whose folder has no base.
  again = _started(load_apprentice(folder), config, **given)
  for name, array in moved.items():
    np.testing.assert_array_equal(again[name], array)
  learnt = load_apprentice(folder).params
  old, new = load_backbone(tiny_backbone).params, load_backbone(other).params
  assert moved.keys() == learnt.keys()
  for name, array in learnt.items():
    expected = array + new[name] - old[name] if name in old else array
    np.testing.assert_allclose(moved[name], expected, atol=1e-6)
  some = next(name for name in old if "attn2.to_q" in name)
  assert abs(new[some] - old[some]).max() > 0.01, "the two bases differ"
  for wrong, message in (
    ({"init": folder, "init_base": other}, "with another text encoder"),
    ({"init": other, "init_base": other}, "is a backbone: leave init_base"),
  ):
    with pytest.raises(ValueError, match=message):
      _started(declared, config, **wrong)


def test_it_starts_from_a_backbone_or_from_an_apprentice(
  unbroken, config, tiny_backbone
):
  backbone = load_backbone(tiny_backbone)
  declared = declare(backbone, name="suti", config=config.method)
  fresh = _started(declared, config, init=tiny_backbone)
  assert fresh.keys() == declared.spec.keys()
  for name, array in backbone.params.items():
    np.testing.assert_array_equal(fresh[name], array)
  folder = unbroken / "apprentice" / "train" / "model"
  gone_on = _started(declared, config, init=folder)
  learnt = load_apprentice(folder).params
  assert gone_on.keys() == learnt.keys()
  for name, array in learnt.items():
    np.testing.assert_array_equal(gone_on[name], array)


def test_an_apprentice_that_computes_something_else_is_refused(
  unbroken, config, tiny_backbone
):
  folder = unbroken / "apprentice" / "train" / "model"
  config = config.unlock()
  config.method.encoder_gradient = not config.method.encoder_gradient
  config.method.num_heads = 4  # of the same shapes
  backbone = load_backbone(tiny_backbone)
  declared = declare(backbone, name="suti", config=config.method)
  with pytest.raises(ValueError, match=r"num_heads is 4, and 2 in"):
    _started(declared, config, init=folder)


def test_an_apprentice_of_another_base_is_refused(
  unbroken, config, tiny_backbone, tmp_path
):
  folder = unbroken / "apprentice" / "train" / "model"
  other = tiny.write_backbone(
    tmp_path / "other", seed=5, unet=tiny.SMALLEST_UNET
  )
  declared = declare(load_backbone(other), name="suti", config=config.method)
  with pytest.raises(ValueError, match="with another text encoder"):
    _started(declared, config, init=folder)
  # Nor is it opened on what was put in the place of its base.
  alone = tmp_path / "alone"
  save_apprentice(load_apprentice(folder), alone, with_base=False)
  assert load_apprentice(alone).params.keys() == declared.spec.keys()
  record = read_json(alone / "apprentice.json")
  write_json(alone / "apprentice.json", record | {"base": str(other)})
  with pytest.raises(ValueError, match="with another text encoder"):
    load_apprentice(alone)


def test_no_steps_take_the_model_as_it_is(unbroken, config, tmp_path):
  """Without the examples that it names, too: a benchmark trains nothing."""
  folder = unbroken / "apprentice" / "train" / "model"
  config = config.unlock()
  config.train.update(init=str(folder), num_steps=0, warmup_steps=0)
  config.train.examples = (str(tmp_path / "nowhere"),)
  assert train.run(config, tmp_path) == {"steps": 0}
  taken = load_apprentice(tmp_path / "apprentice" / "train" / "model").params
  learnt = load_apprentice(folder).params
  assert taken.keys() == learnt.keys()
  for name, array in learnt.items():
    np.testing.assert_array_equal(taken[name], array)


def test_what_is_not_trained_is_as_it_was_trained(
  unbroken, config, tmp_path, capsys
):
  """An apprentice is evaluated without a flag for each field of its method."""
  folder = unbroken / "apprentice" / "train" / "model"
  config = config.unlock()
  config.train.update(init=str(folder), num_steps=0, warmup_steps=0)
  config.method.update(num_heads=4, feed_forward=2)
  assert train.run(config, tmp_path) == {"steps": 0}
  model = tmp_path / "apprentice" / "train" / "model"
  recorded = [
    read_json(x / "apprentice.json")["config"] for x in (folder, model)
  ]
  assert recorded[0] == recorded[1]
  assert (
    f"As nothing is trained, config.method is that of {folder}: "
    "feed_forward 0, num_heads 2.\n"
  ) in capsys.readouterr().err


def test_another_config_in_the_same_workdir(unbroken, config):
  config = config.unlock()
  config.train.learning_rate = 0.5
  with pytest.raises(ValueError, match=r"config\.train\.learning_rate was"):
    train.run(config, unbroken)


def test_a_finished_stage_returns_immediately(unbroken, config):
  done = unbroken / "apprentice" / "train" / "done.json"
  before = done.stat().st_mtime_ns
  assert train.run(config, unbroken)["steps"] == STEPS
  assert done.stat().st_mtime_ns == before


def test_a_checkpoint_of_another_model(unbroken, config, tmp_path):
  """Found by the checkpoints themselves, should the folder's record be gone."""
  inputs.write_pack(tmp_path)
  folder = tmp_path / "apprentice" / "train"
  folder.mkdir(parents=True)
  shutil.copytree(
    unbroken / "apprentice" / "train" / "checkpoints", folder / "checkpoints"
  )
  config = config.unlock()
  config.backbone = str(tiny.write_backbone(tmp_path / "other"))
  config.train.init = config.backbone
  with (
    inputs.on_devices(1),
    pytest.raises(ValueError, match="is of another model"),
  ):
    train.run(config, tmp_path)
