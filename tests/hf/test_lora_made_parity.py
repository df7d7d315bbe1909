# SPDX-License-Identifier: Apache-2.0
"""Files that diffusers and PEFT make with each of their options, read here.

What they do with an update in memory, after saving it in every way that people
do, is compared with what is read of the file.
"""

import numpy as np
import pytest
import safetensors.numpy

from suti.hf.lora import load_lora
from suti.hf.lora_export import save_lora
from suti.nn.surgery import ranks
from tests.goldens import loras
from tests.hf.test_lora import LAYOUTS, SPECS, outputs
from tests.hf.test_lora_parity import assert_equal

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]

PATTERN = r"(mid_block|up_blocks\.0).*attn[12]\.to_(q|k|v|out\.0)"
CONVOLUTIONS = r".*(resnets\.0\.conv.*|samplers\.0\.conv|conv_in)"


@pytest.fixture(scope="module", autouse=True)
def _publishers():
  for name in ("torch", "diffusers", "transformers", "peft", "accelerate"):
    pytest.importorskip(name, reason=f"{name} is not installed: [parity]")


def config(**options):
  import peft

  given = {"r": 3, "lora_alpha": 5, "target_modules": PATTERN} | options
  return peft.LoraConfig(**given)


def peft_unet(seed="made", *, adapter="default", **options):
  """A pipeline whose U-Net is PEFT's, with an update drawn from the seed."""
  import peft

  pipe = loras.make_pipeline()
  model = peft.get_peft_model(
    pipe.unet, config(**options), adapter_name=adapter
  )
  loras.with_seed(model, seed)
  pipe.unet = model.eval()
  return pipe


def assert_does_the_same(pipe, path):
  expected = loras.run(pipe)
  plain = loras.run(loras.make_pipeline())
  assert any(np.abs(expected[k] - plain[k]).max() > 0.01 for k in plain)
  updates = load_lora(path, SPECS)
  found = outputs(updates, merged=True)
  assert_equal(found, expected)


# --- PEFT --------------------------------------------------------------------


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"lora_alpha": 16},
    {"use_rslora": True},
    {"use_rslora": True, "lora_alpha": 2, "r": 5},
    {"lora_dropout": 0.5},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": False},
    {"target_modules": CONVOLUTIONS},
    {"rank_pattern": {"to_q": 1, "up_blocks.*to_k": 4}},
    {"rank_pattern": {"to_q": 1}, "alpha_pattern": {"to_q": 3, "attn2.*": 7}},
    {"alpha_pattern": {r"^mid_block\.attentions\.0\..*\.to_(q|v)": 9}},
    {
      "alpha_pattern": {
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 2
      },
      "use_rslora": True,
    },
    {
      "target_modules": ["to_q", "to_k"],
      "layers_to_transform": [0],
      "layers_pattern": "attentions",
    },
  ],
  ids=str,
)
def test_options_of_peft(options, tmp_path):
  peft_unet(**options).unet.save_pretrained(tmp_path)
  # Opened again: it sorts patterns when it saves them, and the first decides.
  assert_does_the_same(loras.opened("peft", tmp_path), tmp_path)


@pytest.mark.parametrize("which", ["rex", "tom"])
def test_each_of_several_adapters_has_a_folder(which, tmp_path):
  pipe = peft_unet(adapter="rex")
  pipe.unet.add_adapter("tom", config(r=2, lora_alpha=8))
  loras.with_seed(pipe.unet, "two")
  pipe.unet.set_adapter(which)
  pipe.unet.save_pretrained(tmp_path)
  assert_does_the_same(pipe, tmp_path / which)
  with pytest.raises(ValueError, match=r"rex/adapter_model.*tom/adapter_mod"):
    load_lora(tmp_path, SPECS)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"use_dora": True}, "is not a plain LoRA: use_dora=True is not supported"),
    ({"lora_bias": True}, "lora_bias=True is not supported"),
    ({"bias": "lora_only"}, "bias='lora_only' is not supported"),
    ({"bias": "all"}, "bias='all' is not supported"),
    ({"modules_to_save": ["conv_out"]}, "modules_to_save=.*conv_out.* is not"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supp"),
  ],
  ids=str,
)
def test_what_is_no_plain_lora_is_refused_by_its_reason(
  options, text, tmp_path
):
  pipe = peft_unet(**options)
  pipe.unet.save_pretrained(tmp_path / "peft")
  with pytest.raises(ValueError, match=text):
    load_lora(tmp_path / "peft", SPECS)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"use_dora": True}, r"lora_magnitude_vector.* \(DoRA\)"),
    ({"lora_bias": True}, r"\(LoRA with biases\)"),
  ],
  ids=str,
)
def test_tensors_say_so_too(options, text, tmp_path):
  """As diffusers' scripts save them, without a config."""
  pipe = peft_unet(**options)
  tensors = {
    name.replace(".default", "").replace("base_model.model", "unet"): x.numpy()
    for name, x in pipe.unet.state_dict().items()
    if ".lora_" in name
  }
  path = tmp_path / "x.safetensors"
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match=text):
    load_lora(path, SPECS)


