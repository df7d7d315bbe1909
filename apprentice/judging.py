# SPDX-License-Identifier: Apache-2.0
"""Stage 8, by the world's truth: what a judge sees that took no part.

Where the source can render its subjects (SubjectWorld can), images are measured
against renders of what was asked for, by an encoder that neither conditions nor
filters (`config.judge`):

  retrieval   which of 25 look-alikes an image shows, all rendered in the scene
              of its prompt (`suti.evaluation.retrieval`)
  questions   whether it shows the class, the place, the outfit that its prompt
              names (`suti.evaluation.questions`)
  distance    of its features to those of true renders of the same prompts
              (`suti.evaluation.kernel_distance`)
  sharpness   its mean absolute Laplacian (`suti.evaluation.sharpness`)

The row "scenes", true renders of the prompts, says how often the judge itself
is wrong; each score is also given as a share of that row's. Intervals are of
95%, over subjects; systems are compared on the same subjects.

  resumes at the subject: apprentice/evaluate/judged/KEY.{npz,json}
"""

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation import intervals, kernel_distance, questions, retrieval
from suti.evaluation.judge import Judge, load_judge
from suti.evaluation.sharpness import sharpness
from suti.io.files import read_json, write_atomic, write_json
from suti.runtime.stage import progress
from suti.schema import Cluster, seed_of

# G images of a subject, C look-alikes, V renders of each, F features.

REAL = "scenes"  # the system of true renders of the prompts
_CAMERAS = 2  # renders of each look-alike in a scene

# (prompt, image) of everything that a system generated of one subject.
Generated = Sequence[tuple[str, np.ndarray]]

# {prompt: what a list says that it should show}, see `apprentice.prompt_kinds`.
Listed = Mapping[str, Mapping[str, str]]


def world_subject(cluster: Cluster) -> int | None:
  """The seed by which the source can render a subject again, or None."""
  truth = cluster.truth[0].split(":") if cluster.truth else [""]
  return int(truth[2]) if truth[0] == "world" else None


def template_number(
  prompt: str, cluster: Cluster, listed: Listed
) -> int | None:
  """The number of the world's template that a prompt asks for, if it is known.

  Args:
    prompt: of the cluster.
    cluster: whose noun it has.
    listed: place, look and wardrobe of prompts from a list.
  """
  from suti.world.templates import compose, template_named

  number = template_named(prompt, cluster.subject, live=cluster.live)
  asked = listed.get(prompt, {})
  shown = {name: asked.get(name, "") for name in ("place", "look", "wardrobe")}
  # A row that names none of them says nothing of what a picture should show.
  if number is None and any(shown.values()):
    number = compose(**shown)
  return number


def template_numbers(
  cluster: Cluster, generated: Mapping[str, Generated], listed: Listed
) -> dict[str, int]:
  """Prompt -> number of the world's template, of the prompts that are one."""
  texts = [text for pairs in generated.values() for text, _ in pairs]
  named = {
    text: template_number(text, cluster, listed)
    for text in dict.fromkeys(texts)
  }
  return {t: number for t, number in named.items() if number is not None}


def judge_all(
  config: Any,
  clusters: Mapping[str, Cluster],
  images: Mapping[str, Mapping[str, Generated]],
  folder: Path,
  *,
  listed: Listed,
) -> dict[str, Any]:
  """Measures every system on the subjects that can be rendered.

  Args:
    config: judge.
    clusters: the benchmark's subjects by key.
    images: system -> subject's key -> its images; `REAL` among them.
    folder: of the stage; what is measured of a subject is kept in judged/.
    listed: of prompts from a list, what they ask for.

  Returns: see `summarise`; {"absent": why} where nothing can be rendered.
  """
  keys = [key for key in clusters if images.get(REAL, {}).get(key)]
  if not keys:
    absent = (
      "no subject of the benchmark can be rendered in its prompts' scenes: "
      "there is no retrieval, no question and no distance to real pictures"
    )
    print(f"judged: {absent}", flush=True)
    return {"absent": absent}
  judge = load_judge(config.judge)
  tables, features = {}, {}
  for key in progress(keys, "judge"):
    path = folder / "judged" / f"{key}.json"
    if not path.is_file():
      shown = {name: d[key] for name, d in images.items() if key in d}
      table, seen = judge_subject(
        clusters[key], shown, judge=judge, listed=listed
      )
      buffer = io.BytesIO()
      np.savez(buffer, allow_pickle=False, **seen)
      write_atomic(path.with_suffix(".npz"), buffer.getvalue())
      write_json(path, table)
    tables[key] = read_json(path)
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
      features[key] = {name: file[name] for name in file.files}
  return summarise(tables, features)


