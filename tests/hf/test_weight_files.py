# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are a model, and what is refused in strangers'."""

import json

import numpy as np
import pytest
import safetensors.numpy

from suti.hf.weight_files import files_of, read_headers


def write(path, *names):
  path.parent.mkdir(parents=True, exist_ok=True)
  tensors = {name: np.ones((2, 3), np.float16) for name in names}
  safetensors.numpy.save_file(tensors, path)
  return path


def write_index(folder, places, name="model.safetensors.index.json"):
  path = folder / name
  path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
  return path


def refusal(path):
  with pytest.raises(ValueError) as error:
    read_headers(path)
  text = str(error.value)
  assert "\n" not in text
  return text


def files(headers):
  return {stored.file.name for stored in headers.values()}


def raw(header, data=b"", *, size=None):
  """A file with any header."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  size = len(text) if size is None else size
  return size.to_bytes(8, "little") + text + data


def entry(dtype, shape, start, stop):
  return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_where_tensors_lie(tmp_path):
  tensors = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(4, dtype=np.float16),
  }
  path = tmp_path / "m.safetensors"
  safetensors.numpy.save_file(tensors, path)
  content = path.read_bytes()
  headers = read_headers(path)
  assert list(headers) == ["b", "a"]  # as they lie
  for name, stored in headers.items():
    assert (stored.file, stored.name) == (path, name)
    assert stored.shape == tensors[name].shape
    found = content[stored.start : stored.start + stored.num_bytes]
    assert found == tensors[name].tobytes()
  rows = headers["b"].cut(2)
  assert [row.shape for row in rows] == [(1, 3), (1, 3)]
  assert [row.start for row in rows] == [rows[0].start, rows[0].start + 12]


def test_the_plain_variant_is_taken_and_a_file_is_itself(tmp_path):
  for kind in ("", ".fp16", ".non_ema"):
    write(tmp_path / f"diffusion_pytorch_model{kind}.safetensors", "a")
  (tmp_path / "config.json").write_text("{}")
  assert files(read_headers(tmp_path)) == {
    "diffusion_pytorch_model.safetensors"
  }
  file = "diffusion_pytorch_model.fp16.safetensors"
  assert files(read_headers(tmp_path / file)) == {file}


def test_the_only_variant_is_taken(tmp_path):
  write(tmp_path / "model.fp16.safetensors", "a")
  assert files(read_headers(tmp_path)) == {"model.fp16.safetensors"}
  write(tmp_path / "model.bf16.safetensors", "a")
  assert "has its weights as bf16 and fp16, and no plain ones: give a " in (
    refusal(tmp_path)
  )


@pytest.mark.parametrize(
  ("index", "shard"),
  [
    ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002"),
    ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16"),
    ("model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002"),
  ],
)
def test_variants_in_several_files(tmp_path, index, shard):
  write(tmp_path / "model.safetensors", "a", "b")
  names = {n: f"{shard.format(i)}.safetensors" for i, n in ((1, "a"), (2, "b"))}
  for name, file in names.items():
    write(tmp_path / file, name)
  assert files(read_headers(tmp_path)) == {"model.safetensors"}
  (tmp_path / "model.safetensors").unlink()
  assert files(read_headers(tmp_path)) == {*names.values()}
  write_index(tmp_path, names, index)
  assert files(read_headers(tmp_path)) == {*names.values()}


def test_other_models_in_a_folder(tmp_path):
  write(tmp_path / "open_clip_model.safetensors", "a")
  write(tmp_path / "model.safetensors", "a")
  assert files(read_headers(tmp_path)) == {"model.safetensors"}
  (tmp_path / "model.safetensors").rename(tmp_path / "v1.5-pruned.safetensors")
  write(tmp_path / "v2.safetensors", "a")
  (tmp_path / "v1.5-pruned.safetensors").unlink()
  assert "holds several models (open_clip_model, v2): give the path" in (
    refusal(tmp_path)
  )
  assert files(read_headers(tmp_path / "v2.safetensors")) == {"v2.safetensors"}


def test_a_pattern_takes_its_files_together(tmp_path):
  write(tmp_path / "x.0.safetensors", "a")
  write(tmp_path / "x.1.safetensors", "b")
  assert read_headers(tmp_path / "x.*.safetensors").keys() == {"a", "b"}
  write(tmp_path / "x.2.safetensors", "b")
  assert "'b' is in " in (text := refusal(tmp_path / "x.*.safetensors"))
  assert "and also in x.2.safetensors" in text


def test_shards_without_an_index_must_be_complete(tmp_path):
  for number in (1, 3):
    write(tmp_path / f"model-0000{number}-of-00003.safetensors", str(number))
  assert "has 2 of 3 files of its model: number 2 is not there" in (
    refusal(tmp_path)
  )
  write(tmp_path / "model-00002-of-00003.safetensors", "2")
  assert list(read_headers(tmp_path)) == ["1", "2", "3"]
  write(tmp_path / "model-00001-of-00001.safetensors", "1")
  assert "in 1 files and also in 3" in refusal(tmp_path)


def test_an_index_names_its_files(tmp_path):
  write(tmp_path / "part.one.safetensors", "a", "b", "beside")
  write(tmp_path / "sub" / "two.safetensors", "c")
  places = dict.fromkeys("ab", "part.one.safetensors")
  places["c"] = "sub/two.safetensors"
  index = write_index(tmp_path, places)
  for path in (tmp_path, index):
    assert read_headers(path).keys() == {"a", "b", "c"}


def test_a_missing_shard_is_named_with_what_it_holds(tmp_path):
  write(tmp_path / "one.safetensors", "a")
  places = {"a": "one.safetensors"} | dict.fromkeys("bcd", "two.safetensors")
  write_index(tmp_path, places)
  assert "two.safetensors, which should hold 3 of its 4 tensors and is" in (
    refusal(tmp_path)
  )
  write_index(tmp_path, places | {"e": "three.safetensors"})
  assert "two.safetensors and 1 more, which should hold 4 of its 5" in (
    refusal(tmp_path)
  )


def test_tensors_that_an_index_names_and_files_lack(tmp_path):
  write(tmp_path / "one.safetensors", "a")
  write_index(tmp_path, dict.fromkeys("abc", "one.safetensors"))
  assert "2 tensors that its files lack, e.g. b of one.safeten" in (
    refusal(tmp_path)
  )


@pytest.mark.parametrize(
  "name", ["../x.safetensors", "{}/x.safetensors", "a/../../x.safetensors"]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, name):
  write(tmp_path / "x.safetensors", "a")
  (tmp_path / "model" / "a").mkdir(parents=True)
  write_index(tmp_path / "model", {"a": name.format(tmp_path)})
  assert "which leads out of its folder, and is refused" in (
    refusal(tmp_path / "model")
  )


def test_links_stay_in_the_folder_or_in_the_hubs_cache(tmp_path):
  blob = write(tmp_path / "models--x--y" / "blobs" / "0123", "a")
  snapshot = tmp_path / "models--x--y" / "snapshots" / "abc" / "unet"
  snapshot.mkdir(parents=True)
  link = snapshot / "one.safetensors"
  link.symlink_to("../../../blobs/0123")
  write_index(snapshot, {"a": "one.safetensors"})
  assert read_headers(snapshot).keys() == {"a"}
  link.unlink()
  link.symlink_to(blob.rename(tmp_path / "elsewhere.safetensors"))
  assert "which leads out of its folder" in refusal(snapshot)


def test_an_index_of_pickles_or_of_nothing_is_refused(tmp_path):
  write_index(tmp_path, {"a": "pytorch_model-00001-of-00002.bin"})
  assert "can run code when opened" in refusal(tmp_path)
  index = tmp_path / "model.safetensors.index.json"
  for text in (
    "[]",
    "{}",
    "{",
    '{"weight_map": []}',
    '{"weight_map": {"a":1}}',
  ):
    index.write_text(text)
    assert "is not an index of weights, whose `weight_map` gives" in (
      refusal(tmp_path)
    )


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth"])
def test_pickles_are_refused_with_the_reason(tmp_path, suffix):
  path = tmp_path / f"model{suffix}"
  path.write_bytes(b"anything")
  for text in (refusal(path), refusal(tmp_path)):
    assert "can run code when opened and are refused: fetch a revision" in text
  assert f"has no .safetensors file, only {path.name}" in refusal(tmp_path)


def test_nothing_where_weights_should_be(tmp_path):
  assert "has no .safetensors file: give one" in refusal(tmp_path)
  assert "has no .safetensors file" in refusal(tmp_path / "absent.safetensors")
  write(tmp_path / "unet" / "model.safetensors", "a")
  write(tmp_path / "vae" / "model.safetensors", "a")
  assert "there are in its unet, vae;" in refusal(tmp_path)


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"", "it is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
    (b"<!DOCTYPE html><html></html>", "a web page"),
    (b"PK\x03\x04" + b"\0" * 40, "a zip archive"),
    (raw(b"{}", size=10**12), "header too large"),
    (raw(b"{}", size=99), "invalid header length"),
    (raw(b"hello"), "invalid JSON"),
    (raw([1]), "invalid JSON"),
    (raw({"a": entry("F32", [2], 0, 8)}, b"\0" * 7), "not fully covered"),
    (raw({"a": entry("F32", [2], 0, 8)}, b"\0" * 9), "not fully covered"),
    (raw({"a": entry("F32", [3], 0, 8)}, b"\0" * 8), "invalid shape"),
    (raw({"a": entry("F32", [-2], 0, 8)}, b"\0" * 8), "invalid value"),
    (raw({"a": entry("F99", [2], 0, 8)}, b"\0" * 8), "unknown variant"),
    (
      raw(
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)},
        b"\0" * 12,
      ),
      "invalid offset",
    ),
  ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, content, reason):
  path = tmp_path / "a.safetensors"
  path.write_bytes(content)
  text = refusal(path)
  assert f"{path} is not a whole safetensors file (" in text
  assert reason in text


def test_the_files_of_one_name(tmp_path):
  ours = ["model.safetensors", "model-00001-of-00002.safetensors"]
  for name in (*ours, "model.fp16.safetensors", "other.safetensors"):
    write(tmp_path / name, "a")
  ours.append(write_index(tmp_path, {}).name)
  (tmp_path / "config.json").write_text("{}")
  found = files_of(tmp_path / "model.safetensors")
  assert sorted(path.name for path in found) == sorted(ours)
  assert files_of(tmp_path / ours[1]) == []
