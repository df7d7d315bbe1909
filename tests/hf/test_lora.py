# SPDX-License-Identifier: Apache-2.0
"""LoRA files in every layout, against what the publishers' code made of them.

tests/goldens/loras.py wrote the files and the outputs with diffusers and PEFT.
"""

import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from suti.hf.lora import load_lora
from suti.hf.lora_export import save_lora
from suti.models.clip import declare_clip_text
from suti.models.unet import declare_unet
from suti.nn.param import Param, functional
from suti.nn.surgery import joined, lora_at, merge, ranks
from tests.goldens import loras
from tests.goldens.families.clip import TEXT
from tests.goldens.ours import drawn

MODELS = {
  "unet": declare_unet(loras.UNET),
  "text_encoder": declare_clip_text(TEXT),
}
SPECS = {part: functional(model)[0] for part, model in MODELS.items()}
LAYOUTS = list(loras.LAYOUTS)
FILE = "pytorch_lora_weights.safetensors"


@functools.cache
def base(part):
  return drawn(SPECS[part])


@functools.cache
def run(part, layers=()):
  """One of the tiny models on the goldens' inputs: params -> output.

  Args:
    part: of the pipeline.
    layers: (path, rank) of updates that run beside their layers.
  """
  values = loras.inputs()
  names = ("x", "t", "text") if part == "unet" else ("ids",)
  _, apply = functional(lora_at(MODELS[part], dict(layers)))
  arguments = [jnp.asarray(values[n]) for n in names]
  return jax.jit(lambda params: apply(params, *arguments))


def outputs(*updates, merged, scale=1.0):
  """What the models make of all updates, the first one with its strength."""
  found = {}
  for part in MODELS:
    strengths = [scale, *[1.0] * (len(updates) - 1)]
    update = joined(
      [(u.get(part, {}), s) for u, s in zip(updates, strengths, strict=True)]
    )
    if merged:
      found[part] = run(part)(merge(base(part), update))
    else:
      layers = tuple(ranks(update).items())
      found[part] = run(part, layers)(base(part) | update)
  return found


@functools.cache
def expected():
  return safetensors.numpy.load_file(loras.FOLDER / "outputs.safetensors")


