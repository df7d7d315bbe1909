# SPDX-License-Identifier: Apache-2.0
"""Exports low-rank experts, each as a LoRA file for other tools.

A wave holds many experts in one file, stacked and in our layout
(`experts.farm.wave_files`). Each is written to a file that diffusers, PEFT,
ComfyUI or A1111 load on the backbone that it was tuned on, with a readable
name. Experts of other teachers are whole U-Nets and are not exported.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from experts.clusters import read_clusters, readable
from experts.farm.wave_files import read_experts
from suti.hf.lora_export import save_lora
from suti.io.files import check_new_folder, read_object, replacing_folder


class _Fine(NamedTuple):
  """A finished expert, and the row of a wave's file that holds it."""

  weights: Path
  row: int
  teacher: str


class _Subject(NamedTuple):
  """Readable names of an expert's subject."""

  name: str  # name of the folder of its pictures; "" if they are from the web
  noun: str
  caption: str


def export_experts(
  folder: Path,
  out: Path,
  *,
  layout: str = "diffusers",
  experts: Collection[str] | None = None,
) -> list[Path]:
  """Writes the experts of a stage's finished waves.

  Args:
    folder: experts/finetune of a workdir.
    out: new folder, which appears when all is written: for each expert a file
      NAME.safetensors, or in the layout "peft" a folder NAME. A name is made of
      the subject's name, its noun and its key: "rex-dog-0a1b2c3d4e5f".
    layout: as in `suti.hf.lora_export.save_lora`.
    experts: keys, names or nouns of those to write; None is all that are ok.

  Returns:
    The names of what was written, in the order of the waves.

  Raises:
    ValueError: there is no such expert, it is not a LoRA, or `out` exists.
  """
  folder = Path(folder)
  check_new_folder(Path(out), outside=folder)
  found = {
    expert.cluster: _Fine(
      record.with_suffix(".safetensors"), row, expert.teacher
    )
    for record in sorted(folder.glob("wave-*.json"))
    for row, expert in enumerate(read_experts(record.parent, record.stem))
    if expert.status == "ok"
  }
  if not found:
    raise ValueError(
      f"{folder} has no finished expert: run experts.finetune first."
    )
  if experts and found.keys() >= set(experts):
    found = {key: fine for key, fine in found.items() if key in experts}
  subjects = _read_subjects(folder, found)
  if experts is not None:
    found = _choose(folder, found, subjects, experts)
  base = _base(folder)
  names = []
  with replacing_folder(out) as partial:
    for key, fine in found.items():
      name = _file_name(key, subjects.get(key))
      name += "" if layout == "peft" else ".safetensors"
      update = _read_row(fine.weights, fine.row, teacher=fine.teacher)
      save_lora(
        {"unet": update},
        partial / name,
        layout=layout,
        about=_about(name, update, subjects.get(key), base),
      )
      names.append(name)
  return [Path(out) / name for name in names]


def _read_subjects(folder: Path, keys: Iterable[str]) -> dict[str, _Subject]:
  """The subjects of experts; {} if experts/mine is not in the workdir."""
  if not (folder.parent / "mine" / "clusters.array_record").is_file():
    return {}
  clusters, _ = readable(read_clusters(folder.parent.parent), keys)
  return {
    key: _Subject(_folder_name(c.source), c.subject, c.caption)
    for key, c in clusters.items()
  }


def _folder_name(source: str) -> str:
  """The name of the folder of a subject's pictures; "" if from the web."""
  if "://" in source or source.startswith("world:"):
    return ""
  return Path(source).name


def _choose(folder, found, subjects, wanted) -> dict[str, _Fine]:
  """Selects experts by key, name or noun.

  Raises:
    ValueError: no expert matches one of these.
  """
  of = {key: {key, _file_name(key, subjects.get(key))} for key in found}
  for key, subject in subjects.items():
    of[key] |= {subject.name, subject.noun}
  for text in wanted:
    if not any(text in names for names in of.values()):
      there = ", ".join(_file_name(key, subjects.get(key)) for key in [*of][:5])
      raise ValueError(
        f"{folder} has no finished expert of {text!r}: there are {there}"
        f"{' and more' if len(of) > 5 else ''}; give a key, or the name of a "
        "subject."
      )
  return {key: found[key] for key in of if of[key] & set(wanted)}


def _file_name(key: str, subject: _Subject | None) -> str:
  """A name such as rex-dog-0a1b2c3d4e5f: letters, digits and hyphens alone."""
  if subject is None:
    return key
  name, noun = (
    re.sub(r"[\W_]+", "-", text.lower()).strip("-")[:40]
    for text in (subject.name, subject.noun)
  )
  words = [name] if noun in name else [name, noun]
  return "-".join([*filter(None, words), key])


def _base(folder: Path) -> str:
  """The model that the experts were tuned on; "" if it was not recorded."""
  if not (folder / "stage.json").is_file():
    return ""
  config = read_object(folder / "stage.json").get("config")
  backbone = config.get("backbone") if isinstance(config, dict) else None
  return backbone if isinstance(backbone, str) else ""


def _about(
  file: str, update: Mapping[str, Any], subject: _Subject | None, base: str
) -> dict[str, str]:
  """The metadata in the header of a file.

  The caption is that of the training pictures: there is no rare token, a prompt
  names the subject by its noun.
  """
  # Local paths are of no use on other machines.
  on_disk = base.startswith(("/", ".", "~")) or Path(base).exists()
  base = Path(base).name if on_disk else base
  (rank,) = {x.shape[-1] for n, x in update.items() if ".lora_A." in n}
  about = {"suti.base": base, "suti.rank": str(rank)}
  caption = "a photo"
  if subject is not None:
    caption = subject.caption
    about |= {
      "suti.subject": subject.name or subject.noun,
      "suti.noun": subject.noun,
      "suti.caption": subject.caption,
    }
  words = ["suti", "generate", "--model", base or "BASE", "--lora", file]
  command = shlex.join([*words, "--prompt", f"{caption} in the snow"])
  return {k: v for k, v in about.items() if v} | {"suti.command": command}


def _read_row(file, row, *, teacher):
  """The parameters of one expert of a wave."""
  if not file.exists():
    raise ValueError(
      f"{file} is gone: with config.finetune.keep='nothing' weights are "
      "deleted once sampled."
    )
  try:
    with safetensors.safe_open(file, framework="np") as opened:
      if (opened.metadata() or {}).get("kind") == "difference":
        raise ValueError(
          f"{file} holds differences to the base: tune with "
          "config.finetune.keep='trainable' to export experts."
        )
      names = list(opened.keys())
      if others := [name for name in names if ".lora_" not in name]:
        raise ValueError(
          f"The experts in {file} are of teacher '{teacher}' and no LoRA: they "
          f"change {others[0]!r} itself. Use config.finetune.teacher='lora'."
        )
      return {name: opened.get_slice(name)[row] for name in names}
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{file} is not a whole safetensors file ({error}): delete it and its "
      ".json, and run experts.finetune again."
    ) from error
