# SPDX-License-Identifier: Apache-2.0
"""Records come back as they were, and only whole, and only of this schema."""

import dataclasses
import json
import math
import os
import pickle
import resource
import signal
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from suti import schema
from suti.io import files, parts, record_bytes, records
from tests.io.record_cases import C, assert_same, cluster, example, picture

# --- One file ----------------------------------------------------------------


def test_clusters_come_back(tmp_path):
  path = tmp_path / "clusters.array_record"
  written = [cluster(0), cluster(10, 10), cluster(20, 3, truth=False)]
  assert records.write_records(path, iter(written), kind=schema.Cluster) == 3
  read = records.read_records(path, schema.Cluster)
  assert len(read) == 3
  for one, two in zip(written, read, strict=True):
    assert_same(one, two)
  assert_same(read[-1], written[2])
  assert [c.key for c in read[1:]] == [c.key for c in written[1:]]
  for index in (3, -4):
    with pytest.raises(IndexError):
      read[index]


def test_numbers_of_numpy_become_numbers(tmp_path):
  path = tmp_path / "a.array_record"
  records.write_records(
    path,
    [
      schema.Candidate(
        key=C,
        cluster=C,
        prompt="p",
        skill="style",
        image=picture(1),
        seed=np.int64(2**40),
        guidance=np.float32(7.5),
      )
    ],
    kind=schema.Candidate,
  )
  (read,) = records.read_records(path, schema.Candidate)
  assert (read.seed, read.guidance) == (2**40, 7.5)
  assert (type(read.seed), type(read.guidance)) == (int, float)


def test_no_records_is_a_file_too(tmp_path):
  path = tmp_path / "none.array_record"
  records.write_records(path, [], kind=schema.Candidate)
  assert list(records.read_records(path, schema.Candidate)) == []


def test_equal_records_make_equal_files(tmp_path):
  for name in ("one", "two"):
    records.write_records(
      tmp_path / name, [cluster(0), cluster(5)], kind=schema.Cluster
    )
  assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_records_travel_to_other_processes_as_a_path(tmp_path):
  path = tmp_path / "clusters.array_record"
  records.write_records(path, [cluster(0)], kind=schema.Cluster)
  read = records.read_records(path, schema.Cluster)
  message = pickle.dumps(read)
  assert len(message) < 500
  assert_same(pickle.loads(message)[0], read[0])


def test_files_hold_png_and_json_and_no_pickle(tmp_path):
  content = record_bytes.encode(cluster(0))
  length = int.from_bytes(content[:4], "little")
  head = json.loads(content[4 : 4 + length])
  assert head["record"]["subject"] == "dog"
  first = content[4 + length :][: head["png_bytes"][0]]
  np.testing.assert_array_equal(
    record_bytes.decode_png(first), cluster(0).images[0]
  )


def test_another_schema_is_refused(tmp_path, monkeypatch):
  path = tmp_path / "experts" / "mine" / "clusters.array_record"
  monkeypatch.setattr(records, "SCHEMA_VERSION", 1)
  records.write_records(path, [cluster(0)], kind=schema.Cluster)
  records.write_lines(tmp_path / "a.jsonl", [prompt("a")])
  monkeypatch.undo()
  with pytest.raises(ValueError) as caught:
    records.read_records(path, schema.Cluster)
  assert str(caught.value).startswith(
    "Shards were written with schema 1, this code reads 4: rerun experts.mine."
  )
  with pytest.raises(ValueError, match="written with schema 1"):
    records.read_lines(tmp_path / "a.jsonl", schema.Prompt)


def test_another_kind_is_refused(tmp_path):
  path = tmp_path / "a.array_record"
  records.write_records(path, [cluster(0)], kind=schema.Cluster)
  with pytest.raises(ValueError, match="kind Cluster, and Candidate is exp"):
    records.read_records(path, schema.Candidate)