def assert_outputs(found, name):
  for part, value in found.items():
    np.testing.assert_allclose(
      value, expected()[f"{name}.{part}"], rtol=1e-4, atol=1e-4, err_msg=part
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_update_does_what_its_publishers_code_does(layout):
  updates = load_lora(loras.FOLDER / layout, SPECS)
  assert_outputs(outputs(updates, merged=True), layout)


def test_beside_its_layers_it_does_the_same():
  updates = load_lora(loras.FOLDER / "diffusers", SPECS)
  assert_outputs(outputs(updates, merged=False), "diffusers")
  assert_outputs(outputs(updates, merged=False, scale=0.0), "base")


@pytest.mark.parametrize("merged", [True, False])
def test_two_updates_of_one_layer_add_up_as_in_diffusers(merged):
  one, two = (load_lora(loras.FOLDER / name, SPECS) for name in loras.TWO)
  for part in MODELS:
    assert one[part].keys() & two[part].keys(), "they share layers"
  found = outputs(one, two, merged=merged, scale=loras.SCALE)
  assert_outputs(found, "two")
  for part, alone in outputs(one, merged=True, scale=loras.SCALE).items():
    assert np.abs(found[part] - alone).max() > 0.1


def test_a_merged_update_is_taken_out_again():
  updates = load_lora(loras.FOLDER / "diffusers", SPECS)
  for part, update in updates.items():
    merged = merge(base(part), update, scale=0.7)
    back = merge(merged, update, scale=-0.7)
    assert any((merged[k] != v).any() for k, v in base(part).items())
    for name, value in base(part).items():
      np.testing.assert_allclose(back[name], value, rtol=0, atol=2e-6)


def test_no_strength_is_the_base():
  updates = load_lora(loras.FOLDER / "kohya", SPECS)
  assert_outputs(outputs(updates, merged=True, scale=0.0), "base")


@pytest.mark.parametrize("to", ["file", "folder"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_back(layout, to, tmp_path):
  updates = load_lora(loras.FOLDER / layout, SPECS)
  path = tmp_path / ("any.safetensors" if to == "file" else "folder")
  save_lora(updates, path)
  assert path.is_dir() == (to == "folder")
  again = load_lora(path, SPECS)
  assert_same(again, updates)
  save_lora({"unet": updates["unet"]}, tmp_path / "peft", layout="peft")
  assert_same(load_lora(tmp_path / "peft", SPECS), {"unet": updates["unet"]})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kohyas_layout_is_read_back(layout, tmp_path):
  updates = load_lora(loras.FOLDER / layout, SPECS)
  path = tmp_path / "x.safetensors"
  save_lora(updates, path, layout="kohya", about={"suti.noun": "dog"})
  with safetensors.safe_open(path, framework="np") as file:
    assert file.metadata()["suti.noun"] == "dog"
    names = list(file.keys())
  starts = ("lora_unet_", "lora_te_")
  assert all(name.startswith(starts) for name in names)
  assert all("." not in name.split(".", 1)[0] for name in names)
  again = load_lora(path, SPECS)
  assert again.keys() == updates.keys()
  for part, update in updates.items():
    assert again[part].keys() == update.keys()
    for name, value in update.items():
      # Where ranks differ, what makes up for the common alpha is rounded.
      np.testing.assert_allclose(again[part][name], value, rtol=1e-6)


def test_kohyas_layout_of_one_rank_is_bitwise(tmp_path):
  updates = load_lora(loras.FOLDER / "diffusers", SPECS)
  same = {
    name: value
    for name, value in updates["unet"].items()
    if ranks(updates["unet"])[name.split(".lora_")[0]] == 2
  }
  assert same
  save_lora({"unet": same}, tmp_path / "x.safetensors", layout="kohya")
  assert_same(load_lora(tmp_path / "x.safetensors", SPECS), {"unet": same})


def assert_same(found, updates):
  assert found.keys() == updates.keys()
  for part, update in updates.items():
    assert found[part].keys() == update.keys()
    for name, value in update.items():
      np.testing.assert_array_equal(found[part][name], value)


def test_the_header_says_that_alpha_is_the_rank_of_each_layer(tmp_path):
  updates = load_lora(loras.FOLDER / "kohya", SPECS)
  save_lora(updates, tmp_path)
  with safetensors.safe_open(tmp_path / FILE, framework="np") as file:
    header = json.loads(file.metadata()["lora_adapter_metadata"])
  tensors = safetensors.numpy.load_file(tmp_path / FILE)
  assert header["unet.r"] == header["unet.lora_alpha"] == 2
  assert header["unet.rank_pattern"] == header["unet.alpha_pattern"]
  assert header["unet.rank_pattern"]["time_embedding.linear_2"] == 4
  assert len(header["unet.target_modules"]) == len(ranks(updates["unet"]))
  # The published layout: what goes out first, then what comes in.
  conv = "unet.down_blocks.1.resnets.0.conv1.lora_{}.weight"
  assert tensors[conv.format("A")].shape == (1, 8, 3, 3)
  assert tensors[conv.format("B")].shape == (12, 1, 1, 1)


# --- One layer at a time -----------------------------------------------------

LINEAR = Param(
  shape=(3, 4), init=jnp.zeros, axes=(None, None), torch="o i -> i o"
)
CONV = Param(
  shape=(1, 1, 3, 4),
  init=jnp.zeros,
  axes=(None,) * 4,
  torch="o i h w -> h w i o",
)
DOWN = np.arange(6, dtype=np.float32).reshape(2, 3)
UP = np.arange(8, dtype=np.float32).reshape(4, 2) - 3


def write(path, tensors, metadata=None):
  safetensors.numpy.save_file(
    {k: np.asarray(v) for k, v in tensors.items()}, path, metadata=metadata
  )
  return path


def pair(name="unet.a.proj_in", down=DOWN, up=UP, **others):
  found = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
  return found | {f"{name}.{k}": v for k, v in others.items()}


def change(path, p=LINEAR):
  """What a file of one layer adds to the layer's weights, as (I, O)."""
  specs = {"unet": {"a.proj_in.weight": p}}
  update = load_lora(path, specs)["unet"]
  weights = {"a.proj_in.weight": jnp.zeros(p.shape)}
  return merge(weights, update)["a.proj_in.weight"].reshape(3, 4)


@pytest.mark.parametrize("p", [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("ones", [(), (1, 1)], ids=["product", "1x1"])
def test_a_product_may_be_written_as_a_convolution(p, ones, tmp_path):
  tensors = pair(down=DOWN.reshape(2, 3, *ones), up=UP.reshape(4, 2, *ones))
  path = write(tmp_path / "x.safetensors", tensors)
  np.testing.assert_allclose(change(path, p), (UP @ DOWN).T, rtol=1e-6)


@pytest.mark.parametrize(
  ("config", "strength"),
  [
    ({}, 1),
    ({"r": 2, "lora_alpha": 6}, 3),
    ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
    ({"lora_alpha": 6, "alpha_pattern": {"proj_in": 1}}, 0.5),
    ({"lora_alpha": 6, "alpha_pattern": {"^a.proj_in": 1}}, 0.5),
    ({"lora_alpha": 6, "alpha_pattern": {"oj_in": 1, r"b\.proj_in": 1}}, 3),
  ],
)
@pytest.mark.parametrize("part", ["unet.", ""])
def test_strengths(config, strength, part, tmp_path):
  header = json.dumps({part + k: v for k, v in config.items()})
  path = write(
    tmp_path / "x.safetensors", pair(), {"lora_adapter_metadata": header}
  )
  np.testing.assert_allclose(change(path), strength * (UP @ DOWN).T, rtol=1e-6)
  write(
    tmp_path / "adapter_model.safetensors", pair("base_model.model.a.proj_in")
  )
  (tmp_path / "adapter_config.json").write_text(
    json.dumps(config | {"peft_type": "LORA"})
  )
  np.testing.assert_allclose(
    change(tmp_path), strength * (UP @ DOWN).T, rtol=1e-6
  )


def test_each_layer_of_kohyas_has_its_own_alpha(tmp_path):
  tensors = {
    "lora_unet_a_proj_in.lora_down.weight": DOWN,
    "lora_unet_a_proj_in.lora_up.weight": UP,
    "lora_unet_a_proj_in.alpha": np.float32(0.5),
  }
  path = write(tmp_path / "x.safetensors", tensors)
  np.testing.assert_allclose(change(path), (UP @ DOWN).T / 4, rtol=1e-6)


def test_half_precision(tmp_path):
  for dtype in (np.float16, ml_dtypes.bfloat16):
    tensors = pair(down=DOWN.astype(dtype), up=UP.astype(dtype))
    path = write(tmp_path / "x.safetensors", tensors)
    found = change(path)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (UP @ DOWN).T, rtol=1e-6)


# --- Mistakes ----------------------------------------------------------------


def refusal(path, specs=SPECS):
  with pytest.raises(ValueError) as caught:
    load_lora(path, specs)
  text = str(caught.value)
  assert "\n" not in text
  return text.replace(str(path), "FILE")


def sdxl(layer="attn2.to_k"):
  """A layer that fits by name and is of SDXL by its width."""
  name = f"unet.mid_block.attentions.0.transformer_blocks.0.{layer}"
  return pair(name, np.zeros((2, 2048)), np.zeros((12, 2)))


def test_a_lora_of_another_base(tmp_path):
  path = write(tmp_path / "x.safetensors", sdxl())
  assert refusal(path) == (
    "FILE is a LoRA of another model: 1 of its 1 layers do not fit, e.g. "
    "'unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k' is 2048 to "
    "12 wide, and the model's is 16 to 12. Its text is 2048 wide (SDXL), the "
    "model's 16 wide (none that is known). Give it the base that it was "
    "trained on."
  )
  other = "unet.up_blocks.3.attentions.0.proj_in"
  path = write(tmp_path / "x.safetensors", sdxl() | pair(other))
  assert "2 of its 2 layers do not fit, e.g. 'unet.up_b" in refusal(path)
  assert "is not one of its layers" in refusal(path)


def test_a_lora_of_a_part_that_the_model_lacks():
  text = refusal(loras.FOLDER / "kohya", {"unet": SPECS["unet"]})
  assert (
    "e.g. 'lora_te_text_model_encoder_layers_0_self_attn_k_proj' is not one of "
    "its layers" in text
  )


@pytest.mark.parametrize(
  ("extra", "text"),
  [
    (
      {"unet.a.proj_in.lora_magnitude_vector": np.ones(4)},
      "1 of its 3 tensors are something else, e.g. "
      "'unet.a.proj_in.lora_magnitude_vector' (DoRA). Merge it into its base",
    ),
    ({"x.dora_scale": np.ones(4)}, "'x.dora_scale' (DoRA)"),
    ({"x.hada_w1_a": np.ones(4)}, "'x.hada_w1_a' (LoHa)"),
    ({"x.lokr_w1": np.ones(4)}, "'x.lokr_w1' (LoKr)"),
    ({"x.lora_mid.weight": np.ones(4)}, "(a Tucker decomposition)"),
    ({"x.lora_B.bias": np.ones(4)}, "(LoRA with biases)"),
    ({"x.diff": np.ones(4)}, "(differences of full rank)"),
    ({"x.weight": np.ones(4)}, "e.g. 'x.weight'. Merge"),
  ],
)
def test_no_plain_lora(extra, text, tmp_path):
  found = refusal(write(tmp_path / "x.safetensors", pair() | extra))
  assert found.startswith("FILE is not a plain LoRA: 1 of its 3 tensors")
  assert text in found


@pytest.mark.parametrize(
  ("config", "text"),
  [
    ({"use_dora": True}, "use_dora=True is not supported"),
    ({"bias": "all"}, "bias='all' is"),
    ({"modules_to_save": ["conv_out"]}, "modules_to_save=['conv_out'] is"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is"),
    ({"peft_type": "LOHA", "use_dora": True}, "peft_type='LOHA', use_dora"),
    ({"from_the_future": 3}, "from_the_future=3 is"),
  ],
)
def test_a_config_of_no_plain_lora(config, text, tmp_path):
  write(tmp_path / "adapter_model.safetensors", pair("a.proj_in"))
  stored = json.loads((loras.FOLDER / "peft/adapter_config.json").read_text())
  (tmp_path / "adapter_config.json").write_text(json.dumps(stored | config))
  assert f"is not a plain LoRA: {text}" in refusal(tmp_path)


def test_files_that_cannot_be_read(tmp_path):
  assert refusal(tmp_path / "no") == (
    "There is no LoRA at FILE: give a .safetensors file."
  )
  assert "FILE has 0 .safetensors files" in refusal(tmp_path)
  pickled = tmp_path / "pytorch_lora_weights.bin"
  pickled.write_bytes(b"\x80\x04.")
  assert "Pickles (.bin, .pt, .ckpt) can run code" in refusal(pickled)
  path = write(tmp_path / "adapter_model.safetensors", pair())
  assert "has no adapter_config.json" in refusal(path)
  path = write(tmp_path / "x.safetensors", {})
  assert refusal(path) == "FILE has no tensors: fetch or make it again."
  path = write(tmp_path / "x.safetensors", {"unet.conv_in.weight": DOWN})
  assert refusal(path) == (
    "FILE holds no LoRA, its names are like 'unet.conv_in.weight': the layouts "
    "of PEFT, diffusers and kohya are read."
  )
  whole = path.read_bytes()
  path.write_bytes(whole[:-4])
  assert "FILE is not a whole safetensors file" in refusal(path)
  narrow = {k: v.astype(ml_dtypes.float8_e4m3fn) for k, v in pair().items()}
  path = write(tmp_path / "x.safetensors", narrow)
  assert refusal(path).startswith("FILE has tensors of F8_E4M3, e.g. 'unet.a.")
  header = {"lora_adapter_metadata": "{"}
  path = write(tmp_path / "x.safetensors", pair(), header)
  assert "The header of FILE is not JSON" in refusal(path)
  tensors = pair("unet.conv_in")
  tensors.popitem()
  path = write(tmp_path / "x.safetensors", tensors)
  assert refusal(path) == (
    "FILE has half of a pair: there is no lora_B of unet.conv_in. Fetch or "
    "make it again."
  )


def test_what_cannot_be_written(tmp_path):
  updates = load_lora(loras.FOLDER / "diffusers", SPECS)
  with pytest.raises(ValueError, match=r"layout='a1111' of LoRA: use .* kohya"):
    save_lora(updates, tmp_path, layout="a1111")
  with pytest.raises(ValueError, match=r"is of text_encoder and unet: use"):
    save_lora(updates, tmp_path / "x", layout="peft")
  assert not list(tmp_path.iterdir())
