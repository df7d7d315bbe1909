# SPDX-License-Identifier: Apache-2.0
"""Loads and saves apprentices: a diffusers folder with `apprentice.json`.

  apprentice.json    method, config.method, base and its fingerprint, sampling
                     defaults
  unet/              config.json; the weights, under the base's names and new
  text_encoder/ tokenizer/ scheduler/ model_index.json   the base's own, copied

Without a `text_encoder/` the frozen parts are those of the base it names: so
the apprentice shipped beside its base consists of its U-Net alone.

This file neither trains nor samples.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from apprentice.method import Method, find
from suti.hf.find import find_model
from suti.hf.model_index import FILE, read_index, without_parts
from suti.hf.weight_files import leads_out
from suti.hf.weights import load, save
from suti.io.files import (
  fingerprint,
  read_json,
  replacing_folder,
  write_json,
)
from suti.nn.nets import functional_nets
from suti.nn.param import Param
from suti.pipeline import known_words
from suti.pipeline.backbone import Backbone, Params, load_backbone
from suti.schema import content_key

RECORD = "apprentice.json"
# Values of fields that older records lack, as the code had them then. They are
# filled in here alone: all other code reads the fields directly.
_OLDER: Mapping[str, Mapping[str, Any]] = {
  "config": {
    "feed_forward": 0,
    "trainable": None,
    "features": "encoder",
    "positions": False,
  },
  "sampling": {
    "text_guidance": None,
    "guidance_ramp": 0.0,
    "text_guidance_ramp": 0.0,
    "agnostic": 0.0,
    "agnostic_above": 1.0,
    "subject_scale": 1.0,
    "guidance_until": 0.0,
  },
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Parts of a base that only some models have.
_SECONDS = ("text_encoder_2", "tokenizer_2")
_COPIED = ("text_encoder", "tokenizer", "vae", "scheduler", *_SECONDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Apprentice:
  """A method on a backbone, with or without arrays.

  Attributes:
    name: of the method, a file of `apprentice/methods`.
    method: its record.
    config: `config.method`.
    backbone: the base model; its `params` may be empty.
    spec: description of all parameters, new ones included.
    apply: the pure function of the declared module.
    params: its arrays by published name; empty before they are loaded.
    sampling: its sampling defaults: num_steps, guidance, sampler ..., and
      max_demonstrations.
  """

  name: str
  method: Method
  config: Mapping[str, Any]
  backbone: Backbone
  spec: Mapping[str, Param]
  apply: Callable[..., Any]
  params: Params = dataclasses.field(default_factory=dict)
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def trainable(self) -> str:
    """Regex over the names of the trainable parameters."""
    return self.config["trainable"] or self.method.trainable


def declare(backbone: Backbone, *, name: str, config: Any) -> Apprentice:
  """Declares a method's networks on a backbone: descriptions, no arrays.

  Args:
    backbone: the base model.
    name: of the method.
    config: `config.method`.

  Raises:
    ValueError: no such method, or it does not fit the backbone.
  """
  method = find(name)
  spec, apply = functional_nets(method.declare(backbone, config))
  return Apprentice(
    name=name,
    method=method,
    config=config,
    backbone=backbone,
    spec=spec,
    apply=apply,
  )


def is_apprentice(name_or_dir: str | Path) -> bool:
  """Whether a model's folder holds an apprentice, not a backbone."""
  return (find_model(name_or_dir) / RECORD).is_file()


def load_apprentice(
  name_or_dir: str | Path, *, dtype: Any = jnp.float32
) -> Apprentice:
  """Opens an apprentice.

  Args:
    name_or_dir: a shipped name, or a folder that `apprentice.train` wrote.
    dtype: of its arrays; the compute follows it.

  Raises:
    ValueError: no such folder, not an apprentice, or weights that do not fit.
  """
  folder = find_model(name_or_dir)
  if not (folder / RECORD).is_file():
    raise ValueError(
      f"{folder} has no {RECORD}: it is no apprentice. Give the folder that "
      "apprentice.train wrote (WORKDIR/apprentice/train/model)."
    )
  record = read_record(folder)
  whole = (folder / "text_encoder").is_dir()
  backbone = load_backbone(folder if whole else record["base"], weights=False)
  check_base(folder, backbone)
  # The copied parts are the base's: written again, it is named, not the copy.
  backbone = dataclasses.replace(backbone, name=record["base"])
  apprentice = declare(
    backbone,
    name=record["method"],
    config=ConfigDict(record["config"]),
  )
  return dataclasses.replace(
    apprentice,
    params=load(apprentice.spec, folder / "unet", dtype=dtype),
    sampling=record["sampling"],
  )