def test_absent_and_damaged_files_are_named(tmp_path):
  path = tmp_path / "a.array_record"
  with pytest.raises(ValueError, match="does not exist: run the stage"):
    records.read_records(path, schema.Cluster)
  records.write_records(path, [cluster(0)], kind=schema.Cluster)
  whole = path.read_bytes()
  for content in (b"", b"nonsense" * 99999, whole[: len(whole) // 2]):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or no record file"):
      records.read_records(path, schema.Cluster)


_SLOW = """
import sys, time
import numpy as np
from suti import schema
from suti.io import records

def rows(make):
  for n in range(10**6):
    yield make(n)
    if n == 70:
      print("writing", flush=True)
      time.sleep(60)

image = np.zeros((64, 64, 3), np.uint8)
if sys.argv[2] == "examples":
  records.write_examples(sys.argv[1], rows(lambda n: schema.Example(
    key=f"{n:012x}", cluster="c" * 12, prompt="p", image=image,
    demonstrations=(), captions=(), values={})), shard_size=8)
else:
  records.write_records(sys.argv[1], rows(lambda n: schema.Candidate(
    key=f"{n:012x}", cluster="c" * 12, prompt="p", skill="style", image=image,
    seed=n, guidance=1.0)), kind=schema.Candidate)
"""


@pytest.mark.parametrize("what", ["records", "examples"])
def test_kill_in_the_middle_leaves_nothing_half_written(tmp_path, root, what):
  path = tmp_path / "out"
  with subprocess.Popen(
    [sys.executable, "-c", _SLOW, str(path), what],
    cwd=root,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
  assert not path.exists()
  parts.clean_parts(tmp_path)
  assert os.listdir(tmp_path) == []


def test_a_generator_that_fails_leaves_nothing(tmp_path):
  def rows():
    yield cluster(0)
    raise RuntimeError("no more")

  with pytest.raises(RuntimeError, match="no more"):
    records.write_records(tmp_path / "a", rows(), kind=schema.Cluster)
  assert os.listdir(tmp_path) == []


# --- Lines -------------------------------------------------------------------


def prompt(text):
  return schema.Prompt(cluster=C, prompt=text, skill="accessory")


def test_lines_come_back(tmp_path):
  path = tmp_path / "prompts.jsonl"
  written = [prompt("a dög\u2028in a hat\n"), prompt("")]
  assert records.write_lines(path, written) == 2
  assert records.read_lines(path, schema.Prompt) == written
  lines = path.read_bytes().split(b"\n")
  assert json.loads(lines[0])["prompt"] == written[0].prompt


def test_a_loss_that_is_no_number_survives(tmp_path):
  lost = schema.Expert(
    cluster=C,
    teacher="dreambooth",
    steps=3,
    loss=math.nan,
    status="quarantined",
    cause="loss nan at step 3",
  )
  records.write_lines(tmp_path / "a.jsonl", [lost])
  (read,) = records.read_lines(tmp_path / "a.jsonl", schema.Expert)
  assert math.isnan(read.loss)
  assert read.cause == lost.cause


def test_damaged_lines_are_named(tmp_path):
  path = tmp_path / "prompts.jsonl"
  with pytest.raises(ValueError, match="does not exist"):
    records.read_lines(path, schema.Prompt)
  records.write_lines(path, [prompt("a"), prompt("b")])
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(ValueError, match="line 2, is no record"):
    records.read_lines(path, schema.Prompt)
  records.write_lines(path, [prompt("a")])
  with pytest.raises(ValueError, match="is no Score: it has other fields than"):
    records.read_lines(path, schema.Score)
  records.write_lines(path, [])
  assert records.read_lines(path, schema.Prompt) == []


@pytest.mark.parametrize(
  "key",
  ["/root/x", "../x", "", "c0ffee0dad0", "C0FFEE0DAD00", "c0ffee0dad00\n", 7],
)
def test_a_key_that_is_none_is_refused_wherever_it_is_read(tmp_path, key):
  """Files are named after keys: one may not lead to another folder."""
  says = r"its (cluster|key) is .* and not 12 hex digits"
  path = tmp_path / "experts.jsonl"
  records.write_lines(path, [dataclasses.replace(prompt("a"), cluster=key)])
  with pytest.raises(
    ValueError, match=f"line 1, is no Prompt: {says}"
  ) as error:
    records.read_lines(path, schema.Prompt)
  assert str(path) in str(error.value) and "\n" not in str(error.value)
  path = tmp_path / "clusters.array_record"
  strange = dataclasses.replace(cluster(0), key=key)
  records.write_records(path, [cluster(0), strange], kind=schema.Cluster)
  read = records.read_records(path, schema.Cluster)
  assert_same(read[0], cluster(0))
  with pytest.raises(records.DamagedError, match=f"Record 1 of .*{says}"):
    _ = read[1]
  if isinstance(key, str):
    path = tmp_path / "examples"
    strange = dataclasses.replace(example(0, 1), cluster=key)
    records.write_examples(path, [strange], shard_size=4)
    with pytest.raises(ValueError, match=f"Example 0 of .*{says}"):
      _ = records.open_examples(path)[0]


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"prompt": 3}, "its prompt is 3 and no str"),
    ({"skill": "juggling"}, r"a value is out of its range \(juggling\)"),
    ({"prompt": {"png": 0}}, "line 1, is no Prompt: "),
    ({"more": 1}, "it has other fields than cluster, prompt, skill"),
  ],
)
def test_values_of_other_kinds_are_one_line(tmp_path, fields, text):
  path = tmp_path / "prompts.jsonl"
  records.write_lines(path, [prompt("a")])
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))
  with pytest.raises(ValueError, match=text):
    records.read_lines(path, schema.Prompt)


# --- A folder of TensorFlow Datasets -----------------------------------------


@pytest.fixture(scope="module")
def written():
  # All numbers of demonstrations, more examples than a shard and than a batch.
  return [example(seed, seed % 11) for seed in range(70)]


