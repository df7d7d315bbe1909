# SPDX-License-Identifier: Apache-2.0
"""Workers that die at any moment leave the files of an unbroken run.

Some clusters cannot be read, some experts turn NaN, some sample NaN: by what is
in their files alone. A word that the text encoder makes NaN of spoils every
expert that has it, in a caption or in a prompt.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experts import filter as filters
from experts import pack, sample
from experts.clusters import read_clusters, write_clusters
from suti.hf.tokenizer import load_tokenizer
from suti.io import parts
from suti.io.files import read_json
from suti.io.paths import path_of
from suti.io.records import open_examples, write_lines
from suti.runtime.stage import stage
from suti.schema import Cluster, Prompt
from tests import compiler, tiny
from tests.experts import inputs

FARM = pathlib.Path(__file__).with_name("workers.py")
POISON = "teapot"
NUM_CLUSTERS = 38
# Indices in the order of keys: in waves of four, 9 and 10 are in one.
NAN_EXPERTS, NAN_PICTURES = (2, 17), (9, 24)
UNREADABLE, EXCHANGED = (10, 30), (20,)
FIELDS = {
  "size_px": tiny.SIZE_PX,
  "mine.max_images": 4,
  "finetune.teacher": "lora",
  "finetune.optimizer": "adam",
  "finetune.rank": 2,
  "finetune.experts_per_wave": 4,
  "finetune.num_steps": 12,
  # Experts stop early, and leave their slots to those of the same wave.
  "finetune.experts_per_slot": 2,
  "finetune.stop_window": 2,
  "finetune.log_every": 2,
  "finetune.checkpoint_every": 5,
  "finetune.learning_rate": 1e-2,
  # Two workers may believe that they hold one wave: that must not matter.
  "finetune.lease_s": 1.0,
  "finetune.keep": "difference",
}


def write_backbone(folder: pathlib.Path) -> pathlib.Path:
  """A backbone whose text encoder makes NaN of one word."""
  tiny.write_backbone(folder, unet=tiny.SMALLEST_UNET)
  tokenizer = load_tokenizer(folder / "tokenizer", max_length=16)
  common = [*inputs.CAPTIONS, *inputs.PROMPTS, "a red", ""]
  own = set(tokenizer([POISON]).ravel()) - set(tokenizer(common).ravel())
  assert own
  file = folder / "text_encoder" / "model.safetensors"
  params = load_file(file)
  (name,) = (n for n in params if n.endswith("token_embedding.weight"))
  # Finite, as a file of weights must be; their mean is not.
  params[name][sorted(own)] = 3e38
  save_file(params, file, metadata={"format": "pt"})
  return folder


def make_clusters(*, harmed: bool) -> list[Cluster]:
  """Those of tests/experts/inputs.py, some with a caption that poisons."""
  clusters = inputs.make_clusters(NUM_CLUSTERS)
  for place in NAN_EXPERTS if harmed else ():
    fields = vars(clusters[place])
    captions = (f"a {POISON}", *fields["captions"][1:])
    clusters[place] = Cluster(**fields | {"captions": captions})
  return clusters


def write_stages(workdir: pathlib.Path, *, harmed: bool) -> None:
  """experts/mine, damaged if it shall be, and experts/prompts."""
  clusters = make_clusters(harmed=harmed)
  keys = [cluster.key for cluster in clusters]
  shown = list(clusters)
  for place in EXCHANGED if harmed else ():
    shown[place] = clusters[place + 1]
  folder = workdir / "experts/mine"
  write_clusters(folder, keys, iter(shown))
  content = bytearray((folder / "clusters.array_record").read_bytes())
  for place in UNREADABLE if harmed else ():
    content[content.index(keys[place].encode())] ^= 0xFF
  (folder / "clusters.array_record").write_bytes(content)
  prompts = [
    Prompt(cluster=key, prompt=text, skill="attribute")
    for place, key in enumerate(keys)
    for text in inputs.PROMPTS[: 1 + place % 3]
  ]
  if harmed:
    prompts += [
      Prompt(cluster=keys[i], prompt=f"a red {POISON}", skill="attribute")
      for i in NAN_PICTURES
    ]
  write_lines(workdir / "experts/prompts/prompts.jsonl", prompts)
  for name in ("mine", "prompts"):
    stage(workdir, f"experts/{name}", {}).finish({})


class Farms:
  """Starts farms that differ in nothing but their workdir and their deaths."""

  def __init__(self, root: pathlib.Path, models: dict[str, pathlib.Path]):
    self.root, self.models = root, models

  def run(
    self,
    name: str,
    *,
    workers: int = 1,
    kills: int = 0,
    harmed: bool = True,
    root: pathlib.Path | None = None,
    fields: dict | None = None,
  ) -> dict:
    workdir = (root or self.root) / name
    write_stages(workdir, harmed=harmed)
    command = [
      sys.executable,
      str(FARM),
      *map(str, (workers, kills, 1)),
      "--config=configs/quickstart.py:tiny",
      *(
        f"--config.{field}={value}"
        for field, value in (FIELDS | self.models | (fields or {})).items()
      ),
      f"--workdir={workdir}",
    ]
    environment = os.environ | {
      "PYTHONPATH": str(FARM.parent.parent.parent.parent),
      "XLA_FLAGS": compiler.FLAGS,
      "JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"),
    }
    result = subprocess.run(
      command,
      cwd=FARM.parent.parent.parent.parent,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
      timeout=900,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return json.loads(result.stdout.splitlines()[-1])

  def finish(self, workdir: pathlib.Path) -> None:
    """Runs the stages that read what a farm wrote."""
    config = inputs.make_config(self.models, keep=FIELDS["finetune.keep"])
    for run in (sample.run, filters.run, pack.run):
      run(config, workdir)


@pytest.fixture(scope="module")
def farms(tmp_path_factory, tiny_clip, tiny_identity):
  root = tmp_path_factory.mktemp("farms")
  backbone = write_backbone(root / "backbone")
  models = {"backbone": backbone, "clip": tiny_clip, "identity": tiny_identity}
  return Farms(root, models)


@pytest.fixture(scope="module")
def whole(farms):
  """A workdir that one worker made, undisturbed."""
  farms.run("whole")
  return farms.root / "whole"


def records_of(workdir: pathlib.Path, name: str) -> list[dict]:
  folder = workdir / "experts" / name
  return [read_json(path) for path in sorted(folder.glob("wave-*.json"))]


def contents(workdir: pathlib.Path) -> set[str]:
  """Names of files that depend neither on clocks nor on the worker."""
  return {
    path.relative_to(workdir).as_posix()
    for path in workdir.rglob("*")
    if path.name not in ("done.json", ".lock")
    and not {"times", "workers"} & set(path.parts)
    and path.is_file()
  }


def test_what_is_lost_is_named_with_its_cause(whole):
  keys = read_clusters(whole).keys
  experts = [e for r in records_of(whole, "finetune") for e in r["experts"]]
  assert [e["cluster"] for e in experts] == keys
  causes = {i: e["cause"] for i, e in enumerate(experts) if e["cause"]}
  assert sorted(causes) == sorted((*NAN_EXPERTS, *UNREADABLE, *EXCHANGED))
  for place in NAN_EXPERTS:
    # At the first step that draws the picture with that caption.
    assert causes[place].startswith("loss or gradient not finite at step ")
  for place in UNREADABLE:
    assert "chunk data hash mismatch" in causes[place]
  assert f"is of cluster {keys[21]} and not of {keys[20]}" in causes[20]
  drawn = [q for r in records_of(whole, "sample") for q in r["quarantined"]]
  assert [row["cluster"] for row in drawn] == [keys[i] for i in NAN_PICTURES]
  lost = read_json(whole / "experts/finetune/done.json")["summary"]
  assert lost["experts"] == NUM_CLUSTERS - len(causes)
  assert all(keys[place] in lost["quarantined"] for place in causes)


def test_others_of_a_wave_are_what_they_would_be(whole, farms):
  farms.run("healthy", harmed=False)
  config = inputs.make_config(farms.models, keep=FIELDS["finetune.keep"])
  for workdir in (whole, farms.root / "healthy"):
    sample.run(config, workdir)  # All is sampled: it only checks that.
  harmed, healthy = (
    {c.key: c for file in sample.open_candidates(workdir) for c in file}
    for workdir in (whole, farms.root / "healthy")
  )
  lost = {*NAN_EXPERTS, *NAN_PICTURES, *UNREADABLE, *EXCHANGED}
  keys = read_clusters(whole).keys
  assert {c.cluster for c in healthy.values()} == set(keys)
  assert {c.cluster for c in harmed.values()} == {
    key for place, key in enumerate(keys) if place not in lost
  }
  for key, candidate in harmed.items():
    np.testing.assert_array_equal(candidate.image, healthy[key].image)


@pytest.mark.parametrize(
  "kills",
  [
    pytest.param(8, marks=pytest.mark.processes),
    pytest.param(60, marks=pytest.mark.faults),
  ],
)
def test_a_farm_that_is_killed_ends_in_the_same_files(
  farms, whole, kills, monkeypatch
):
  name = f"killed-{kills}"
  found = farms.run(name, workers=3, kills=kills)
  print(found)
  assert found["killed"] >= kills * 5 // 6
  monkeypatch.setattr(
    filters, "load_scorer", lambda **_: inputs.colour_scorer()
  )
  killed = farms.root / name
  for workdir in (whole, killed):
    farms.finish(workdir)
  parts.clean_parts(killed)  # as the next command would
  names = contents(whole) | contents(killed)
  for name in sorted(names):
    assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
  num_waves = -(-NUM_CLUSTERS // FIELDS["finetune.experts_per_wave"])
  for stem in ("finetune/wave-", "sample/wave-"):
    found = [name for name in names if name.startswith(f"experts/{stem}")]
    assert len(found) == 2 * num_waves
  assert any(name.startswith("experts/pack/") for name in names)


@pytest.mark.parametrize(
  "kills",
  [
    pytest.param(3, marks=pytest.mark.processes),
    pytest.param(30, marks=pytest.mark.faults),
  ],
)
def test_a_farm_in_a_bucket_that_is_killed_ends_in_the_same_objects(
  farms, whole, buckets, kills, monkeypatch
):
  num_waves = 3 if kills < 10 else 10
  fields = {"finetune.num_clusters": min(4 * num_waves, NUM_CLUSTERS)}
  root = path_of("gs://bucket/farms")
  found = farms.run("killed", workers=2, kills=kills, root=root, fields=fields)
  print(found, buckets.requests)
  assert found["killed"] >= kills * 2 // 3
  monkeypatch.setattr(
    filters, "load_scorer", lambda **_: inputs.colour_scorer()
  )
  killed = root / "killed"
  for workdir in (whole, killed):
    farms.finish(workdir)
  waves = {f"wave-{i:05d}" for i in range(num_waves)}
  names = {name for name in contents(whole) if pathlib.Path(name).stem in waves}
  assert len(names) == 6 * num_waves
  for name in sorted(names):
    assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
  rest = {n for n in contents(killed) - names if "/wave-" in n}
  assert not rest, "no lease, and no checkpoint, is left"
  known, examples = (
    {example.key: example for example in open_examples(w / "experts/pack")}
    for w in (whole, killed)
  )
  assert examples
  for key, example in examples.items():
    np.testing.assert_array_equal(example.image, known[key].image)