def read_record(folder: Path) -> dict[str, Any]:
  """The apprentice.json of a folder; fields that older ones lack are filled."""
  record: dict[str, Any] = read_json(folder / RECORD)
  return record | {part: {**_OLDER[part], **record[part]} for part in _OLDER}


def check_base(folder: Path, backbone: Backbone) -> None:
  """Refuses a base whose frozen parts differ from those of the training.

  Args:
    folder: of the apprentice.
    backbone: the base; only its U-Net may differ.

  Raises:
    ValueError: another text encoder, autoencoder or schedule.
  """
  if read_json(folder / RECORD).get("frozen") != _frozen(backbone.folder):
    raise ValueError(
      f"The apprentice in {folder} was trained with another text encoder, "
      f"autoencoder or schedule than {backbone.name} has: give its own base, "
      "or train it again on this one."
    )


def _frozen(base: Path) -> str:
  """Fingerprints the parts that an apprentice shares with its base."""
  parts = ["text_encoder", "tokenizer", "vae", "scheduler"]
  # Only where there are any, so that other models keep their fingerprints.
  parts += [part for part in _SECONDS if (base / part).is_dir()]
  return content_key(
    *(
      fingerprint(base / part) if (base / part).is_dir() else ""
      for part in parts
    )
  )


def check_copied(base: Path) -> list[Path]:
  """The files of a base that are copied into its apprentices.

  They are model_index.json, words.json and those of the frozen parts, and no
  others: a folder may hold anything beside a model. Links are followed only if
  they stay in it, or in the hub's cache of it.

  Raises:
    ValueError: one is a link that points outside of the base.
  """
  files = []
  for name in (FILE, known_words.FILE, *_COPIED):
    # The walk does not enter a folder that is a link.
    for path in [base / name, *sorted((base / name).rglob("*"))]:
      # Copies may be published: no file from elsewhere may slip in.
      if path.is_symlink() and leads_out(path, home=base):
        raise ValueError(
          f"{path} is a link that leads out of {base}: put what it leads to "
          "there if it belongs to the model, or remove it."
        )
      if path.is_file():
        files.append(path)
  return files


def save_apprentice(
  apprentice: Apprentice,
  folder: Path,
  *,
  dtype: Any = jnp.float32,
  with_base: bool = True,
) -> None:
  """Writes an apprentice's folder, whole or not at all.

  Args:
    apprentice: with its arrays.
    folder: replaced if it exists.
    dtype: of the arrays in the file; float16 halves its size.
    with_base: copy the frozen parts, so that the folder is self-contained.

  Raises:
    ValueError: see `check_copied`; or the disk is full.
  """
  base = apprentice.backbone.folder
  copied = check_copied(base) if with_base else []
  with replacing_folder(folder, last=RECORD) as part:
    for file in copied:
      target = part / file.relative_to(base)
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(file, target)
    if copied and (index := read_index(base)):
      # Such as a safety checker, which is named there but not copied.
      left = without_parts(index, {"unet", *_COPIED})
      if left != index:
        write_json(part / FILE, left)
    write_json(part / "unet" / "config.json", dict(_unet_config(apprentice)))
    save(
      apprentice.params, apprentice.spec, part / "unet" / WEIGHTS, dtype=dtype
    )
    config = ConfigDict(apprentice.config).to_dict()
    write_json(
      part / RECORD,
      {
        "method": apprentice.name,
        "config": config,
        "base": apprentice.backbone.name,
        "frozen": _frozen(base),
        "sampling": ConfigDict(apprentice.sampling).to_dict(),
      },
    )


def _unet_config(apprentice: Apprentice) -> Mapping[str, Any]:
  return apprentice.backbone.unet_config
