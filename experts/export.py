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
from suti.io.lora import save_lora


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
    out: folder for what is written: CLUSTER.safetensors in the layout
      "diffusers", a folder CLUSTER in the layout "peft".
    layout: as in `suti.io.lora.save_lora`.
    clusters: keys of the experts to write; None is all that are fine.

  Returns:
    What was written, in the order of the waves.

  Raises:
    ValueError: there is no such expert, or it is no LoRA.
  """
  written = {}
  for record in sorted(Path(folder).glob("wave-*.json")):
    weights = record.with_suffix(".safetensors")
    experts = read_experts(record.parent, record.stem)
    for row, expert in enumerate(experts):
      wanted = clusters is None or expert.cluster in clusters
      if not wanted or expert.status != "ok":
        continue
      name = expert.cluster + (".safetensors" if layout == "diffusers" else "")
      update = _read_row(weights, row, teacher=expert.teacher)
      save_lora({"unet": update}, Path(out) / name, layout=layout)
      written[expert.cluster] = Path(out) / name
  if absent := sorted(set(clusters or ()) - written.keys()):
    raise ValueError(
      f"{folder} has no finished expert of cluster {absent[0]!r}: give keys of "
      "its wave-*.json whose status is 'ok'."
    )
  if not written:
    raise ValueError(
      f"{folder} has no finished expert: run experts.finetune first."
    )
  return list(written.values())


def _read_row(file, row, *, teacher):
  """The parameters of one expert of a wave."""
  if not file.exists():
    raise ValueError(
      f"{file} is gone: with config.finetune.keep_weights=False weights are "
      "deleted once sampled."
    )
  with safetensors.safe_open(file, framework="np") as opened:
    names = list(opened.keys())
    if others := [name for name in names if ".lora_" not in name]:
      raise ValueError(
        f"The experts in {file} are of teacher '{teacher}' and no LoRA: they "
        f"change {others[0]!r} itself. Use config.finetune.teacher='lora'."
      )
    return {name: opened.get_slice(name)[row] for name in names}
