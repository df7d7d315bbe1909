# SPDX-License-Identifier: Apache-2.0
"""How the publishers' models are filled and read, by their library.

Needs the extra `parity` (torch, transformers, diffusers) when called. Names are
those of the files that the libraries write, which differ from what some have in
memory: transformers 5 renamed modules.
"""

import tempfile

import numpy as np


def tensors(values: dict[str, np.ndarray]) -> dict:
  """NumPy arrays -> torch tensors of their own memory."""
  import torch

  return {
    name: torch.from_numpy(np.array(v, order="C")) for name, v in values.items()
  }


def diffusers_config(config: dict) -> dict:
  """What a diffusers constructor takes of a published config."""
  return {k: v for k, v in config.items() if not k.startswith("_")}


def states(model) -> dict:
  """The tensors of a diffusers model, under the names of its file."""
  return dict(model.state_dict())


def filled(model, values: dict[str, np.ndarray]):
  """A diffusers model with these tensors of its file."""
  model.load_state_dict(tensors(values))
  return model


def tower_states(model, tower: str) -> dict:
  """The same of a lone tower of CLIP.

  transformers 5 does not restore the prefix that published files have, but for
  a tower with its projection.
  """
  known = (f"{tower}.", "text_projection.", "visual_projection.")
  return {
    name if name.startswith(known) else f"{tower}.{name}": value
    for name, value in model.state_dict().items()
  }


def tower_filled(model, values: dict[str, np.ndarray], tower: str):
  """A lone tower of CLIP with these tensors of its file."""
  own = model.state_dict().keys()
  return filled(
    model,
    {
      n if n in own else n.removeprefix(f"{tower}."): v
      for n, v in values.items()
    },
  )


def saved(model) -> dict:
  """Returns the tensors of the file that a transformers model is saved to."""
  import safetensors.torch

  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    return safetensors.torch.load_file(f"{folder}/model.safetensors")


def reopened(model, values: dict, **options):
  """Opens a transformers model anew, with these tensors in its file."""
  import safetensors.torch

  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    safetensors.torch.save_file(
      tensors(values), f"{folder}/model.safetensors", metadata={"format": "pt"}
    )
    return type(model).from_pretrained(folder, **options).eval()


def without_arrays(model) -> dict:
  """Names and shapes of the file of a transformers model on device "meta".

  Such a model cannot be saved; this is what saving it does to its names.
  """
  from transformers.core_model_loading import revert_weight_conversion

  return revert_weight_conversion(model, model.state_dict())


def nhwc(x) -> np.ndarray:
  """A torch picture (B, C, H, W) -> NumPy (B, H, W, C)."""
  return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def nchw(x):
  """A torch picture (B, H, W, C) -> (B, C, H, W)."""
  return x.permute(0, 3, 1, 2)


def gradients(model) -> dict[str, np.ndarray]:
  """What `backward` left at each parameter."""
  return {
    f"gradient.{name}": value.grad.numpy()
    for name, value in model.named_parameters()
  }
