# SPDX-License-Identifier: Apache-2.0
"""Paths in a bucket: what pathlib's say, whole objects, nothing remembered."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from suti.hf.find import find_model
from suti.io import files, paths, records
from suti.io.checkpoint import Checkpoints, saved_steps
from suti.io.paths import in_bucket, local, path_of
from suti.runtime.log import Log, read_log
from suti.schema import Prompt


@pytest.fixture
def folder(buckets):
  return path_of("gs://bucket/run")


def texts(found):
  return [str(path) for path in found]


def test_a_path_in_a_bucket_is_put_together_like_any_other(folder):
  path = folder / "a" / "b.json"
  assert str(path) == f"{path}" == os.fspath(path) == "gs://bucket/run/a/b.json"
  assert path.parent == folder / "a" and path.name == "b.json"
  assert str(path.with_suffix(".x")) == "gs://bucket/run/a/b.x"
  assert str(path.relative_to(folder)) == "a/b.json"
  assert pickle.loads(pickle.dumps(path)) == path == path_of(path)
  assert in_bucket(path) and not in_bucket(path_of("gs/b"))
  # Whoever asks epath gets the same, TensorFlow or not.
  assert type(epath.Path("gs://bucket/run")) is type(path)


def test_folders_are_what_names_begin_with(buckets, folder):
  for name in ("wave-1.json", "wave-2.json", "waves", "w/a/log", "w/b/log"):
    buckets.put(f"run/{name}", name.encode())
  assert (folder / "w").is_dir() and (folder / "w").exists()
  assert not (folder / "w").is_file() and not (folder / "wave-1").exists()
  assert (folder / "waves").is_file() and not (folder / "waves").is_dir()
  assert texts(folder.glob("wave-*.json")) == [
    "gs://bucket/run/wave-1.json",
    "gs://bucket/run/wave-2.json",
  ]
  assert texts(folder.glob("w/*/log")) == [
    "gs://bucket/run/w/a/log",
    "gs://bucket/run/w/b/log",
  ]
  assert files.names_in(folder) == ["w", "wave-1.json", "wave-2.json", "waves"]
  assert files.names_in(folder / "absent") == []
  assert [path.parent.name for path in folder.rglob("log")] == ["a", "b"]
  (folder / "w").rmtree()
  assert not (folder / "w").exists()
  assert (folder / "waves").read_text() == "waves"


def test_what_others_do_is_seen_immediately_and_beyond_a_page(buckets, folder):
  assert list(folder.iterdir()) == []
  assert not (folder / "0000").exists()
  for number in range(1002):
    buckets.put(f"run/{number:04d}", b"")
  assert len(list(folder.iterdir())) == len(folder.below()) == 1002
  assert (folder / "0000").exists()
  buckets.remove("run/0000")
  assert not (folder / "0000").exists()
  with pytest.raises(FileNotFoundError):
    (folder / "0000").read_bytes()


def test_of_many_processes_one_creates_an_object(buckets, folder):
  made, gate = [], threading.Barrier(8)

  def make(number: int) -> None:
    gate.wait()
    made.append((files.create(folder / "a", b"%d" % number), number))

  threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  winners = [number for won, number in made if won]
  assert len(winners) == 1
  assert (folder / "a").read_bytes() == b"%d" % winners[0]


def soon(monkeypatch):
  """Lets gcsfs try again without a pause."""

  async def sleep(_):
    return None

  monkeypatch.setattr(asyncio, "sleep", sleep)


def test_the_creator_of_an_object_knows_although_the_response_was_lost(
  buckets, folder, monkeypatch
):
  soon(monkeypatch)
  lost = []

  def lose(method, path):
    lost.append(path)
    return len(lost) == 1

  buckets.lose = lose
  assert files.create(folder / "a", b"mine")
  assert "ifGenerationMatch=0" in lost[0] and lost[1] == lost[0]
  assert not files.create(folder / "a", b"mine")


def test_an_object_that_was_replaced_is_not_created_again(folder):
  # As a lease is that was renewed: it has lost its creator's mark.
  assert files.create(folder / "a", b"first")
  files.write_atomic(folder / "a", b"renewed")
  assert not files.create(folder / "a", b"second")
  assert (folder / "a").read_bytes() == b"renewed"


_UPLOAD = """
import sys
from suti.io.files import write_atomic, replacing
from suti.io.paths import path_of
with replacing(path_of(sys.argv[1])) as part:
  part.write_bytes(b"n" * 60_000_000)
  print(flush=True)
