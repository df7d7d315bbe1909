# SPDX-License-Identifier: Apache-2.0
"""Candidates: the same in any batch, and after a kill."""

import gc
import shutil

import jax
import numpy as np
import pytest

from experts import finetune, sample
from experts.farm import sampling, train_step, wave_files
from experts.prompts import read_prompts
from suti.io.files import read_json, write_json
from suti.pipeline.backbone import load_backbone
from tests.experts import inputs


def copy_of(tuned, name):
  workdir = tuned[0].parent / name
  shutil.rmtree(workdir, ignore_errors=True)
  shutil.copytree(tuned[0], workdir)
  return workdir


def config_of(tuned, **kw):
  config = tuned[1].copy_and_resolve_references().unlock()
  config.finetune.keep = kw.pop("keep", "trainable")
  config.sample.update(kw)
  return config


def candidates_of(workdir):
  return [c for file in sample.open_candidates(workdir) for c in file]


@pytest.fixture(scope="module")
def drawn(tuned):
  workdir = copy_of(tuned, "drawn")
  config = config_of(tuned, images_per_prompt=2, batch_size=3)
  sample.run(config, workdir)
  return workdir


def test_every_prompt_gets_its_pictures(drawn):
  rows = candidates_of(drawn)
  prompts = read_prompts(drawn)
  assert [(c.cluster, c.prompt) for c in rows] == [
    (p.cluster, p.prompt) for p in prompts for _ in range(2)
  ]
  assert len({c.key for c in rows}) == len({c.seed for c in rows}) == len(rows)
  assert all(c.image.shape == (16, 16, 3) for c in rows)
  first, second = rows[:2]
  assert (first.image != second.image).any()


def test_a_picture_does_not_depend_on_its_batch(tuned, drawn):
  workdir = copy_of(tuned, "other_batch")
  config = config_of(tuned, images_per_prompt=1, batch_size=2)
  sample.run(config, workdir)
  ours = {c.key: c for c in candidates_of(workdir)}
  assert len(ours) == len(candidates_of(drawn)) / 2
  theirs = {c.key: c for c in candidates_of(drawn)}
  for key, candidate in ours.items():
    # Another batch is another order of sums: one level of 255.
    difference = candidate.image.astype(int) - theirs[key].image
    assert np.abs(difference).max() <= 1


class KilledError(Exception):
  """Stands for kill -9."""


def test_a_killed_run_resumes_and_deletes_weights(tuned, drawn, monkeypatch):
  workdir = copy_of(tuned, "killed")
  config = config_of(tuned, images_per_prompt=2, batch_size=3, keep="nothing")
  weights = workdir / "experts/finetune"
  write = sampling.write_records

  def write_once(path, *args, **kw):
    if path.stem == "wave-00001":
      raise KilledError
    return write(path, *args, **kw)

  with monkeypatch.context() as patch:
    patch.setattr(sampling, "write_records", write_once)
    with pytest.raises(KilledError):
      sample.run(config, workdir)
  assert [p.stem for p in weights.glob("*.safetensors")] == ["wave-00001"]
  sample.run(config, workdir)
  assert not list(weights.glob("*.safetensors"))
  for file in (drawn / "experts/sample").glob("*.array_record"):
    other = workdir / "experts/sample" / file.name
    assert file.read_bytes() == other.read_bytes()

  shutil.rmtree(workdir / "experts/sample")
  with pytest.raises(ValueError, match=r"wave-00000.safetensors is gone: with"):
    sample.run(config, workdir)


def test_a_wave_that_another_finishes_meanwhile_is_passed_over(
  tuned, drawn, monkeypatch
):
  """It was thought dead; its weights go once its candidates are there."""
  workdir = copy_of(tuned, "meanwhile")
  config = config_of(tuned, images_per_prompt=2, batch_size=3, keep="nothing")
  weights, load = workdir / "experts/finetune", sample.load_wave
  late = []

  def finish_first(file, trainable):
    if file.stem == "wave-00000":
      late.append(file.stem)
      for name in ("wave-00000.array_record", "wave-00000.json"):
        other = drawn / "experts/sample" / name
        shutil.copy(other, workdir / "experts/sample" / name)
      file.unlink()
    return load(file, trainable)

  monkeypatch.setattr(sample, "load_wave", finish_first)
  summary = sample.run(config, workdir)
  assert late == ["wave-00000"]
  assert summary["candidates"] == len(candidates_of(drawn))
  assert contents(workdir) == contents(drawn)
  assert not list(weights.glob("*.safetensors"))


def contents(workdir):
  """{name: bytes} of the candidates."""
  files = (workdir / "experts/sample").glob("wave-*")
  return {file.name: file.read_bytes() for file in files}


def tune_and_sample(tuned, clusters, workdir, *, keep):
  inputs.write_stages(workdir, clusters)
  config = config_of(tuned, images_per_prompt=2, batch_size=3, keep=keep)
  config.finetune.sample_after_tuning = True
  finetune.run(config, workdir)
  return config


