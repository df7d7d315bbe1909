# SPDX-License-Identifier: Apache-2.0
"""Published weights in and out: layouts, dtypes, devices, memory, bytes."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from suti.hf import weights
from suti.hf.weights import load, rewrite, save
from suti.nn.layers import Conv2d, GroupNorm, Linear
from suti.nn.param import Module, ModuleList, functional, init
from suti.parallel.mesh import make_mesh
from suti.parallel.rules import param_shardings


class Net(Module):
  def __init__(self):
    self.conv = Conv2d(2, 3, 3)
    self.norm = GroupNorm(1, 3)
    self.out = ModuleList([Linear(3, 5)])


class Large(Module):
  """Dims that eight devices divide."""

  def __init__(self):
    self.conv = Conv2d(16, 8, 3)
    self.out = Linear(8, 24)


MESH = {"data": 1, "fsdp": 8}
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


def names(folder):
  return sorted(path.name for path in folder.iterdir())


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
  kept = load(spec, first, dtype=None)
  assert {value.dtype for value in kept.values()} == {jnp.dtype(dtype)}
  save(kept, spec, tmp_path / "b.safetensors")
  assert (tmp_path / "b.safetensors").read_bytes() == first.read_bytes()
  # Through float32, which holds every half-width float.
  save(load(spec, first), spec, tmp_path / "c.safetensors", dtype=dtype)
  assert (tmp_path / "c.safetensors").read_bytes() == first.read_bytes()


def test_a_file_of_several_dtypes_keeps_them(spec, tensors, tmp_path):
  kinds = (np.float16, np.float32, ml_dtypes.bfloat16)
  tensors = {
    name: value.astype(kinds[i % 3])
    for i, (name, value) in enumerate(tensors.items())
  }
  first = write(tmp_path / "a.safetensors", tensors)
  kept = load(spec, first, dtype=None)
  for name, value in kept.items():
    assert value.dtype == tensors[name].dtype
  save(kept, spec, tmp_path / "b.safetensors")
  assert (tmp_path / "b.safetensors").read_bytes() == first.read_bytes()


def test_doubles_become_what_jax_holds(spec, tensors, tmp_path):
  tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
  params = load(spec, write(tmp_path / "a.safetensors", tensors), dtype=None)
  assert {value.dtype for value in params.values()} == {jnp.dtype("float32")}


def test_what_is_drawn_is_saved_and_loaded(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  save(params, spec, tmp_path / "a.safetensors")
  again = load(spec, tmp_path / "a.safetensors")
  for name, value in params.items():
    np.testing.assert_array_equal(again[name], value)
  assert names(tmp_path) == ["a.safetensors"]


def test_arrays_do_not_follow_the_file(spec, tensors, tmp_path):
  path = write(tmp_path / "a.safetensors", tensors)
  params = load(spec, path)
  with path.open("r+b") as file:
    file.write(b"\xff" * path.stat().st_size)
  for name in ("conv.bias", "norm.weight"):
    np.testing.assert_array_equal(params[name], tensors[name])


def test_a_step_may_overwrite_what_was_loaded(spec, tensors, tmp_path):
  params = load(spec, write(tmp_path / "a.safetensors", tensors))
  step = jax.jit(lambda p: jax.tree.map(lambda x: x * 2, p), donate_argnums=0)
  found = step(step(params))
  np.testing.assert_array_equal(found["conv.bias"], tensors["conv.bias"] * 4)


def test_a_name_that_no_reader_would_take_is_refused(spec, tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ValueError, match=r"a\.bin is not named as a \.safet"):
    save(init(spec, jax.random.key(0)), spec, tmp_path / "a.bin")
  assert names(tmp_path) == ["config.json"]


def test_a_part_can_be_saved_alone(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  save({"norm.bias": params["norm.bias"]}, spec, tmp_path / "a.safetensors")
  part = {"norm.bias": spec["norm.bias"]}
  assert load(part, tmp_path / "a.safetensors").keys() == part.keys()
  with pytest.raises(ValueError, match=r"1 parameters are not of .* 'other'"):
    save({"other": params["norm.bias"]}, spec, tmp_path / "b.safetensors")


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_each_device_is_given_its_piece_alone(dtype, tmp_path, monkeypatch):
  spec, _ = functional(Large())
  params = init(spec, jax.random.key(0))
  save(params, spec, tmp_path / "a.safetensors")
  mesh = make_mesh(MESH)
  shardings = param_shardings(spec, mesh, min_elements=64)
  put, sizes = weights._put, {}

  def spy(pieces, shape, sharding):
    array = put(pieces, shape, sharding)
    sizes[shape] = [piece.size for piece in pieces.values()]
    return array

  monkeypatch.setattr(weights, "_put", spy)
  found = load(
    spec, tmp_path / "a.safetensors", dtype=dtype, shardings=shardings
  )
  for name, value in params.items():
    array = found[name]
    assert array.sharding == shardings[name]
    expected = value.astype(dtype or jnp.float32)
    np.testing.assert_array_equal(array, expected)
    for shard in array.addressable_shards:
      np.testing.assert_array_equal(shard.data, expected[shard.index])
  # No copy of a whole tensor, nor one for each device of what all share.
  assert sizes[spec["conv.weight"].shape] == [9 * 16 * 8 // 8] * 8
  assert sizes[spec["out.weight"].shape] == [8 * 24 // 8] * 8
  assert sizes[spec["conv.bias"].shape] == [8]


def test_one_sharding_for_all(spec, tensors, tmp_path):
  path = write(tmp_path / "a.safetensors", tensors)
  whole = NamedSharding(make_mesh(MESH), PartitionSpec())
  last = SingleDeviceSharding(jax.devices()[-1])
  for sharding in (whole, last):
    params = load(spec, path, shardings=sharding)
    for name, value in load(spec, path).items():
      assert params[name].sharding == sharding
      np.testing.assert_array_equal(params[name], value)


_MEASURE = """
import sys, jax
from tests.benchmarks.time_load import memory
from suti.hf.weights import load, rewrite
from suti.nn.param import ZEROS, Param