def judge_subject(
  cluster: Cluster,
  generated: Mapping[str, Generated],
  *,
  judge: Judge,
  listed: Listed,
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
  """All systems' images of one subject.

  Args:
    cluster: the subject, which the world can render.
    generated: system -> its images; those whose prompt is none of the world's
      templates are left out.
    judge: the encoder.
    listed: of prompts from a list, what they ask for.

  Returns: system -> measure -> mean over its images, with "images", how many
    were measured, and "left_out"; system -> features (G, F), float16.
  """
  numbers = template_numbers(cluster, generated, listed)
  line_ups = _line_ups(cluster, numbers, judge=judge)
  truths = _truths(cluster, numbers)
  table, features = {}, {}
  for name, pairs in generated.items():
    known = [(text, image) for text, image in pairs if text in numbers]
    if not known:
      continue
    texts, images = zip(*known, strict=True)
    seen = judge(images)
    scores = questions.shares(seen.answers, [truths[text] for text in texts])
    scores["retrieval"] = [
      float(retrieval.found(seen.identity_ND[i : i + 1], line_ups[text])[0])
      for i, text in enumerate(texts)
    ]
    scores["sharpness"] = list(sharpness(images))
    table[name] = {
      **{measure: float(np.mean(values)) for measure, values in scores.items()},
      "images": len(known),
      "left_out": len(pairs) - len(known),
    }
    features[name] = seen.features_NF.astype(np.float16)
  return table, features


def _line_ups(
  cluster: Cluster, numbers: Mapping[str, int], *, judge: Judge
) -> dict[str, np.ndarray]:
  """Prompt -> embeddings of its line-up's renders, (C, V, D)."""
  subject = world_subject(cluster)
  assert subject is not None, cluster.key
  embedded = _embed_line_ups(
    subject,
    tuple(numbers.items()),
    size_px=cluster.images[0].shape[0],
    judge=judge,
  )
  return dict(zip(numbers, embedded, strict=True))


# The runs of a study have the same subjects and prompts, and the same judge.
# Room for four times the subjects of DreamBench, half a megabyte each.
@functools.lru_cache(maxsize=120)
def _embed_line_ups(
  subject: int,
  numbers: tuple[tuple[str, int], ...],
  *,
  size_px: int,
  judge: Judge,
) -> np.ndarray:
  """Embeddings of line-ups' renders, (prompts, C, V, D)."""
  # Imported here: sources other than SubjectWorld do not need its renderer.
  from suti.world.dataset import render_shots
  from suti.world.look_alikes import line_up

  shots = [
    shot
    for text, number in numbers
    for shot in line_up(
      subject,
      template=number,
      seeds=[seed_of("line-up", text, camera) for camera in range(_CAMERAS)],
    )
  ]
  seen = judge(list(render_shots(shots, size_px=size_px)["image"]))
  return seen.identity_ND.reshape(len(numbers), retrieval.LINE_UP, _CAMERAS, -1)


def _truths(
  cluster: Cluster, numbers: Mapping[str, int]
) -> dict[str, dict[str, str]]:
  """What each prompt asks for."""
  from suti.world.questions import asked
  from suti.world.templates import Shot, template_of

  subject = world_subject(cluster)
  assert subject is not None, cluster.key
  return {
    text: asked(
      template_of(Shot(subject=subject, template=number)), cluster.subject
    )
    for text, number in numbers.items()
  }


def summarise(
  tables: Mapping[str, Mapping[str, Mapping[str, float]]],
  features: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
  """Means, intervals and paired differences over subjects.

  Args:
    tables, features: of each subject, as `judge_subject` returned them.

  Returns: {"systems": {system: {measure: {"mean", "low", "high", "subjects",
    "of_real"}, "images", "left_out"}}, "differences": {system: {measure: what
    the apprentice has more than it}}, "per_subject"}. "of_real" is the share of
    the same subjects' true renders' score.
  """
  names = list(dict.fromkeys(n for table in tables.values() for n in table))
  systems, differences, terms = {}, {}, {}
  for name in names:
    keys = [key for key in tables if name in tables[key]]
    rows = [tables[key][name] for key in keys]
    systems[name] = {
      "images": sum(int(row["images"]) for row in rows),
      "left_out": sum(int(row["left_out"]) for row in rows),
      **_measures(tables, name),
    }
    if name != REAL and len(keys) > 1:
      terms[name] = kernel_distance.pair_terms(
        [features[key][name] for key in keys],
        [features[key][REAL] for key in keys],
      )
      systems[name]["distance"] = dataclasses.asdict(
        kernel_distance.distance(terms[name])
      )
  for name in names:
    if name != "apprentice" and "apprentice" in names:
      differences[name] = _differences(tables, "apprentice", name)
      if name in terms and "apprentice" in terms:
        alike = terms[name].shape == terms["apprentice"].shape
        if alike:
          differences[name]["distance"] = _difference(
            kernel_distance.distance(terms["apprentice"] - terms[name])
          )
  return {
    "systems": systems,
    "differences": differences,
    "per_subject": dict(tables),
  }


def _measures(
  tables: Mapping[str, Mapping[str, Mapping[str, float]]], name: str
) -> dict[str, dict[str, Any]]:
  """Each measure of a system with its interval and its share of real renders'.

  A question is asked of the subjects that have a prompt for it alone.
  """
  found: dict[str, dict[str, Any]] = {}
  for measure in _known(tables, name):
    ours, real = _paired(tables, measure, name, REAL)
    whole = _values(tables, measure, name)
    found[measure] = dataclasses.asdict(intervals.mean(whole))
    if name != REAL and np.sum(real) > 0:
      found[measure]["of_real"] = dataclasses.asdict(
        intervals.ratio(ours, real)
      )
  return found


def _differences(tables: Any, ours: str, theirs: str) -> dict[str, Any]:
  """What one system has more than another, on the subjects of both."""
  found = {}
  for measure in _known(tables, ours):
    first, second = _paired(tables, measure, ours, theirs)
    if first:
      found[measure] = _difference(intervals.difference(first, second))
  return found


def _difference(found: intervals.Interval) -> dict[str, Any]:
  """As JSON: "resolved" is whether the interval excludes 0."""
  return dataclasses.asdict(found) | {"resolved": found.excludes(0.0)}


def _known(tables: Any, name: str) -> list[str]:
  measures = [m for table in tables.values() for m in table.get(name, {})]
  return [m for m in dict.fromkeys(measures) if m not in ("images", "left_out")]


def _values(tables: Any, measure: str, name: str) -> list[float]:
  rows = [table.get(name, {}) for table in tables.values()]
  return [row[measure] for row in rows if measure in row]


def _paired(
  tables: Any, measure: str, ours: str, theirs: str
) -> tuple[list[float], list[float]]:
  """The values of two systems on the subjects that have both."""
  pairs = [
    (table[ours][measure], table[theirs][measure])
    for table in tables.values()
    if measure in table.get(ours, {}) and measure in table.get(theirs, {})
  ]
  return [a for a, _ in pairs], [b for _, b in pairs]