def test_sampled_after_tuning_or_later_it_is_the_same_and_no_weights_need_stay(
  tuned, drawn, clusters, tmp_path, monkeypatch
):
  config = tune_and_sample(tuned, clusters, tmp_path, keep="nothing")
  assert contents(tmp_path) == contents(drawn)
  assert len(contents(tmp_path)) == 4  # two waves
  assert not list((tmp_path / "experts/finetune").glob("*.safetensors"))
  for name in ("wave-00000.json", "wave-00001.json"):
    path = f"experts/finetune/{name}"
    assert (tmp_path / path).read_bytes() == (drawn / path).read_bytes()
  # Nothing is left to do.
  monkeypatch.setattr(sample, "open_expert_model", None)
  assert sample.run(config, tmp_path)["candidates"] == len(
    candidates_of(tmp_path)
  )


@pytest.fixture(scope="module")
def differences(tuned, clusters, tmp_path_factory):
  """(workdir, config, bytes on the devices just before each wave begins)."""
  workdir = tmp_path_factory.mktemp("differences")
  make_start, held = train_step.make_start, []

  def watched(*args, **kw):
    start = make_start(*args, **kw)

    def start_and_look(num):
      gc.collect()
      found = sum(x.nbytes for x in jax.live_arrays())
      state = start(num)
      if not isinstance(state["step"], jax.core.Tracer):  # only described
        held.append(found)
      return state

    return start_and_look

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_step, "make_start", watched)
    config = tune_and_sample(tuned, clusters, workdir, keep="difference")
  return workdir, config, held


def test_a_wave_leaves_nothing_on_the_devices(differences):
  """Drawn with, kept as a difference: the next one finds the room as it was."""
  _, config, (first, second) = differences
  base = load_backbone(config.backbone).params
  assert second < first + sum(x.nbytes for x in base.values()) / 2


def test_a_difference_is_half_as_large_and_samples_the_same_later(
  tuned, differences
):
  workdir, config, _ = differences
  first = contents(workdir)
  shutil.rmtree(workdir / "experts/sample")
  sample.run(config, workdir)
  assert contents(workdir) == first

  base = load_backbone(config.backbone).params
  name = "experts/finetune/wave-00000.safetensors"
  kept = wave_files.load_wave(workdir / name, base)
  whole = wave_files.load_wave(tuned[0] / name, base)
  for key, x in whole.items():
    change = np.abs(x - np.asarray(base[key]))
    off = np.abs(kept[key] - x)
    # And the rounding of the sum itself, to float32.
    assert (off <= change / 256 + np.spacing(np.abs(x))).all()
    assert change.max() > 0
  sizes = [(root / name).stat().st_size for root in (workdir, tuned[0])]
  assert sizes[0] < 0.6 * sizes[1]


def test_a_sample_config_of_another_run_is_refused_before_tuning(tuned):
  workdir = copy_of(tuned, "other_guidance")
  (workdir / "experts/finetune/done.json").unlink()
  config = config_of(tuned).unlock()
  config.finetune.sample_after_tuning = True
  sample.open_stage(config, workdir, during="experts/finetune")
  config.sample.guidance = 9.0
  with pytest.raises(ValueError, match=r"config.sample.guidance was 3.0 when"):
    finetune.run(config, workdir)


def test_an_expert_that_samples_nan_is_quarantined_alone(
  tuned, drawn, monkeypatch
):
  workdir = copy_of(tuned, "nan_picture")
  make_sample = sampling.make_sample

  def spoiled(*args, **kw):
    draw = make_sample(*args, **kw)

    def draw_and_spoil(*inputs):
      images = np.array(draw(*inputs))
      images[2, 0, 3, 4] = np.nan
      return images

    return draw_and_spoil

  monkeypatch.setattr(sampling, "make_sample", spoiled)
  config = config_of(tuned, images_per_prompt=2, batch_size=3)
  summary = sample.run(config, workdir)
  names = [
    row["cluster"]
    for wave in ("wave-00000", "wave-00001")
    for row in read_json(workdir / f"experts/sample/{wave}.json")["quarantined"]
  ]
  assert len(names) == 2  # the third of each wave
  assert summary["quarantined"].startswith(
    f"{names[0]} (a picture is not finite), {names[1]}"
  )
  ours = {c.key: c.image for c in candidates_of(workdir)}
  theirs = {c.key: c for c in candidates_of(drawn)}
  assert {theirs[key].cluster for key in theirs.keys() - ours} == set(names)
  for key, image in ours.items():
    np.testing.assert_array_equal(image, theirs[key].image)


def test_a_quarantined_expert_is_not_sampled(tuned, clusters):
  workdir = copy_of(tuned, "quarantined")
  file = workdir / "experts/finetune/wave-00000.json"
  record = read_json(file)
  record["experts"][0] |= {"status": "quarantined", "cause": "nan"}
  write_json(file, record)
  sample.run(config_of(tuned, batch_size=3), workdir)
  found = {c.cluster for c in candidates_of(workdir)}
  assert found == {c.key for c in clusters[1:]}


def test_weights_of_another_net_are_refused(tuned):
  trainable = {"conv_in.weight": np.zeros((3, 3, 1, 1), np.float32)}
  file = tuned[0] / "experts/finetune/wave-00000.safetensors"
  with pytest.raises(ValueError, match=r"holds experts of another net"):
    sample.load_wave(file, trainable)
