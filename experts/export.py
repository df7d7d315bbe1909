# SPDX-License-Identifier: Apache-2.0
"""Finished low-rank experts -> one LoRA file each, for other tools.

A wave holds many experts in one file, stacked and in our layout
(`experts.wave_files`). Here each becomes a file that diffusers' or PEFT's
loaders open on the backbone that it was tuned on. Experts of other teachers are
whole U-Nets and are not exported here.
"""

from collections.abc import Collection
from pathlib import Path

import safetensors

from experts.wave_files import read_experts
from suti.io.files import check_new_folder, replacing_folder
from suti.io.lora_export import save_lora


def export_experts(
  folder: Path,
  out: Path,
  *,
  layout: str = "diffusers",
  clusters: Collection[str] | None = None,
) -> list[Path]:
  """Writes the experts of a stage's finished waves.

  Args:
    folder: experts/finetune of a workdir.
    out: new folder, which appears when all is written: CLUSTER.safetensors in
      the layout "diffusers", a folder CLUSTER in the layout "peft".
    layout: as in `suti.io.lora.save_lora`.
    clusters: keys of the experts to write; None is all that are fine.

  Returns:
    What was written, in the order of the waves.

  Raises:
    ValueError: there is no such expert, it is no LoRA, or `out` is there.
  """
  check_new_folder(Path(out), outside=Path(folder))
  found = {
    expert.cluster: (record.with_suffix(".safetensors"), row, expert.teacher)
    for record in sorted(Path(folder).glob("wave-*.json"))
    for row, expert in enumerate(read_experts(record.parent, record.stem))
    if expert.status == "ok"
  }
  if not found:
    raise ValueError(
      f"{folder} has no finished expert: run experts.finetune first."
    )
  if absent := sorted(set(clusters or ()) - found.keys()):
    raise ValueError(
      f"{folder} has no finished expert of cluster {absent[0]!r}: there are "
      f"{', '.join(list(found)[:5])}{' and more' if len(found) > 5 else ''}."
    )
  names = []
  with replacing_folder(out) as place:
    for cluster, (weights, row, teacher) in found.items():
      if clusters is None or cluster in clusters:
        update = _read_row(weights, row, teacher=teacher)
        names.append(
          cluster + (".safetensors" if layout == "diffusers" else "")
        )
        save_lora({"unet": update}, place / names[-1], layout=layout)
  return [Path(out) / name for name in names]


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
