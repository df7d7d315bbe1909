# SPDX-License-Identifier: Apache-2.0
"""LoRA files in each layout, and what diffusers and PEFT make of them.

  python -m tests.goldens.loras

writes `loras/LAYOUT/`, files of one update of a tiny U-Net (and text encoder),
and `loras/outputs.safetensors`. Needs the extra `parity`; configs and inputs at
the top do not.
"""

import json
import pathlib
import re

import numpy as np
import safetensors.numpy

from tests.goldens import drawing, theirs, unets
from tests.goldens.families import clip_text
from tests.goldens.families import unet as unet_family
from tests.goldens.families.clip import TEXT, token_ids

FOLDER = pathlib.Path(__file__).parent / "loras"
# Drawn with together, the first with this strength.
TWO, SCALE = ("diffusers", "kohya"), 0.6

UNET = unets.TINY
# Layers of every kind: (rank, alpha) of each pattern, the first that fits.
LAYERS = {
  r"mid_block\..*attn2\.to_(q|k|v|out\.0)": (3, 1.5),
  r"(down|up)_blocks\.0\..*attn[12]\.to_(k|out\.0)": (2, 4.0),
  r"mid_block\..*(proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)": (2, 4.0),
  r"conv_(in|out)": (2, 4.0),
  r"time_embedding\.linear_2": (4, 3.0),
  r"down_blocks\.1\.resnets\.0\.(conv1|conv2|conv_shortcut)": (1, 2.5),
  r"up_blocks\.0\.resnets\.1\.(conv1|time_emb_proj)": (2, 4.0),
  r"(down|up)_blocks\.0\.(down|up)samplers\.0\.conv": (2, 4.0),
  r".*layers\.0\.self_attn\.(q|k|v|out)_proj": (2, 4.0),
  r".*layers\.1\.mlp\.fc[12]": (3, 1.0),
}


def inputs() -> dict[str, np.ndarray]:
  """`x`, `t`, `text` of the U-Net and `ids` of the text encoder."""
  return {
    "x": drawing.normal("loras.x", (2, 8, 8, 4)),
    "t": np.array([3, 700], np.int32),
    "text": drawing.normal("loras.text", (2, 5, 16)),
    "ids": token_ids(7),
  }


def chosen(layer: str) -> tuple[int, float] | None:
  """Rank and alpha of a layer, or None."""
  found = (v for k, v in LAYERS.items() if re.fullmatch(k, layer))
  return next(found, None)


# --- Theirs ------------------------------------------------------------------


def make_pipeline():
  """A pipeline of a U-Net and a text encoder, drawn from their names."""
  import diffusers

  unet = diffusers.UNet2DConditionModel(**UNET).eval()
  text = clip_text.build(TEXT)
  for family, model in ((unet_family, unet), (clip_text, text)):
    tensors = family.published(model)
    drawn = drawing.weights({k: tuple(v.shape) for k, v in tensors.items()})
    family.fill(model, drawn)
  return diffusers.StableDiffusionPipeline(
    unet=unet,
    text_encoder=text,
    vae=None,
    tokenizer=None,
    scheduler=None,
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
  )


def run(pipe) -> dict[str, np.ndarray]:
  """Calls both models, whatever has been added to them."""
  import torch

  values = theirs.tensors(inputs())
  with torch.no_grad():
    out = pipe.unet(
      theirs.nchw(values["x"]), values["t"].long(), values["text"]
    ).sample
    states = pipe.text_encoder(values["ids"].long()).last_hidden_state
  return {"unet": theirs.nhwc(out), "text_encoder": states.numpy()}


def add_adapters(pipe, *, seed: str, only: str = "") -> None:
  """Adds an update to both models, drawn from its names and the seed."""
  for model in (pipe.unet, pipe.text_encoder):
    model.add_adapter(_config(model, only))
    with_seed(model, seed)