"""


def test_an_upload_that_is_killed_leaves_the_old_object(buckets, folder, root):
  files.write_atomic(folder / "a", b"old")
  with subprocess.Popen(
    [sys.executable, "-c", _UPLOAD, str(folder / "a")], cwd=root
  ) as process:

    def kill(method, path):
      if "upload_id" not in path:
        return False
      process.send_signal(signal.SIGKILL)  # The first part is there.
      return True

    buckets.lose = kill
    assert process.wait() == -signal.SIGKILL
  assert list(buckets.objects) == ["run/a"]
  assert (folder / "a").read_bytes() == b"old"


def test_a_folder_is_whole_once_its_last_file_is_there(buckets, folder):
  def write(text: bytes, *names: str, fail: bool = False) -> None:
    with files.replacing_folder(folder, last="index") as part:
      for name in names:
        files.write_atomic(part / name, text)
      assert not fail

  write(b"1", "index", "z", "sub/old")
  with pytest.raises(AssertionError):
    write(b"2", "index", fail=True)
  assert (folder / "sub" / "old").read_bytes() == b"1"
  seen = []
  buckets.refuse = lambda method, path: seen.append((method, path))
  write(b"2", "index", "z", "new")
  order = [
    (method, name)
    for method, path in seen
    for name in ("index", "old", "new", "z")
    if method == "DELETE" and path.endswith(name)
  ]
  assert order[0] == ("DELETE", "index")
  assert sorted(buckets.objects) == ["run/index", "run/new", "run/z"]
  assert (
    max(buckets.objects.values(), key=lambda x: x.generation)
    == (buckets.objects["run/index"])
  )


def test_a_copy_is_made_once_and_anew_when_the_original_was_replaced(
  buckets, folder
):
  asked = []
  buckets.refuse = lambda method, path: asked.append("alt=media" in path)
  files.write_atomic(folder / "a" / "b.bin", b"one")
  copy = local(folder / "a" / "b.bin")
  assert copy.name == "b.bin" and copy.read_bytes() == b"one"
  assert local(folder / "a" / "b.bin") == copy
  assert sum(asked) == 1
  files.write_atomic(folder / "a" / "b.bin", b"two")
  assert local(folder / "a" / "b.bin").read_bytes() == b"two"
  assert not copy.exists()
  files.write_atomic(folder / "a" / "c", b"three")
  whole = local(folder / "a")
  assert [p.read_bytes() for p in sorted(whole.iterdir())] == [b"two", b"three"]
  with pytest.raises(FileNotFoundError):
    local(folder / "absent")


def test_a_model_in_a_bucket_is_a_model(buckets, folder):
  buckets.put("run/model/unet/config.json", b"{}")
  found = find_model("gs://bucket/run/model")
  assert (found / "unet" / "config.json").read_text() == "{}"
  assert find_model(folder / "model") == found
  with pytest.raises(ValueError, match="No model 'gs://bucket/run/other'"):
    find_model("gs://bucket/run/other")


def test_records_outlive_their_copy(buckets, folder, monkeypatch):
  prompts = [
    Prompt(cluster="a" * 12, prompt=str(i), skill="style") for i in range(3)
  ]
  for name in ("one", "two"):
    records.write_records(folder / name, prompts, kind=Prompt)
  opened = records.read_records(folder / "one", Prompt)
  # There is room for one copy.
  monkeypatch.setattr(paths._copies(), "_room", 1)
  records.read_records(folder / "two", Prompt)
  assert not opened._file.exists()
  assert list(opened) == prompts
  assert list(pickle.loads(pickle.dumps(opened))) == prompts
  with pytest.raises(ValueError, match="gs://bucket/run/three does not exist"):
    records.read_records(folder / "three", Prompt)


def test_a_log_is_uploaded_periodically_and_resumes(buckets, folder):
  log = Log(folder)
  for step in (1, 2, 3):
    log.write(step, {"loss": 0.5})
  assert read_log(folder) == []  # half a minute has not passed
  log.sync()
  assert [line["step"] for line in read_log(folder)] == [1, 2, 3]
  log.write(4, {"loss": 0.25})
  log.close()
  again = Log(folder)  # as a run that was killed after a checkpoint of step 2
  again.write(3, {"loss": 0.125})
  again.close()
  assert [line["loss"] for line in read_log(folder)] == [0.5, 0.5, 0.125]


def test_checkpoints_are_whole_with_their_last_file(buckets, folder):
  state = {"x": jnp.arange(8.0), "step": jnp.zeros((), jnp.int32)}
  checkpoints = Checkpoints(folder / "c", max_to_keep=3)
  for step in (1, 2):
    checkpoints.save(step, state | {"step": jnp.asarray(step)}, data=[step])
  checkpoints.close()
  assert sorted(saved_steps(folder / "c")) == [1, 2]
  buckets.remove("run/c/2/commit_success.txt")  # as if it had been killed
  assert saved_steps(folder / "c") == [1]
  again = Checkpoints(folder / "c")
  restored = again.restore(state)
  assert int(restored["step"]) == 1 and again.data == [1]
  np.testing.assert_array_equal(restored["x"], np.arange(8.0))
  again.close()


# --- What a user may have forgotten ------------------------------------------


def test_without_gcsfs_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs.core", None)
  from suti.io import bucket

  bucket._file_system.cache_clear()
  with pytest.raises(ValueError, match=r"pip install 'suti-jax\[gcs\]'"):
    path_of("gs://bucket/run").exists()


@pytest.mark.parametrize(
  ("status", "text"),
  [
    (401, r"gs://bucket/run is refused .*`gcloud auth application-default"),
    (403, r"gs://bucket/run is refused .*\(roles/storage.objectUser and"),
    (503, r"gs://bucket/run cannot be reached .* goes on from what was"),
  ],
)
def test_what_the_server_refuses_is_one_line(
  buckets, folder, monkeypatch, caplog, status, text
):
  soon(monkeypatch)
  buckets.refuse = lambda method, path: status
  with pytest.raises(ValueError, match=text):
    folder.exists()
  assert not caplog.records


def test_without_a_network_it_is_one_line(folder, monkeypatch):
  soon(monkeypatch)
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
  with pytest.raises(ValueError, match=r"cannot be reached .*Connect"):
    folder.exists()


def test_a_bucket_is_checked_before_all_else(buckets):
  with pytest.raises(ValueError, match="there is no bucket other: make it"):
    path_of("gs://other/run").check()
  with pytest.raises(ValueError, match="is a whole bucket: give a folder"):
    path_of("gs://bucket").check()
  path_of("gs://bucket/run").check()
