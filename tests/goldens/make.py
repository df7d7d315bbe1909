# SPDX-License-Identifier: Apache-2.0
"""Runs the publishers' code on the cases and stores what it returned.

`python -m tests.goldens.make`, with the extra `parity` (torch, transformers,
diffusers). Names and shapes are those of the files that the publishers'
libraries write, which differ from what some have in memory: transformers 5
renamed modules, and does not restore the prefix of a lone CLIP text encoder.
"""

import gzip
import json
import pathlib
import tempfile

import diffusers
import numpy as np
import safetensors.torch
import torch
import transformers

from tests.goldens import cases

FOLDER = pathlib.Path(__file__).parent


def build(family: str, config: dict) -> torch.nn.Module:
  """Builds the publishers' model, without caring for its weights."""
  if family == "unet":
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    return diffusers.UNet2DConditionModel(**config).eval()
  if family == "vae":
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    return diffusers.AutoencoderKL(**config).eval()
  if family == "clip":
    config = transformers.CLIPConfig(**config)
    return transformers.CLIPModel(config).eval()
  if family == "clip_text":
    config = transformers.CLIPTextConfig(**config)
    return transformers.CLIPTextModel(config).eval()
  config = transformers.ViTConfig(**config)
  return transformers.ViTModel(config, add_pooling_layer=False).eval()


def published(model: torch.nn.Module, family: str) -> dict:
  """Returns the tensors under the names of the file that is published."""
  if family in ("unet", "vae"):
    return dict(model.state_dict())
  if family == "clip_text":
    return {
      name if name.startswith("text_model.") else f"text_model.{name}": value
      for name, value in model.state_dict().items()
    }
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    return safetensors.torch.load_file(f"{folder}/model.safetensors")


def fill(model: torch.nn.Module, family: str, tensors: dict) -> torch.nn.Module:
  """Loads published tensors into the publishers' model."""
  tensors = {name: torch.from_numpy(np.array(v)) for name, v in tensors.items()}
  if family in ("unet", "vae"):
    model.load_state_dict(tensors)
    return model
  if family == "clip_text":
    own = set(model.state_dict())
    model.load_state_dict(
      {
        name if name in own else name.removeprefix("text_model."): value
        for name, value in tensors.items()
      }
    )
    return model
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    safetensors.torch.save_file(
      tensors, f"{folder}/model.safetensors", metadata={"format": "pt"}
    )
    options = {"add_pooling_layer": False} if family == "dino" else {}
    return type(model).from_pretrained(folder, **options).eval()


def run(model: torch.nn.Module, case: str) -> dict[str, np.ndarray]:
  """Calls the publishers' model; images and gradients as in its own layout."""
  family = cases.CASES[case][0]
  values = {k: torch.from_numpy(v) for k, v in cases.inputs(case).items()}
  if family == "unet":
    return _run_unet(model, values)
  if family == "vae":
    return _run_vae(model, values)
  ids = values["ids"].long()
  with torch.no_grad():
    if family == "clip_text":
      return {"states": model(ids).last_hidden_state.numpy()}
    x = values["x"].permute(0, 3, 1, 2)
    if family == "dino":
      out = model(x, interpolate_pos_encoding=True)
      return {"states": out.last_hidden_state.numpy()}
    out = model(input_ids=ids, pixel_values=x)
    return {
      "states": out.text_model_output.last_hidden_state.numpy(),
      "text": out.text_embeds.numpy(),
      "image": out.image_embeds.numpy(),
      "logits": out.logits_per_image.numpy(),
    }


def _run_unet(model, values):
  features = {}

  def keep(name, index):
    def hook(_, inputs, output):
      features[name] = _nhwc(output[index][-1] if index else inputs[0])

    return hook

  # What a down block's downsampler is given; of the last one, what it returns.
  for i, block in enumerate(model.down_blocks):
    if block.downsamplers is not None:
      block.downsamplers[0].register_forward_hook(keep(f"down_blocks.{i}", 0))
    else:
      block.register_forward_hook(keep(f"down_blocks.{i}", 1))
  model.mid_block.register_forward_hook(
    lambda _, inputs, output: features.update(mid_block=_nhwc(output))
  )
  arguments = (
    values["x"].permute(0, 3, 1, 2),
    values["t"].long(),
    values["text"],
  )
  mask = values.get("text_mask")
  out = model(*arguments, encoder_attention_mask=mask).sample
  outputs = {"out": _nhwc(out)}
  outputs |= {f"encode.{name}": value for name, value in features.items()}
  target = values["target"].permute(0, 3, 1, 2)
  ((out - target) ** 2).mean().backward()
  for name, value in model.named_parameters():
    outputs[f"gradient.{name}"] = value.grad.numpy()
  return outputs


def _run_vae(model, values):
  posterior = model.encode(values["x"].permute(0, 3, 1, 2)).latent_dist
  out = model.decode(values["z"].permute(0, 3, 1, 2)).sample
  outputs = {
    "mean": _nhwc(posterior.mean),
    "log_variance": _nhwc(posterior.logvar),
    "out": _nhwc(out),
  }
  loss = (posterior.mean**2).mean() + (posterior.logvar**2).mean()
  (loss + (out**2).mean()).backward()
  for name, value in model.named_parameters():
    outputs[f"gradient.{name}"] = value.grad.numpy()
  return outputs


def _nhwc(x):
  return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def main() -> None:
  """Writes one file a case, and the index of real models."""
  for case, (family, config, _) in cases.CASES.items():
    model = build(family, config)
    shapes = {k: tuple(v.shape) for k, v in published(model, family).items()}
    model = fill(model, family, cases.weights(shapes))
    tensors = {
      name: torch.from_numpy(np.ascontiguousarray(value))
      for name, value in cases.probe(run(model, case)).items()
    }
    safetensors.torch.save_file(
      tensors,
      FOLDER / f"{case}.safetensors",
      metadata={"shapes": json.dumps(shapes, separators=(",", ":"))},
    )
  index = {}
  for name, (family, config) in cases.PUBLISHED.items():
    with torch.device("meta"):
      model = build(family, config)
    index[name] = {k: list(v.shape) for k, v in _named(model, family).items()}
  text = json.dumps(index, separators=(",", ":"), sort_keys=True)
  (FOLDER / "index.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def _named(model, family):
  """Published names of a model without arrays, which cannot be saved."""
  if family in ("unet", "vae", "clip"):
    return model.state_dict()
  small = build("dino", {**cases.PUBLISHED["dino-vits16"][1]})
  return published(small, "dino")


if __name__ == "__main__":
  main()