def with_seed(model, seed: str) -> None:
  """Draws the factors of an update."""
  import torch

  for name, value in model.named_parameters():
    if ".lora_" in name:
      drawn = drawing.normal(seed + name, tuple(value.shape)) / 3
      value.data = torch.from_numpy(drawn)


def _config(model, only: str = "", **options):
  from peft import LoraConfig

  names = [name for name, _ in model.named_modules() if only in name]
  of = {name: found for name in names if (found := chosen(name))}
  return LoraConfig(
    r=2,
    lora_alpha=4,
    target_modules=list(of),
    rank_pattern={k: r for k, (r, _) in of.items() if r != 2},
    alpha_pattern={k: a for k, (_, a) in of.items() if a != 4},
    **options,
  )


def _states(model):
  from peft import get_peft_model_state_dict

  return get_peft_model_state_dict(model)


def _renamed(pipe, rename, folder) -> None:
  """A file of tensors that `rename` names: (part, layer, half) -> name."""
  tensors = {}
  parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
  for part, model in parts.items():
    factors = {k: v.numpy() for k, v in _states(model).items()}
    # One for all: diffusers 0.42 forgets others of kohya's attention layers.
    alphas = {
      k.replace("lora_A.weight", "alpha"): _ALPHA for k in factors if "_A." in k
    }
    for name, value in (alphas | factors).items():
      layer, half = re.fullmatch(
        r"(.+?)\.(?:lora_)?(A|B|alpha)(?:\.weight)?", name
      ).groups()
      if part == "text_encoder":
        layer = "text_model." + layer.removeprefix("text_model.")
      if (name := rename(part, layer, half)) is not None:
        tensors[name] = np.asarray(value, order="C")
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(
    tensors,
    folder / "pytorch_lora_weights.safetensors",
    metadata={"format": "pt"},
  )


_ALPHA = np.float32(1.5)
_KOHYA = {"A": "lora_down.weight", "B": "lora_up.weight", "alpha": "alpha"}


def _kohya(part, layer, half):
  prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[part]
  return f"{prefix}_{layer.replace('.', '_')}.{_KOHYA[half]}"


def _oldest(part, layer, half):
  """Attention alone, without alphas."""
  match = re.fullmatch(r"(.+)\.(to_[qkv]|to_out\.0|([qkv]|out)_proj)", layer)
  if match is None or half == "alpha":
    return None
  parent, leaf, text = match.groups()
  leaf = f"to_{text}" if text else leaf.removesuffix(".0")
  middle = "" if text else ".processor"
  half = {"A": "down", "B": "up"}[half]
  return f"{part}.{parent}{middle}.{leaf}_lora.{half}.weight"


def _stability(part, layer, half):
  """SDXL's files: the U-Net as Stability AI numbers it."""
  if part == "text_encoder":
    return _kohya(part, layer, half).replace("lora_te_", "lora_te1_")
  rows = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_2": "time_embed_2",
    "down_blocks.0.attentions.0.": "input_blocks_1_1_",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
    "down_blocks.1.resnets.0.": "input_blocks_3_0_",
    "mid_block.attentions.0.": "middle_block_1_",
    "up_blocks.0.attentions.0.": "output_blocks_0_1_",
    "up_blocks.0.attentions.1.": "output_blocks_1_1_",
    "up_blocks.0.resnets.1.": "output_blocks_1_0_",
    "up_blocks.0.upsamplers.0.": "output_blocks_1_2_",
  }
  start = next(row for row in rows if layer.startswith(row))
  rest = layer.removeprefix(start)
  if "resnets" in start:
    rest = {
      "conv1": "in_layers_2",
      "conv2": "out_layers_3",
      "conv_shortcut": "skip_connection",
      "time_emb_proj": "emb_layers_1",
    }[rest]
  layer = rows[start] + rest.replace(".", "_")
  return f"lora_unet_{layer}.{_KOHYA[half]}"


