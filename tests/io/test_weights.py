# SPDX-License-Identifier: Apache-2.0
"""Published weights in and out, and what is said of files that do not fit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from suti.io.weights import load, save
from suti.nn.layers import Conv2d, GroupNorm, Linear
from suti.nn.param import Module, ModuleList, functional, init


class Net(Module):
  def __init__(self):
    self.conv = Conv2d(2, 3, 3)
    self.norm = GroupNorm(1, 3)
    self.out = ModuleList([Linear(3, 5)])


SHAPES = {  # as a publisher has them
  "conv.weight": (3, 2, 3, 3),
  "conv.bias": (3,),
  "norm.weight": (3,),
  "norm.bias": (3,),
  "out.0.weight": (5, 3),
  "out.0.bias": (5,),
}


@pytest.fixture
def spec():
  return functional(Net())[0]


@pytest.fixture
def tensors():
  return {
    name: np.random.standard_normal(shape).astype(np.float32)
    for name, shape in SHAPES.items()
  }


def write(path, tensors):
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
  return path


def test_layouts_change_on_the_way_in(spec, tensors, tmp_path):
  params = load(spec, write(tmp_path / "a.safetensors", tensors))
  assert list(params) == list(spec)
  assert {n: v.shape for n, v in params.items()} == {
    name: p.shape for name, p in spec.items()
  }
  conv = tensors["conv.weight"]
  assert params["conv.weight"][2, 0, 1, 2] == conv[2, 1, 2, 0]
  np.testing.assert_array_equal(
    params["out.0.weight"], tensors["out.0.weight"].T
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_loaded_file_is_saved_byte_for_byte(spec, tensors, dtype, tmp_path):
  tensors = {name: value.astype(dtype) for name, value in tensors.items()}
  first = write(tmp_path / "a.safetensors", tensors)
  # Through float32, which holds every half-width float.
  save(load(spec, first), spec, tmp_path / "b.safetensors", dtype=dtype)
  assert (tmp_path / "b.safetensors").read_bytes() == first.read_bytes()
  kept = load(spec, first, dtype=dtype)
  assert {value.dtype for value in kept.values()} == {jnp.dtype(dtype)}
  save(kept, spec, tmp_path / "c.safetensors")
  assert (tmp_path / "c.safetensors").read_bytes() == first.read_bytes()


def test_what_is_drawn_is_saved_and_loaded(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  save(params, spec, tmp_path / "a.safetensors")
  again = load(spec, tmp_path / "a.safetensors")
  for name, value in params.items():
    np.testing.assert_array_equal(again[name], value)
  assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_part_can_be_saved_alone(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  save({"norm.bias": params["norm.bias"]}, spec, tmp_path / "a.safetensors")
  part = {"norm.bias": spec["norm.bias"]}
  assert load(part, tmp_path / "a.safetensors").keys() == part.keys()
  with pytest.raises(ValueError, match=r"1 parameters are not of .* 'other'"):
    save({"other": params["norm.bias"]}, spec, tmp_path / "b.safetensors")


def test_a_model_in_several_files(spec, tensors, tmp_path):
  names = list(tensors)
  for i, part in enumerate((names[:2], names[2:])):
    write(
      tmp_path / f"model-{i}.safetensors",
      {name: tensors[name] for name in part},
    )
  for path in (tmp_path, tmp_path / "model-*.safetensors"):
    assert load(spec, path).keys() == spec.keys()


def test_everything_that_differs_is_told_at_once(spec, tensors, tmp_path):
  del tensors["norm.bias"], tensors["conv.bias"]
  tensors["add_embedding.weight"] = np.zeros(3, np.float32)
  tensors["out.0.weight"] = tensors["out.0.weight"].T.copy()
  path = write(tmp_path / "a.safetensors", tensors)
  with pytest.raises(ValueError) as error:
    load(spec, path)
  text = str(error.value)
  assert f"{path} does not hold this model" in text
  assert "2 of the model's 6 parameters are absent, e.g. 'conv.bias'" in text
  assert "1 of the file's 5 are not of the model" in text
  assert "'add_embedding.weight'" in text
  assert "'out.0.weight' is (3, 5) in the file and (5, 3) in the model" in text
  assert "\n" not in text


def test_renames_move_and_leave_out(spec, tensors, tmp_path):
  tensors = {f"net.{name}": value for name, value in tensors.items()}
  tensors["net.position_ids"] = np.arange(3)
  path = write(tmp_path / "a.safetensors", tensors)
  params = load(spec, path, renames={r"^net\.": "", "^position_ids$": ""})
  assert params.keys() == spec.keys()


def test_a_name_in_two_files_is_refused(spec, tensors, tmp_path):
  for name in ("model.safetensors", "model.fp16.safetensors"):
    write(tmp_path / name, tensors)
  with pytest.raises(ValueError, match=r"is also in model\.safetensors"):
    load(spec, tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_pickles_are_refused(spec, suffix, tmp_path):
  path = tmp_path / f"model{suffix}"
  path.write_bytes(b"anything")
  with pytest.raises(ValueError, match="can run code when opened"):
    load(spec, path)


def test_files_that_are_absent_or_cut_short(spec, tensors, tmp_path):
  with pytest.raises(ValueError, match=r"has no \.safetensors file"):
    load(spec, tmp_path)
  with pytest.raises(ValueError, match=r"has no \.safetensors file"):
    load(spec, tmp_path / "absent.safetensors")
  path = write(tmp_path / "a.safetensors", tensors)
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(ValueError, match="is not a whole safetensors file"):
    load(spec, path)