@pytest.fixture(scope="module")
def folder(written, tmp_path_factory):
  path = tmp_path_factory.mktemp("pack") / "examples"
  assert records.write_examples(path, written, shard_size=30) == 70
  return path


def test_examples_come_back_in_order(folder, written):
  read = records.open_examples(folder)
  assert len(read) == 70
  for one, two in zip(written, read, strict=True):
    assert_same(one, two)
  assert {len(e.demonstrations) for e in read} == set(range(11))
  assert [e.key for e in read[-2:]] == ["000000000044", "000000000045"]
  assert_same(pickle.loads(pickle.dumps(read))[5], written[5])
  shards = sorted(folder.glob("*.array_record*"))
  assert len(shards) == 3


def test_tensorflow_datasets_reads_the_folder_by_itself(folder, written):
  builder = tfds.builder_from_directory(str(folder))
  assert builder.info.splits["train"].num_examples == 70
  source = builder.as_data_source(split="train")
  row = source[14]
  np.testing.assert_array_equal(row["image"], written[14].image)
  assert row["prompt"].decode() == written[14].prompt
  demonstrations = row["demonstrations"]["image"]
  assert len(demonstrations) == 3
  np.testing.assert_array_equal(
    demonstrations[2], written[14].demonstrations[2]
  )
  assert len(source[0]["demonstrations"]["image"]) == 0


def test_grain_reads_the_folder(folder, written):
  dataset = grain.MapDataset.source(records.open_examples(folder))
  keys = {row.key for row in dataset.seed(0).shuffle()}
  assert keys == {row.key for row in written}


def test_equal_examples_make_equal_folders(folder, written, tmp_path):
  records.write_examples(tmp_path / "again", written, shard_size=30)
  for path in folder.iterdir():
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_no_example_is_a_users_mistake(tmp_path):
  with pytest.raises(ValueError, match=r"config\.filter\.rule"):
    records.write_examples(tmp_path / "pack", [], shard_size=4)
  assert os.listdir(tmp_path) == []


def test_wrong_folders_are_named(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"run experts\.pack first"):
    records.open_examples(tmp_path)
  monkeypatch.setattr(records, "SCHEMA_VERSION", 1)
  records.write_examples(tmp_path / "pack", [example(0, 1)], shard_size=4)
  monkeypatch.undo()
  with pytest.raises(ValueError) as caught:
    records.open_examples(tmp_path / "pack")
  assert str(caught.value).startswith(
    "Shards were written with schema 1, this code reads 4: rerun experts.pack."
  )
  files.write_json(tmp_path / "dataset_info.json", {"name": "mnist"})
  with pytest.raises(ValueError, match="holds the dataset 'mnist'"):
    records.open_examples(tmp_path)


def test_tensorflow_is_never_imported(folder, root):
  code = f"""
import importlib.machinery
import sys
import numpy as np
from suti import schema
from suti.io import records

class Refuse:
  # Looks installed, which some ask, and cannot be imported.
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] == "tensorflow":
      return importlib.machinery.ModuleSpec(name, self)
  def create_module(self, spec):
    raise AssertionError(spec.name + " is imported")
  def exec_module(self, module):
    pass
sys.meta_path.insert(0, Refuse())
rows = list(records.open_examples({str(folder)!r}))
records.write_examples(sys.argv[1], rows[:3], shard_size=2)
assert len(records.open_examples(sys.argv[1])) == 3
print([m for m in ("tensorflow", "torch", "jax") if m in sys.modules])
"""
  out = subprocess.run(
    [sys.executable, "-W", "error", "-c", code, str(folder.parent / "copy")],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert out.stdout.strip() == "[]"
  assert out.stderr == ""


def test_many_files_need_few_descriptors(tmp_path):
  """As many waves as there are: ArrayRecord calls them empty otherwise."""
  record = schema.Prompt(cluster=C, prompt="a dog", skill="attribute")
  for number in range(100):
    records.write_records(
      tmp_path / f"{number}", [record] * 2, kind=schema.Prompt
    )
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  used = len(os.listdir("/proc/self/fd"))
  resource.setrlimit(resource.RLIMIT_NOFILE, (used + 80, limits[1]))
  try:
    opened = [
      records.read_records(tmp_path / f"{i}", schema.Prompt) for i in range(100)
    ]
    assert all(list(file) == [record] * 2 for file in opened)
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_handle_that_has_gone_stale_damages_no_record(tmp_path, monkeypatch):
  record = schema.Prompt(cluster=C, prompt="a dog", skill="attribute")
  records.write_records(tmp_path / "file", [record], kind=schema.Prompt)
  opened = records.read_records(tmp_path / "file", schema.Prompt)
  decode, failures = records.decode, ["Stale file handle"]

  def fail_once(*args):
    if failures:
      raise RuntimeError(failures.pop())
    return decode(*args)

  monkeypatch.setattr(records, "decode", fail_once)
  assert opened[0] == record
