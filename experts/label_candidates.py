# SPDX-License-Identifier: Apache-2.0
"""Part of stage 4: labels the candidates with masks and boxes.

For measures, rules and methods that ask where the subject of a generated image
is. `config.label.candidates` says who knows: its teacher, if it is one that
does (`Teacher.masks`), or a segmenter. With "none" this stage is left out. No
truth is read: of a generated image there is none.

An image that follows the depth of a view (`Candidate.view`) has that view's
depth and camera.

  reads   experts/{mine,sample}, and experts/label where an image follows a view
  writes  experts/label_candidates/wave-*.array_record: a Label a candidate
  resumes at the wave

  python -m experts.label_candidates --config CONFIG.py --workdir runs/q
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import find_clusters, read_clusters
from experts.label import find_labels, segmenter_folder
from experts.mining.labels import box_of
from experts.sample import open_candidates
from experts.teacher import find
from suti.evaluation.segmenter import load_segmenter
from suti.io.files import read_json
from suti.io.records import read_records, write_records
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Label

STAGE = "experts/label_candidates"


def run(config, workdir: Path) -> dict:
  """Writes experts/label_candidates/wave-*.array_record."""
  check_source(config)
  source = config.label.candidates
  asked = find(config.finetune.teacher).asked(config)
  follows = bool({"depth", "depth_latents"} & asked)
  current = stage(
    workdir,
    STAGE,
    {"label": {"candidates": source}},
    reads=[
      "experts/mine",
      "experts/sample",
      *(["experts/label"] if follows else []),
    ],
    folders=segmenter_folder(config, "candidates"),
  )
  if current.done is not None:
    return current.done
  waves = open_candidates(workdir)
  parts = [_part(current.folder, number) for number in range(len(waves))]
  left = [i for i, part in enumerate(parts) if not part.is_file()]
  total = sum(map(len, waves))
  done = total - sum(len(waves[i]) for i in left)
  segment = None
  if source == "segmenter" and left:
    segment = load_segmenter(config.label.segmenter)
  clusters = read_clusters(workdir)
  with progress(total, "label candidates", done=done) as bar:
    for i in left:
      candidates = list(waves[i])
      keys = {candidate.cluster for candidate in candidates}
      if segment is None:
        masks: Sequence[np.ndarray | None] = [c.mask for c in candidates]
        scores = [1.0] * len(masks)
      else:
        masks, scores = segment([c.image for c in candidates])
      labels = label_all(
        candidates,
        masks,
        scores,
        subjects={
          key: each.subject
          for key, each in find_clusters(clusters, keys).items()
        },
        views=find_labels(workdir, clusters, keys) if follows else {},
      )
      write_records(parts[i], labels, kind=Label)
      bar.update(len(candidates))
  found = sum(bool(each.names) for part in parts for each in _read(part))
  if total and not found:
    raise ValueError(
      f"config.label.candidates='{source}' finds the subject in none of the "
      f"{total} candidates: take another source, or set it to none."
    )
  return current.finish(
    {"candidates": total, "labelled": found, "waves": len(waves)}
  )


def check_source(config: Any) -> None:
  """Checks that somebody knows where the subject of a candidate is.

  Raises:
    ValueError: the source is none, or a teacher that does not say so.
  """
  source, name = config.label.candidates, config.finetune.teacher
  if source == "none":
    raise ValueError(
      "config.label.candidates='none' labels nothing: set it to teacher or "
      "segmenter, or leave this stage out."
    )
  if source == "teacher" and not find(name).masks:
    raise ValueError(
      f"config.label.candidates='teacher', and the teacher '{name}' does not "
      "say where the subject is in what it samples: set it to segmenter, or to "
      "none."
    )


def label_all(
  candidates: Sequence[Candidate],
  masks: Sequence[np.ndarray | None],
  scores: Sequence[float],
  *,
  subjects: Mapping[str, str],
  views: Mapping[str, Sequence[Label]],
) -> list[Label]:
  """The labels of candidates; without an entity where nothing was found.

  Args:
    candidates: any number.
    masks: of each, bool (H, W), or None.
    scores: confidence in each.
    subjects: noun of each cluster.
    views: labels of the clusters' pictures, of those that candidates follow.
  """
  labels = []
  for candidate, mask, score in zip(candidates, masks, scores, strict=True):
    view = None
    if candidate.view is not None and candidate.cluster in views:
      view = views[candidate.cluster][candidate.view]
    label = Label(
      key=candidate.key,
      number=0,
      depth=None if view is None else view.depth,
      camera=None if view is None else view.camera,
    )
    if mask is not None and mask.any():
      box = box_of(mask, jitter=0.0, rng=np.random.default_rng(0))
      label = Label(
        key=label.key,
        number=0,
        names=(subjects[candidate.cluster],),
        boxes_xyxy=(box,),
        scores=(score,),
        masks=(mask,),
        depth=label.depth,
        camera=label.camera,
      )
    labels.append(label)
  return labels


def read_wave(workdir: Path, number: int) -> dict[str, Label]:
  """{candidate: its label} of a wave."""
  return {each.key: each for each in _read(_part(workdir / STAGE, number))}


def read_all(workdir: Path, config: Any) -> dict[str, Label]:
  """The same of all waves; {} where candidates are not labelled.

  Raises:
    ValueError: the stage is not finished.
  """
  if config.label.candidates == "none":
    return {}
  num = read_json(workdir / STAGE / "done.json")["summary"]["waves"]
  found: dict[str, Label] = {}
  for number in range(num):
    found |= read_wave(workdir, number)
  return found


def _part(folder: Path, number: int) -> Path:
  return folder / f"wave-{number:05d}.array_record"


def _read(part: Path) -> Sequence[Label]:
  return read_records(part, Label)


if __name__ == "__main__":
  main("experts.label_candidates", run)
