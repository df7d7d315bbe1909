# SPDX-License-Identifier: Apache-2.0
"""Stage 7: every prompt sampled, seeds of their own, shards that resume."""

import collections
import itertools
import shutil

import numpy as np
import pytest

import apprentice.sample as stage_7
from apprentice.systems import MODELS
from experts.farm.sampling import rows_of
from suti.io.files import read_json
from suti.io.records import read_lines, read_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Cluster, Prompt
from tests.apprentice import inputs


@pytest.fixture(scope="module")
def config(tiny_backbone):
  config = inputs.make_config(tiny_backbone).unlock()
  config.apprentice_sample.update(
    batch_size=3,
    images_per_prompt=2,
    num_steps=2,
    sampler="ddpm",
    systems=tuple(MODELS),
  )
  return config.lock()


@pytest.fixture(scope="module")
def sampled(config, tmp_path_factory):
  """A workdir with two subjects, two prompts, two images sampled for each."""
  workdir = tmp_path_factory.mktemp("sample")
  inputs.write_trained(workdir, config)
  inputs.write_benchmark(workdir)
  with (
    inputs.on_devices(1),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(stage_7, "_SHARD_BATCHES", 1)
    stage_7.run(config, workdir)
  return workdir


def read(workdir, name):
  folder = workdir / "apprentice" / "sample"
  return [
    candidate
    for path in sorted(folder.glob(f"{name}-*.array_record"))
    for candidate in read_records(path, Candidate)
  ]


def test_every_prompt_of_every_subject_is_sampled(sampled):
  for name in MODELS:
    found = read(sampled, name)
    # Shards of three, the last one not full: its padding is not written.
    assert [(c.cluster, c.prompt) for c in found] == [
      (f"{cluster:012x}", text)
      for cluster in range(2)
      for text in inputs.TEXTS[2:]
      for _ in range(2)
    ]
    assert len({c.key for c in found}) == len({c.seed for c in found}) == 8
    assert {c.skill for c in found} == {"attribute"}
    assert {c.guidance for c in found} == {0.0 if name == "copy" else 3.0}


def test_systems_start_from_the_same_noise_and_end_elsewhere(sampled):
  found = {name: read(sampled, name) for name in MODELS}
  assert len({tuple(c.seed for c in each) for each in found.values()}) == 1
  for one, two in itertools.combinations(found, 2):
    if {one, two} == {"wrong_subject", "shuffled"}:
      continue  # of two subjects there is one other to be shown
    if {one, two} == {"before", "base"}:
      continue  # below
    for a, b in zip(found[one], found[two], strict=True):
      assert (a.image != b.image).any(), (one, two)


def test_before_its_training_the_apprentice_is_what_it_starts_from(sampled):
  # A backbone here, to which new layers add nothing.
  for a, b in zip(read(sampled, "before"), read(sampled, "base"), strict=True):
    assert np.abs(a.image.astype(int) - b.image).max() <= 1


def test_nothing_trained_has_no_before(config, tmp_path, capsys):
  untrained = config.copy_and_resolve_references().unlock()
  untrained.train.update(num_steps=0, warmup_steps=0)
  untrained.apprentice_sample.systems = ("apprentice", "before", "copy")
  inputs.write_trained(tmp_path, untrained)
  inputs.write_benchmark(tmp_path)
  with inputs.on_devices(1):
    done = stage_7.run(untrained.lock(), tmp_path)
  assert done["systems"] == ["apprentice", "copy"]
  assert "'before' would be 'apprentice', left out" in capsys.readouterr().out


def test_a_copy_is_a_demonstration(sampled):
  mine = sampled / "benchmark" / "experts" / "mine"
  clusters = {
    c.key: c for c in read_records(mine / "clusters.array_record", Cluster)
  }
  for number, copy in enumerate(read(sampled, "copy")):
    np.testing.assert_array_equal(
      copy.image, clusters[copy.cluster].images[number % 2]
    )


def test_experts_begin_with_the_same_noise(sampled, config):
  folder = sampled / "benchmark" / "experts" / "prompts"
  prompts = list(read_lines(folder / "prompts.jsonl", Prompt))
  rows = rows_of(prompts, num=2, seed=config.seed)
  ours = collections.defaultdict(list)
  for candidate in read(sampled, "apprentice"):
    ours[candidate.cluster].append((candidate.prompt, candidate.seed))
  assert ours == {
    key: [(row.prompt.prompt, row.seed) for row in each]
    for key, each in rows.items()
  }


def test_times_are_of_all_shards(sampled):
  folder = sampled / "apprentice" / "sample"
  done = read_json(folder / "done.json")["summary"]
  shards = [
    read_json(path) for path in sorted(folder.glob("apprentice-*.json"))
  ]
  assert len(shards) == 3
  total = sum(shard["seconds"] for shard in shards)
  assert done["images"] == 8
  np.testing.assert_allclose(done["seconds_per_image"], total / 8)
  # Compiled once, in the first shard; not counted as sampling.
  assert [shard["compile"] > 0 for shard in shards] == [True, False, False]
  assert done["base_seconds_per_image"] > 0
  # A copy takes none; what shares a model is not compiled again.
  assert "copy_seconds_per_image" not in done
  assert done["wrong_subject_seconds_to_compile"] == 0
  assert done["text_only_seconds_to_compile"] == 0
  assert done["before_seconds_to_compile"] == 0
  assert done["systems"] == list(MODELS)
  assert done["demonstrations"] == 2


def test_a_killed_run_resumes_at_its_shard(sampled, config, tmp_path):
  inputs.write_trained(tmp_path, config)
  inputs.write_benchmark(tmp_path)
  ours, theirs = (
    folder / "apprentice" / "sample" for folder in (tmp_path, sampled)
  )
  ours.mkdir(parents=True)
  for path in theirs.iterdir():
    if path.name != "done.json" and "apprentice-00001" not in path.name:
      (ours / path.name).write_bytes(path.read_bytes())
  # A kill between a shard and its times leaves the shard to be sampled again.
  (ours / "apprentice-00001.array_record").write_bytes(b"half")
  times = (ours / "apprentice-00000.json").stat().st_mtime_ns
  with (
    inputs.on_devices(1),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(stage_7, "_SHARD_BATCHES", 1)
    stage_7.run(config, tmp_path)
  assert (ours / "apprentice-00000.json").stat().st_mtime_ns == times
  for a, b in zip(
    read(tmp_path, "apprentice"), read(sampled, "apprentice"), strict=True
  ):
    assert a.key == b.key
    np.testing.assert_array_equal(a.image, b.image)


def test_a_benchmark_that_was_not_made(config, tmp_path):
  with pytest.raises(ValueError, match="suti run"):
    stage_7.run(config, tmp_path)


def test_an_apprentice_that_was_not_trained(config, tmp_path):
  inputs.write_benchmark(tmp_path)
  with pytest.raises(ValueError, match=r"python -m apprentice\.train"):
    stage_7.run(config, tmp_path)


def test_a_batch_that_the_devices_cannot_share(config, sampled, tmp_path):
  inputs.write_trained(tmp_path, config)
  inputs.write_benchmark(tmp_path)
  with pytest.raises(
    ValueError, match=r"config\.apprentice_sample\.batch_size=3 is not"
  ):
    stage_7.run(config, tmp_path)


def test_a_benchmark_that_was_made_anew(config, sampled, tmp_path):
  """Pictures of other subjects are not taken for those of these."""
  shutil.copytree(sampled, tmp_path / "run")
  folder = tmp_path / "run" / "benchmark" / "experts" / "prompts"
  for name in ("stage.json", "done.json"):
    (folder / name).unlink()
  stage(tmp_path / "run" / "benchmark", "experts/prompts", {"seed": 1}).finish(
    {}
  )
  with pytest.raises(ValueError, match="experts/prompts was run anew"):
    stage_7.run(config, tmp_path / "run")
