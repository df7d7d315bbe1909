# SPDX-License-Identifier: Apache-2.0
"""Part of stage 1: labels the clusters' pictures with masks, boxes and depths.

For methods and teachers that see where a subject is. `config.label.source` says
who knows: SubjectWorld's own truth, in the place of the detectors that papers
use (GroundingDINO and SAM for Subject-Diffusion, arXiv 2307.11410, say), with
noise on demand; masks beside a user's pictures; or a segmenter. With "none"
this stage is left out. It is the one stage that reads a cluster's truth.

Candidates are labelled by `experts.label_candidates`.

  reads   experts/mine
  writes  experts/label/part-*.array_record: a Label a picture
  resumes at 64 clusters

  python -m experts.label --config configs/quickstart.py --workdir runs/q
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import Clusters, read_clusters, readable
from experts.mining.labels import SOURCES, box_of, look_up, spoil
from suti.evaluation.segmenter import Segment, load_segmenter
from suti.hf.find import find_model
from suti.io.files import read_json
from suti.io.records import read_records, write_records
from suti.runtime.stage import main, progress, stage
from suti.schema import Cluster, Label

_BLOCK = 64  # clusters a file
_REMEDY = {
  "world": "give another config.mine.split",
  "folder": "lay NAME.mask.png beside NAME",
  "segmenter": "train another segmenter",
}


def run(config, workdir: Path) -> dict:
  """Writes experts/label/part-*.array_record."""
  if config.label.source not in SOURCES:
    raise ValueError(
      f"config.label.source={config.label.source!r} labels nothing: set it to "
      f"{' or '.join(SOURCES)}, or leave this stage out."
    )
  current = stage(
    workdir,
    "experts/label",
    {"seed": config.seed, "label": _own_fields(config)},
    reads=["experts/mine"],
    folders=segmenter_folder(config, "source"),
  )
  if current.done is not None:
    return current.done
  segment = None
  if config.label.source == "segmenter":
    segment = load_segmenter(config.label.segmenter)
  clusters = read_clusters(workdir)
  starts = range(0, len(clusters), _BLOCK)
  parts = [_part(current.folder, number) for number in range(len(starts))]
  left = [(p, s) for p, s in zip(parts, starts, strict=True) if not p.is_file()]
  done = len(clusters) - sum(min(_BLOCK, len(clusters) - s) for _, s in left)
  with progress(len(clusters), "label", done=done) as bar:
    for part, start in left:
      labels = []
      for key in clusters.keys[start : start + _BLOCK]:
        # One that cannot be read is named below, as in other stages.
        for cluster in readable(clusters, [key])[0].values():
          labels += label(cluster, config, segment=segment)
        bar.update(1)
      write_records(part, labels, kind=Label)
  pictures = found = 0
  damaged = set(clusters.keys)
  # One at a time: masks of all clusters may not fit into memory.
  for each in (each for part in parts for each in read_records(part, Label)):
    pictures += 1
    found += bool(each.names)
    damaged.discard(each.key)
  if not found:
    raise ValueError(
      f"config.label.source='{config.label.source}' knows none of the "
      f"{pictures} pictures: {_REMEDY[config.label.source]}, lower "
      "config.label.miss, or set config.label.source=none."
    )
  summary: dict[str, Any] = {
    "pictures": pictures,
    "labelled": found,
    "parts": len(parts),
  }
  if damaged:
    summary["clusters_damaged"] = ", ".join(sorted(damaged))
  return current.finish(summary)


def _own_fields(config: Any) -> dict[str, Any]:
  """The fields of the section `label` that this stage depends on."""
  names = ("source", "path", "miss", "jitter", "erode")
  return {name: config.label[name] for name in names}


def segmenter_folder(config: Any, field: str) -> dict[str, Path]:
  """The folder of the segmenter, if a field of `config.label` asks for it."""
  if config.label[field] != "segmenter":
    return {}
  return {"config.label.segmenter": find_model(config.label.segmenter)}


def label(
  cluster: Cluster, config: Any, *, segment: Segment | None = None
) -> list[Label]:
  """The labels of a cluster's pictures; of unknown ones, without an entity.

  Args:
    cluster: of `experts.mine`.
    config: the whole config.
    segment: of the source "segmenter".
  """
  labels = []
  for number, known in enumerate(look_up(cluster, config, segment=segment)):
    # Of the picture alone, so that a killed run ends in the same labels.
    rng = np.random.default_rng([config.seed, int(cluster.key, 16), number])
    found, score = spoil(known, config.label, rng)
    if found is None or not found.mask.any():
      labels.append(Label(key=cluster.key, number=number))
      continue
    box = box_of(found.mask, jitter=config.label.jitter, rng=rng)
    labels.append(
      Label(
        key=cluster.key,
        number=number,
        names=(cluster.subject,),
        boxes_xyxy=(box,),
        scores=(score,),
        masks=(found.mask,),
        depth=found.depth,
        camera=found.camera,
      )
    )
  return labels


def read_labels(workdir: Path, config: Any) -> Mapping[str, Sequence[Label]]:
  """{cluster: the labels of its pictures, in order}; {} without labels.

  Raises:
    ValueError: the stage is not finished.
  """
  if config.label.source == "none":
    return {}
  folder = workdir / "experts/label"
  found: dict[str, list[Label]] = {}
  for number in range(read_json(folder / "done.json")["summary"]["parts"]):
    for each in read_records(_part(folder, number), Label):
      found.setdefault(each.key, []).append(each)
  return found


def find_labels(
  workdir: Path, clusters: Clusters, keys: Iterable[str]
) -> dict[str, list[Label]]:
  """{cluster: the labels of its pictures, in order}, of some clusters.

  Args:
    workdir: with this stage, finished.
    clusters: of the workdir: a cluster's place says which file it is in.
    keys: of the clusters; one that there is none of has no labels.
  """
  wanted = set(keys)
  numbers = {bisect.bisect_left(clusters.keys, key) // _BLOCK for key in wanted}
  found: dict[str, list[Label]] = {}
  for number in sorted(numbers):
    file = _part(workdir / "experts/label", number)
    for each in read_records(file, Label):
      if each.key in wanted:
        found.setdefault(each.key, []).append(each)
  return found


def _part(folder: Path, number: int) -> Path:
  return folder / f"part-{number:05d}.array_record"


if __name__ == "__main__":
  main("experts.label", run)