def test_a_text_encoder_of_pefts(tmp_path):
  import peft

  pipe = loras.make_pipeline()
  given = config(target_modules=["q_proj", "out_proj", "fc1"])
  model = peft.get_peft_model(pipe.text_encoder, given)
  loras.with_seed(model, "text")
  model.save_pretrained(tmp_path)
  pipe.text_encoder = model.eval()
  assert_does_the_same(pipe, tmp_path)


# --- diffusers ---------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["default", "default_0", "rex"])
@pytest.mark.parametrize("start", ["", "unet.", "unet._orig_mod."])
def test_a_models_own_tensors_as_people_save_them(adapter, start, tmp_path):
  """`save_file` of what has "lora_" in its name, the adapter's name in it."""
  pipe = loras.make_pipeline()
  pipe.unet.add_adapter(config(lora_alpha=3), adapter_name=adapter)
  loras.with_seed(pipe.unet, "own")
  tensors = {
    start + name: x.numpy()
    for name, x in pipe.unet.state_dict().items()
    if ".lora_" in name
  }
  assert all(f".{adapter}.weight" in name for name in tensors)
  safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
  assert_does_the_same(pipe, tmp_path / "x.safetensors")


def test_a_compiled_models_tensors(tmp_path):
  import torch

  pipe = loras.make_pipeline()
  pipe.unet.add_adapter(config(lora_alpha=3), adapter_name="rex")
  loras.with_seed(pipe.unet, "compiled")
  compiled = torch.compile(pipe.unet)  # nothing is compiled before a call
  tensors = {k: v.numpy() for k, v in compiled.state_dict().items()}
  tensors = {k: v for k, v in tensors.items() if ".lora_" in k}
  assert all(name.startswith("_orig_mod.") for name in tensors)
  safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
  assert_does_the_same(pipe, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"use_rslora": True, "lora_alpha": 4},
    {"alpha_pattern": {"attn1.to_q": 9}, "rank_pattern": {"attn1.to_q": 1}},
    {"target_modules": CONVOLUTIONS},
  ],
  ids=str,
)
def test_one_of_several_adapters_of_a_model_is_saved_alone(options, tmp_path):
  pipe = loras.make_pipeline()
  pipe.unet.add_adapter(config(r=2), adapter_name="tom")
  pipe.unet.add_adapter(config(**options), adapter_name="rex")
  loras.with_seed(pipe.unet, "several")
  pipe.unet.set_adapters("rex")
  pipe.unet.save_lora_adapter(tmp_path, adapter_name="rex")
  assert_does_the_same(pipe, tmp_path)


@pytest.mark.parametrize("is_pair", [False, True])
def test_a_pipelines_adapters_with_their_configs(is_pair, tmp_path):
  from peft import get_peft_model_state_dict

  pipe = loras.make_pipeline()
  models = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
  if not is_pair:
    del models["text_encoder"]
  targets = {"unet": PATTERN, "text_encoder": ["q_proj", "fc2"]}
  states, metadata = {}, {}
  for part, model in models.items():
    given = config(
      target_modules=targets[part],
      lora_alpha=6,
      use_rslora=part == "unet",
      alpha_pattern={"to_k": 2, "q_proj": 2},
    )
    model.add_adapter(given, adapter_name="rex")
    loras.with_seed(model, "pair")
    states[f"{part}_lora_layers"] = get_peft_model_state_dict(
      model, adapter_name="rex"
    )
    metadata[f"{part}_lora_adapter_metadata"] = given.to_dict()
  pipe.save_lora_weights(tmp_path, **states, **metadata)
  assert_does_the_same(pipe, tmp_path)


# --- Ours, in kohya's layout -------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kohyas_layout_does_the_same_there(layout, tmp_path):
  updates = load_lora(loras.FOLDER / layout, SPECS)
  about = {"suti.noun": "dog", "suti.caption": "a brown dog"}
  file = tmp_path / "x.safetensors"
  save_lora(updates, file, layout="kohya", about=about)
  pipe = loras.make_pipeline()
  pipe.load_lora_weights(file)
  assert_equal(loras.run(pipe), outputs(updates, merged=True))


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
def test_texts_in_the_header_do_not_disturb_them(layout, tmp_path):
  updates = load_lora(loras.FOLDER / "peft", SPECS)
  assert set(ranks(updates["unet"]).values()) == {2, 3}
  about = {"suti.base": "org/base", "suti.caption": "a brown dog"}
  path = tmp_path / ("x" if layout == "peft" else "x.safetensors")
  save_lora(updates, path, layout=layout, about=about)
  pipe = loras.make_pipeline()
  if layout == "peft":
    pipe = loras.opened("peft", path)
  else:
    pipe.load_lora_weights(path)
  expected = {"unet": outputs(updates, merged=True)["unet"]}
  assert_equal(loras.run(pipe), expected)