def _write_diffusers(pipe, folder) -> None:
  metadata = {
    f"{part}_lora_adapter_metadata": model.peft_config["default"].to_dict()
    for part, model in (
      ("unet", pipe.unet),
      ("text_encoder", pipe.text_encoder),
    )
  }
  pipe.save_lora_weights(
    folder, _states(pipe.unet), _states(pipe.text_encoder), **metadata
  )


def _write_scripts(pipe, folder) -> None:
  """As the training scripts of diffusers: several names in one file."""
  from diffusers.utils import convert_state_dict_to_diffusers

  pipe.save_lora_weights(
    folder,
    convert_state_dict_to_diffusers(_states(pipe.unet)),
    convert_state_dict_to_diffusers(_states(pipe.text_encoder)),
  )


def _write_peft(pipe, folder, seed) -> None:
  """PEFT's own, of the U-Net alone, with another formula for the strength."""
  import peft

  config = _config(pipe.unet, only="attn2", use_rslora=True)
  model = peft.get_peft_model(pipe.unet, config)
  with_seed(model, seed)
  model.save_pretrained(folder)


LAYOUTS = {
  "diffusers": _write_diffusers,
  "scripts": _write_scripts,
  "oldest": lambda pipe, folder: _renamed(pipe, _oldest, folder),
  "kohya": lambda pipe, folder: _renamed(pipe, _kohya, folder),
  "stability": lambda pipe, folder: _renamed(pipe, _stability, folder),
  "peft": None,
}


def write(layout: str, folder: pathlib.Path, *, seed: str) -> None:
  """Writes an update of the tiny models with the publishers' libraries."""
  pipe = make_pipeline()
  if layout == "peft":
    _write_peft(pipe, folder, seed)
    return
  # diffusers 0.42 reads names of one kind alone, recognised by the first.
  add_adapters(pipe, seed=seed, only="attn" if layout == "scripts" else "")
  LAYOUTS[layout](pipe, folder)


def opened(layout: str, folder: pathlib.Path):
  """A pipeline with the file in it, by the publishers' libraries."""
  pipe = make_pipeline()
  if layout == "peft":
    import peft

    pipe.unet = peft.PeftModel.from_pretrained(pipe.unet, folder).eval()
  else:
    load(pipe, folder)
  return pipe


def load(pipe, folder: pathlib.Path, *, name: str | None = None) -> None:
  """Puts the file into a pipeline, beside those that are there."""
  states, alphas, metadata = pipe.lora_state_dict(
    folder / "pytorch_lora_weights.safetensors",
    unet_config=pipe.unet.config,
    return_lora_metadata=True,
  )
  options = {
    "network_alphas": alphas,
    "metadata": metadata,
    "adapter_name": name,
  }
  pipe.load_lora_into_unet(states, unet=pipe.unet, **options)
  pipe.load_lora_into_text_encoder(
    states, text_encoder=pipe.text_encoder, **options
  )


def opened_together(folder: pathlib.Path):
  """A pipeline with two files in it at once."""
  pipe = make_pipeline()
  for name in TWO:
    load(pipe, folder / name, name=name)
  pipe.set_adapters(list(TWO), adapter_weights=[SCALE, 1.0])
  return pipe


def main() -> None:
  """Writes all files."""
  outputs = {}
  for layout in LAYOUTS:
    folder = FOLDER / layout
    write(layout, folder, seed="golden")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card
    for name, value in run(opened(layout, folder)).items():
      outputs[f"{layout}.{name}"] = value
  outputs |= {f"two.{k}": v for k, v in run(opened_together(FOLDER)).items()}
  outputs |= {f"base.{k}": v for k, v in run(make_pipeline()).items()}
  safetensors.numpy.save_file(outputs, FOLDER / "outputs.safetensors")
  print(json.dumps({k: float(np.abs(v).max()) for k, v in outputs.items()}))


if __name__ == "__main__":
  main()