what, folder, names = sys.argv[1:]
p = Param(shape=(1024, 1024), init=ZEROS, axes=(None, None), torch="o i -> i o")
spec = dict.fromkeys(names.split(","), p)
jax.device_put(0.0).block_until_ready()
before = memory("VmRSS")
held = 0
if what == "load":
  params = load(spec, folder)
  held = sum(v.nbytes for v in params.values())
else:
  rewrite(spec, folder, folder + "/new/model.safetensors")
print(memory("VmHWM") - before - held)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("what", ["load", "rewrite"])
def test_memory_is_that_of_few_tensors(what, tmp_path, root):
  shard_bytes = 12 * 2**21  # of tensors of 2 MiB
  for number in range(1, 4):
    safetensors.numpy.save_file(
      {
        f"{number}.{i}": np.full((1024, 1024), i, np.float16) for i in range(12)
      },
      tmp_path / f"model-0000{number}-of-00003.safetensors",
    )
  all_names = ",".join(f"{n}.{i}" for n in range(1, 4) for i in range(12))
  result = subprocess.run(
    [sys.executable, "-c", _MEASURE, what, str(tmp_path), all_names],
    cwd=root,
    check=True,
    capture_output=True,
    text=True,
  )
  # What is rewritten waits for its turn, and lies in the map of its file.
  assert int(result.stdout) < shard_bytes / (2 if what == "load" else 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite_are_named(spec, tensors, dtype, tmp_path):
  tensors = {name: value.astype(dtype) for name, value in tensors.items()}
  tensors["conv.weight"][1, 0, :2, 2] = np.nan
  tensors["conv.weight"][0, 0, 0, 0] = -np.inf
  tensors["norm.bias"][0] = np.inf
  path = write(tmp_path / "a.safetensors", tensors)
  for wanted in (None, jnp.float32, jnp.bfloat16):
    with pytest.raises(ValueError) as error:
      load(spec, path, dtype=wanted)
    assert str(error.value) == (
      f"{path} has 2 damaged tensors: 3 values of 'conv.weight' are NaN or "
      "infinite, and so on; fetch or make it again."
    )


def test_a_write_that_could_not_be_read_is_refused(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  path = tmp_path / "a.safetensors"
  save(params, spec, path)
  before = path.read_bytes()
  params["norm.bias"] = params["norm.bias"] + 1e5
  with pytest.raises(
    ValueError, match=r"3 values of 'norm.bias' are .* float16"
  ):
    save(params, spec, path, dtype=jnp.float16)
  assert path.read_bytes() == before
  assert names(tmp_path) == ["a.safetensors"]


def test_large_models_are_cut_as_the_hub_does(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  path = tmp_path / "model.safetensors"
  save(params, spec, path, max_shard_bytes=100)
  sizes = {name: 4 * p.size for name, p in spec.items()}
  assert sizes["conv.weight"] > 100  # alone in its file
  shards = [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
  index = "model.safetensors.index.json"
  assert names(tmp_path) == sorted([*shards, index])
  found = json.loads((tmp_path / index).read_text())
  assert found["metadata"] == {"total_size": sum(sizes.values())}
  assert list(found["weight_map"]) == list(spec)
  for shard in shards:
    held = safetensors.numpy.load_file(tmp_path / shard)
    assert sorted(held) == sorted(
      name for name, file in found["weight_map"].items() if file == shard
    )
    total = sum(value.nbytes for value in held.values())
    assert total <= 100 or len(held) == 1
  again = load(spec, tmp_path)
  for name, value in params.items():
    np.testing.assert_array_equal(again[name], value)


def test_what_is_saved_replaces_what_was_there(spec, tmp_path):
  params = init(spec, jax.random.key(0))
  path = tmp_path / "model.safetensors"
  other = tmp_path / "model.fp16.safetensors"
  save(params, spec, other, dtype=jnp.float16)
  for limit, count in ((None, 1), (100, 4), (300, 2), (None, 1), (10**9, 1)):
    save(params, spec, path, max_shard_bytes=limit)
    number = 1 if count == 1 else count + 1
    assert len(names(tmp_path)) == 1 + number
    assert load(spec, tmp_path).keys() == spec.keys()
  assert names(tmp_path) == [other.name, path.name]


def test_saving_leaves_no_copy_on_the_host(tmp_path):
  """As JAX would of an array on several devices, with that array."""
  spec, _ = functional(Large())
  whole = init(spec, jax.random.key(0))
  shardings = param_shardings(spec, make_mesh(MESH), min_elements=64)
  spread = {n: jax.device_put(v, shardings[n]) for n, v in whole.items()}
  save(whole, spec, tmp_path / "a.safetensors")
  save(spread, spec, tmp_path / "b.safetensors")
  one, other = (tmp_path / f"{n}.safetensors" for n in "ab")
  assert one.read_bytes() == other.read_bytes()
  assert all(array._npy_value is None for array in spread.values())


def test_a_variant_is_read_by_its_file(spec, tensors, tmp_path):
  write(tmp_path / "model.safetensors", tensors)
  half = {name: value.astype(np.float16) for name, value in tensors.items()}
  write(tmp_path / "model.fp16.safetensors", half)
  variant = tmp_path / "model.fp16.safetensors"
  for path, dtype in ((tmp_path, "float32"), (variant, "float16")):
    params = load(spec, path, dtype=None)
    assert {value.dtype for value in params.values()} == {jnp.dtype(dtype)}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bytes_are_those_of_torchs_writer(spec, tensors, dtype, tmp_path):
  torch = pytest.importorskip("torch")
  hub = pytest.importorskip("huggingface_hub")
  import safetensors.torch

  theirs = {
    name: torch.from_numpy(tensors[name]).to(getattr(torch, dtype))
    for name in spec
  }
  first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  safetensors.torch.save_file(theirs, first, metadata={"format": "pt"})
  params = load(spec, first, dtype=None)
  save(params, spec, second)
  assert second.read_bytes() == first.read_bytes()
  (tmp_path / "hub").mkdir()
  hub.save_torch_state_dict(theirs, tmp_path / "hub", max_shard_size=250)
  save(
    params, spec, tmp_path / "ours" / "model.safetensors", max_shard_bytes=250
  )
  assert names(tmp_path / "ours") == names(tmp_path / "hub")
  for name in names(tmp_path / "hub"):
    ours, hubs = (tmp_path / folder / name for folder in ("ours", "hub"))
    if name.endswith(".json"):
      assert json.loads(ours.read_text()) == json.loads(hubs.read_text())
    else:
      assert ours.read_bytes() == hubs.read_bytes()
  for name, value in load(spec, tmp_path / "hub", dtype=None).items():
    np.testing.assert_array_equal(value, params[name])


# --- From files to files -----------------------------------------------------


@pytest.mark.parametrize("dtype", [None, np.float32, np.float16])
def test_a_rewritten_file_is_what_was_loaded_and_saved(
  spec, tensors, dtype, tmp_path
):
  kinds = (np.float16, np.float32, ml_dtypes.bfloat16)
  tensors = {
    f"old.{name}": value.astype(kinds[i % 3])
    for i, (name, value) in enumerate(tensors.items())
  }
  source, renames = write(tmp_path / "a.safetensors", tensors), {r"^old\.": ""}
  save(
    load(spec, source, dtype=dtype, renames=renames),
    spec,
    tmp_path / "b.safetensors",
  )
  written = []
  rewrite(
    spec,
    source,
    tmp_path / "c.safetensors",
    dtype=dtype,
    renames=renames,
    notify=written.append,
  )
  one, other = (tmp_path / f"{name}.safetensors" for name in "bc")
  assert one.read_bytes() == other.read_bytes()
  assert sorted(written) == sorted(spec)


def test_a_matrix_is_rewritten_as_a_convolution(spec, tensors, tmp_path):
  tensors["out.0.weight"] = tensors["out.0.weight"][:, :, None, None]
  source = write(tmp_path / "a.safetensors", tensors)
  rewrite(spec, source, tmp_path / "b.safetensors", max_shard_bytes=200)
  assert len([*tmp_path.glob("b-*.safetensors")]) > 1
  for name, value in load(spec, tmp_path / "b.safetensors.index.json").items():
    np.testing.assert_array_equal(value, load(spec, source)[name])


def test_doubles_are_rewritten_as_they_are(spec, tensors, tmp_path):
  tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
  source = write(tmp_path / "a.safetensors", tensors)
  rewrite(spec, source, tmp_path / "b.safetensors")
  assert (tmp_path / "b.safetensors").read_bytes() == source.read_bytes()


def test_nothing_is_rewritten_of_a_damaged_file(spec, tensors, tmp_path):
  tensors["norm.bias"][1] = 1e6
  source = write(tmp_path / "a.safetensors", tensors)
  with pytest.raises(ValueError) as error:
    rewrite(spec, source, tmp_path / "b.safetensors", dtype=np.float16)
  assert str(error.value) == (
    f"{source} cannot be taken over: 1 values of 'norm.bias' are NaN, infinite "
    "or too large for float16; fetch or make it again, or choose a wider dtype."
  )
  tensors["x.norm.bias"] = tensors["norm.bias"] + 1
  write(source, tensors)
  with pytest.raises(ValueError, match="are one parameter, but differ; fetch"):
    rewrite(spec, source, tmp_path / "b.safetensors", renames={r"^x\.": ""})
  del tensors["x.norm.bias"], tensors["conv.bias"]
  write(source, tensors)
  with pytest.raises(ValueError, match="does not hold this model: 1 of the"):
    rewrite(spec, source, tmp_path / "b.safetensors")
  assert names(tmp_path) == ["a.safetensors"]
