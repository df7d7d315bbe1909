# SPDX-License-Identifier: Apache-2.0
"""Stage 8: evaluates all systems by DreamBench's protocol.

DreamBooth (arXiv 2208.12242), section 4.1, as SuTI (arXiv 2304.00186, Table 1)
uses it, on raw cosines of unit embeddings:

  identity  mean over all pairs (generated image, real picture) of one subject,
            by an identity encoder; DINO ViT-S/16 in the published protocol
  CLIP-I    the same pairs by CLIP's image encoder
  CLIP-T    mean over generated images of the cosine with their prompt

Each is averaged over a subject's prompts and pictures first, then over
subjects; the standard error is that of the mean over subjects. Real pictures
are all those of the cluster, demonstrations included, as in the published
protocol. The row "real" has the pairs of different real pictures.

Where the source can render a subject in a prompt's scene (SubjectWorld can),
the row "scenes" measures these renders like generated images: no image of these
prompts can be expected to do better. Its CLIP-T is also that of "real", whose
own pictures show other scenes than the prompts, and which is the ceiling of
identity only for images of everyday scenes.

Beside the protocol, each row has how near its images are to the nearest
demonstration and how far from each other, and its means by skill
(`suti.evaluation.rows`).

There too, `apprentice.judging` measures by the world's truth what those cosines
cannot: who an image shows among look-alikes, whether it shows what was asked,
and how far it is from real pictures. CLIP-I and CLIP-T are nearly saturated or
follow the scene (docs/results.md).

  reads   apprentice/sample, benchmark/experts/{mine,prompts,finetune,sample}
  writes  apprentice/evaluate/{metrics.json, scenes.array_record}
  resumes at the subject: apprentice/evaluate/subjects/KEY.json

  python -m apprentice.evaluate --config configs/quickstart.py --workdir runs/q
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apprentice.judging import (
  Generated,
  judge_all,
  template_number,
  world_subject,
)
from apprentice.prompt_kinds import describe_benchmark, read_listed
from apprentice.sample import (
  BENCHMARK,
  BENCHMARK_STAGES,
  read_benchmark,
)
from suti.evaluation import rows
from suti.evaluation.encoders import describe_encoders
from suti.evaluation.report import METRICS
from suti.evaluation.report_judged import summary_line
from suti.evaluation.scores import (
  Scorer,
  load_scorer,
  mean_over_distinct_pairs,
  mean_over_pairs,
)
from suti.hf.find import find_model
from suti.io.files import read_json, write_json
from suti.io.records import read_records, write_records
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Cluster, Prompt, content_key, seed_of

# G generated images and R real pictures of a subject, D embedding width.


def run(config: Any, workdir: Path) -> dict:
  """Measures every system that has generated images.

  Args:
    config: clip, identity, judge; backbone, to say which encoders are in use.
    workdir: with the stages that this one reads.

  Returns: the means of apprentice, base and real pictures.

  Raises:
    ValueError: a stage before this one is not finished.
  """
  clusters, prompts = read_benchmark(workdir)
  experts = [
    name
    for name in (f"{BENCHMARK}/experts/finetune", f"{BENCHMARK}/experts/sample")
    if (workdir / name / "done.json").is_file()
  ]
  current = stage(
    workdir,
    "apprentice/evaluate",
    {
      "clip": config.clip,
      "identity": config.identity,
      "judge": config.judge,
    },
    reads=("apprentice/sample", *BENCHMARK_STAGES, *experts),
    folders={
      "config.clip": find_model(config.clip),
      "config.identity": find_model(config.identity),
      "config.judge": find_model(config.judge),
    },
  )
  if current.done is not None:
    return current.done
  listed = read_listed(workdir)
  scenes = current.folder / "scenes.array_record"
  if not scenes.is_file():
    drawn = render_scenes(clusters, prompts, listed)
    write_records(scenes, drawn, kind=Candidate)
  stage_7 = read_json(workdir / "apprentice/sample/done.json")["summary"]
  images = _read_systems(workdir, stage_7["systems"])
  images["scenes"] = _by_cluster([scenes])
  asked = describe_benchmark(workdir, clusters, prompts, base=config.backbone)
  scorer = load_scorer(clip=config.clip, identity=config.identity)
  keys = list(dict.fromkeys(prompt.cluster for prompt in prompts))
  subjects = {}
  for key in progress(keys, "evaluate"):
    path = current.folder / "subjects" / f"{key}.json"
    if not path.is_file():
      shown = {n: d[key] for n, d in images.items() if key in d}
      table = measure(
        clusters[key],
        shown,
        scorer=scorer,
        num_shown=stage_7["demonstrations"],
        skills={p.prompt: p.skill for p in prompts if p.cluster == key},
        kinds=asked["kinds"],
      )
      write_json(path, table)
    subjects[key] = read_json(path)
  metrics = summarise(subjects) | {
    "times": _times(workdir),
    "pictures": _count_pictures(
      [len(clusters[key].images) for key in keys], stage_7["demonstrations"]
    ),
  }
  metrics["speedup"] = _speedup(metrics["times"])
  metrics["benchmark"] = asked
  metrics["encoders"] = describe_encoders(config, workdir)
  metrics["judged"] = judge_all(
    config,
    {key: clusters[key] for key in keys},
    images,
    current.folder,
    listed=listed,
  )
  write_json(current.folder / "metrics.json", metrics)
  return current.finish(_headline(metrics) | summary_line(metrics["judged"]))


def _read_systems(
  workdir: Path, names: Iterable[str]
) -> dict[str, dict[str, Generated]]:
  """What each system of stage 7, and the experts, generated: by cluster."""
  sampled = workdir / "apprentice" / "sample"
  by_experts = workdir / BENCHMARK / "experts" / "sample"
  return {
    name: _read_generated(sampled, f"{name}-*", field="images")
    for name in names
  } | {"experts": _read_generated(by_experts, "wave-*", field="candidates")}


def measure(
  cluster: Cluster,
  generated: Mapping[str, Generated],
  *,
  scorer: Scorer,
  num_shown: int,
  skills: Mapping[str, str],
  kinds: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
  """All metrics of one subject.

  Args:
    cluster: its real pictures.
    generated: {system: its images of the subject}.
    scorer: the encoders.
    num_shown: how many of the real pictures are demonstrations, the first.
    skills: {prompt: its skill}.
    kinds: {prompt: what it was in training}, see `apprentice.prompt_kinds`.

  Returns: {system: {metric: mean, "images": count, "nearest": to a
    demonstration, of each image, "by_skill", "by_kind"}}, "real" included.
  """
  real_RD = scorer.identity(cluster.images)
  real_clip_RD = scorer.clip_images(cluster.images)
  real: dict[str, Any] = {"images": len(cluster.images)}
  if len(real_RD) > 1:  # A single picture is in no pair.
    real["identity"] = mean_over_distinct_pairs(real_RD)
    real["clip_i"] = mean_over_distinct_pairs(real_clip_RD)
  table: dict[str, dict[str, Any]] = {
    "real": real | _nearness(rows.nearest_of_real(real_RD, num_shown))
  }
  for name, pairs in generated.items():
    texts, images = zip(*pairs, strict=True)
    image_GD = scorer.clip_images(images)
    distinct = list(dict.fromkeys(texts))
    of_text = dict(zip(distinct, scorer.clip_texts(distinct), strict=True))
    text_GD = np.stack([of_text[text] for text in texts])
    clip_t_G = (image_GD * text_GD).sum(-1)
    identity_GD = scorer.identity(images)
    table[name] = {
      "identity": mean_over_pairs(identity_GD, real_RD),
      "clip_i": mean_over_pairs(image_GD, real_clip_RD),
      "clip_t": float(clip_t_G.mean()),
      "images": len(images),
      **{
        field: rows.by_skill(
          [group[text] for text in texts],
          (identity_GD @ real_RD.T).mean(-1),
          clip_t_G,
        )
        for field, group in (("by_skill", skills), ("by_kind", kinds))
      },
    } | _nearness(rows.nearest(identity_GD, real_RD[:num_shown]))
    if (apart := rows.diversity(image_GD, texts)) is not None:
      table[name]["diversity"] = apart
  if "scenes" in table:
    table["real"]["clip_t"] = table["scenes"]["clip_t"]
  return table


def _nearness(nearest_G: np.ndarray) -> dict[str, Any]:
  """Fields of a row; none if there is no demonstration."""
  if not len(nearest_G):
    return {}
  return {
    "copying": float(nearest_G.mean()),
    "nearest": [round(float(x), 4) for x in nearest_G],
  }


def _count_pictures(
  references: Sequence[int], demonstrations: int
) -> dict[str, Any]:
  """How many real pictures of a subject, and how many of them were shown."""
  return {
    "references": sum(references),
    "references_each": [min(references), max(references)],
    "demonstrations_each": [
      min(demonstrations, min(references)),
      min(demonstrations, max(references)),
    ],
  }


def summarise(
  subjects: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, Any]:
  """Means over subjects, their standard errors, and what follows from them.

  Args:
    subjects: {cluster key: what `measure` returned}.

  Returns: {"systems": {system: {metric: {"mean", "stderr", "subjects"},
    "images"}}, "by_skill", "by_kind", "copying", "differences" (of the
    apprentice to the other systems, paired), "per_subject", "gap_closed" (to
    real pictures), "gap_closed_scenes" (to renders of the prompts),
    "clip_t_drop"}. A standard error of one subject is None. Experts may exist
    for some subjects only: then "apprentice_expert_subjects" is the apprentice
    on those.
  """
  names = list(dict.fromkeys(n for table in subjects.values() for n in table))
  systems = {
    name: _average([t[name] for t in subjects.values() if name in t])
    for name in names
  }
  with_expert = [t for t in subjects.values() if "experts" in t]
  if with_expert and len(with_expert) < len(subjects):
    systems["apprentice_expert_subjects"] = _average(
      [t["apprentice"] for t in with_expert]
    )
  summary: dict[str, Any] = {
    "systems": systems,
    "per_subject": subjects,
    "by_skill": rows.mean_by_skill(subjects),
    "by_kind": rows.mean_by_skill(subjects, field="by_kind"),
    "copying": rows.copying(subjects),
    "differences": rows.differences(subjects, [*METRICS, "copying"]),
  }
  if {"apprentice", "base"} <= set(systems):
    ours, base = systems["apprentice"], systems["base"]
    won = ours["identity"]["mean"] - base["identity"]["mean"]
    # Of the distance in identity between the base and real pictures; none where
    # the base is as good as they are.
    for field, ceiling in (
      ("gap_closed", "real"),
      ("gap_closed_scenes", "scenes"),
    ):
      if "identity" in systems.get(ceiling, {}):
        best = systems[ceiling]["identity"]["mean"]
        gap = best - base["identity"]["mean"]
        summary[field] = won / gap if gap > 0 else None
    summary["clip_t_drop"] = base["clip_t"]["mean"] - ours["clip_t"]["mean"]
  return summary


def render_scenes(
  clusters: Mapping[str, Cluster],
  prompts: Iterable[Prompt],
  listed: Mapping[str, Mapping[str, str]],
) -> list[Candidate]:
  """Ground truth: renders of subjects in their prompts' scenes.

  Args:
    clusters: by key; those that the source can render again have `truth`.
    prompts: of these clusters.
    listed: what a list of prompts says that they should show.

  Returns: an image for each prompt that is a DreamBench template, one that
    places, looks, wardrobes and styles make together, or a listed one; none for
    subjects without truth.
  """
  # Imported here: sources other than SubjectWorld do not need its renderer.
  from suti.world.dataset import Shot, render_shots

  wanted = []
  for prompt in prompts:
    cluster = clusters[prompt.cluster]
    subject = world_subject(cluster)
    number = template_number(prompt.prompt, cluster, listed)
    if subject is not None and number is not None:
      wanted.append((prompt, subject, number))
  if not wanted:
    return []
  shots = [
    Shot(
      subject=subject,
      template=template,
      seed=seed_of("scene", prompt.cluster, prompt.prompt),
    )
    for prompt, subject, template in wanted
  ]
  size_px = next(iter(clusters.values())).images[0].shape[0]
  images = render_shots(shots, size_px=size_px)["image"]
  return [
    Candidate(
      key=content_key(prompt.cluster, prompt.prompt, "scene"),
      cluster=prompt.cluster,
      prompt=prompt.prompt,
      skill=prompt.skill,
      image=np.asarray(image),
      seed=shot.seed,
      guidance=0.0,
    )
    for (prompt, _, _), shot, image in zip(wanted, shots, images, strict=True)
  ]


def _read_generated(
  folder: Path, pattern: str, *, field: str
) -> dict[str, Generated]:
  """The images that a stage generated, by cluster; {} if it was not run.

  Raises:
    ValueError: some of them are missing.
  """
  if not (folder / "done.json").is_file():
    return {}
  generated = _by_cluster(sorted(folder.glob(f"{pattern}.array_record")))
  expected = read_json(folder / "done.json")["summary"][field]
  found = sum(map(len, generated.values()))
  if found != expected:
    raise ValueError(
      f"{folder} has {found} of the {expected} images that were sampled, in"
      f" {pattern}.array_record: put the missing file back, or delete {folder}"
      " and run the stage again."
    )
  return generated


def _by_cluster(paths: Iterable[Path]) -> dict[str, Generated]:
  found = collections.defaultdict(list)
  for path in paths:
    for candidate in read_records(path, Candidate):
      found[candidate.cluster].append((candidate.prompt, candidate.image))
  return dict(found)


def _average(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  average: dict[str, Any] = {"images": sum(row["images"] for row in tables)}
  for metric in (*METRICS, *rows.COLUMNS):
    values = [row[metric] for row in tables if metric in row]
    if not values:
      continue
    deviation = np.std(values, ddof=1) if len(values) > 1 else math.nan
    error = float(deviation) / math.sqrt(len(values))
    average[metric] = {
      "mean": float(np.mean(values)),
      "stderr": None if math.isnan(error) else error,
      "subjects": len(values),
    }
  return average


def _times(workdir: Path) -> dict[str, float]:
  """Seconds, as the stages measured them."""
  sampled = read_json(workdir / "apprentice" / "sample" / "done.json")[
    "summary"
  ]
  times = {"apprentice_seconds_per_image": sampled["seconds_per_image"]}
  for name in sampled["systems"]:
    if (field := f"{name}_seconds_per_image") in sampled:
      times[field] = sampled[field]
  experts = workdir / BENCHMARK / "experts"
  if not (experts / "sample" / "done.json").is_file():
    return times
  tuned, sampled = (
    read_json(experts / name / "done.json")["summary"]
    for name in ("finetune", "sample")
  )
  # Absent where every timed call included compilation.
  if "seconds_per_expert" in tuned and "seconds_per_image" in sampled:
    times["expert_seconds_to_finetune"] = tuned["seconds_per_expert"]
    times["expert_seconds_per_image"] = sampled["seconds_per_image"]
  return times


def _speedup(times: Mapping[str, float]) -> float | None:
  """Ratio of the times of an image: by a new expert, with tuning, over ours."""
  if "expert_seconds_to_finetune" not in times:
    return None
  expert = (
    times["expert_seconds_to_finetune"] + times["expert_seconds_per_image"]
  )
  return expert / times["apprentice_seconds_per_image"]


def _headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
  headline: dict[str, Any] = {}
  if split := metrics.get("benchmark", {}).get("split"):
    headline["split"] = split
  for name in ("apprentice", "base", "real"):
    for metric in METRICS:
      if metric in metrics["systems"].get(name, {}):
        mean = metrics["systems"][name][metric]["mean"]
        headline[f"{name}_{metric}"] = mean
  for name in ("gap_closed", "gap_closed_scenes", "clip_t_drop", "speedup"):
    if metrics.get(name) is not None:
      headline[name] = metrics[name]
  return headline


if __name__ == "__main__":
  main("apprentice.evaluate", run)
