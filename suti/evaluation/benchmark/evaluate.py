# SPDX-License-Identifier: Apache-2.0
"""Scores a folder of pictures, from any model, by a written protocol.

reads   pictures, references, encoders
writes  OUT/metrics.json      scores, tables, what they were measured by
        OUT/pictures.jsonl    a row a picture
        OUT/references.json   the photographs of each subject
        OUT/embeddings/       where a killed evaluation goes on
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation import dreambench, protocol
from suti.evaluation.benchmark import tables
from suti.evaluation.benchmark.embeddings import Embedded, embed
from suti.evaluation.benchmark.encoders import WORLD, Encoders, open_encoders
from suti.evaluation.benchmark.subjects import Subject
from suti.evaluation.folders.pictures import Picture, Reading
from suti.io.files import read_json, write_atomic, write_json
from suti.runtime.progress import say
from suti.schema import content_key

_SHOWN = 10  # names in a printed line; metrics.json has all
# What a command may have put into the folder of the scores before.
DATA, PICTURES = "data", "pictures"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """What is to be scored, and how.

  Attributes:
    system: its name in tables.
    reading: the pictures.
    encoders: "world", or a folder.
    variants: of the protocol.
    demonstrations: how many photographs, the first ones, the model was given;
      None for all of them.
    trained_with: fingerprints of encoders that filtered or conditioned the
      model's training -> what they did.
  """

  system: str
  reading: Reading
  encoders: str | Path
  variants: tuple[str, ...] = ()
  demonstrations: int | None = None
  trained_with: Mapping[str, str] = dataclasses.field(default_factory=dict)


def evaluate(job: Job, out: Path) -> dict[str, Any]:
  """Scores, writes, and says what is not as it should be.

  Args:
    job: what.
    out: the folder of the results. One that holds scores of other pictures or
      encoders is refused; the same command goes on there.

  Returns: metrics.json.

  Raises:
    ValueError: encoders that cannot be opened, no picture that can be read, or
      `out` holds another evaluation.
  """
  rules = protocol.choose(job.variants)
  _check_variants(job, rules)
  encoders = open_encoders(job.encoders, rules)
  _claim(job, encoders, out)
  reading = job.reading
  subjects, notes = _references(reading, rules)
  masked = ("identity",) if rules.masked else ()
  both = {"clip": encoders.clip, "identity": encoders.identity}
  store = out / "embeddings"
  photographs = [p for s in subjects.values() for p in s.references]
  real = embed(
    photographs, both, store=store, masked=masked, label="references"
  )
  generated = embed(
    [picture.path for picture in reading.pictures],
    both,
    store=store,
    masked=masked,
    label="pictures",
  )
  rows, identity_GD, real_table = _score(
    job, subjects, rules, encoders, real=real, generated=generated
  )
  if not rows:
    first = next(iter({**generated.unreadable, **real.unreadable}.values()), "")
    raise ValueError(
      f"no picture could be scored: {first or 'no subject has a photograph.'}"
    )
  metrics = _metrics(
    job, rows, identity_GD, real_table, rules=rules, encoders=encoders
  )
  metrics["coverage"] = coverage = _coverage(reading, rows, real, generated)
  otherwise = [
    *protocol.warnings_of(job.variants),
    *encoders.warnings,
    *reading.benchmark.notes,
    *reading.notes,
    *notes,
  ]
  whole = not (coverage["missing"] or coverage["surplus"])
  metrics["comparable"] = (
    not otherwise
    and whole
    and not coverage["unreadable"]
    and coverage["scored"] == coverage["expected"]
  )
  metrics["warnings"] = [
    *otherwise,
    *_judges_also(job, encoders),
    *_say_coverage(coverage),
  ]
  _write(out, metrics, rows, subjects)
  for line in metrics["warnings"]:
    say(f"Note: {' '.join(line.split())}")
  return metrics


def _check_variants(job: Job, rules: protocol.Protocol) -> None:
  """Refuses variants of published encoders where SubjectWorld's judge."""
  if str(job.encoders) != WORLD:
    return
  for name in job.variants:
    if protocol.VARIANTS[name].changes.keys() & {"identity", "pixels"}:
      raise ValueError(
        f"--variant={name} is of published encoders: give their folder by "
        "--encoders, or leave the variant out."
      )


def _claim(job: Job, encoders: Encoders, out: Path) -> None:
  """Writes what the folder is for, or refuses one that is for something else.

  Pictures may be added or mended between two runs; what they are scored by may
  not change once there are scores. Embeddings are kept by encoder.
  """
  path = out / "evaluation.json"
  what = {
    "protocol": protocol.record(protocol.choose(job.variants), job.variants),
    "encoders": encoders.records(),
    "benchmark": {
      "name": job.reading.benchmark.name,
      "key": job.reading.benchmark.key(),
    },
    "system": job.system,
  }
  if path.is_file():
    then = read_json(path)
    if then != what and not (out / "metrics.json").is_file():
      write_json(path, what)
    elif then != what:
      field = next(key for key in what if then.get(key) != what[key])
      raise ValueError(
        f"--out={out} holds an evaluation with another {field}: give another "
        "folder, or delete this one."
      )
    return
  if out.is_dir() and {p.name for p in out.iterdir()} - {DATA, PICTURES}:
    raise ValueError(
      f"--out={out} holds other files: give a new folder for the scores."
    )
  write_json(path, what)


def _references(
  reading: Reading, rules: protocol.Protocol
) -> tuple[dict[str, Subject], list[str]]:
  """The subjects with the references that a protocol takes."""
  subjects = dict(reading.benchmark.subjects)
  if rules.references == "all":
    return subjects, []
  listed = reading.benchmark.name in ("dreambench", "imagenhub")
  known = dreambench.SINGLE_REFERENCES if listed else {}
  notes = []
  for name, subject in subjects.items():
    wanted = known.get(name)
    chosen = [p for p in subject.references if p.stem == wanted]
    if not chosen:
      notes.append(
        f"variant single-reference: no list has one of {name}; its first "
        f"photograph, {subject.references[0].name}, is taken."
      )
    subjects[name] = dataclasses.replace(
      subject, references=tuple(chosen or subject.references[:1])
    )
  return subjects, notes


def _score(
  job: Job,
  subjects: Mapping[str, Subject],
  rules: protocol.Protocol,
  encoders: Encoders,
  *,
  real: Embedded,
  generated: Embedded,
) -> tuple[list[tables.Row], np.ndarray, dict[str, dict[str, Any]]]:
  """A row a picture, their identity embeddings, and real against real."""
  by_subject: dict[str, list[Picture]] = {}
  for picture in job.reading.pictures:
    if picture.path in generated.rows:
      by_subject.setdefault(picture.subject, []).append(picture)
  texts = list(dict.fromkeys(p.prompt for x in by_subject.values() for p in x))
  prefixed = [f"{rules.text_prefix}{text}" for text in texts]
  vectors = encoders.texts(prefixed) if texts else np.zeros((0, 1))
  of_text = dict(zip(texts, vectors, strict=True))
  rows: list[tables.Row] = []
  parts: list[np.ndarray] = []
  table: dict[str, dict[str, Any]] = {}
  for name, subject in subjects.items():
    references = [p for p in subject.references if p in real.rows]
    whole = job.reading.benchmark.subjects[name]
    if not references:
      continue
    clip_RD = real.of("clip", references)
    identity_RD = real.of("identity", references)
    table[name] = tables.measure_real(clip_RD, identity_RD)
    pictures = by_subject.get(name, [])
    if not pictures:
      continue
    shown = [
      p for p in whole.references[: job.demonstrations] if p in real.rows
    ] or references
    paths = [picture.path for picture in pictures]
    parts.append(generated.of("identity", paths))
    scores = tables.measure(
      clip_GD=generated.of("clip", paths),
      identity_GD=parts[-1],
      text_GD=np.stack([of_text[picture.prompt] for picture in pictures]),
      real_clip_RD=clip_RD,
      real_identity_RD=identity_RD,
      shown_RD=real.of("identity", shown),
      protocol=rules,
    )
    for place, picture in enumerate(pictures):
      rows.append(
        tables.Row(
          subject=name,
          prompt=picture.prompt,
          number=picture.number,
          category=subject.category,
          noun=subject.noun,
          template=_template(picture.prompt, subject.noun),
          skill=_SKILLS.get(_template(picture.prompt, subject.noun), ""),
          path=str(picture.path),
          references=len(references),
          **{key: float(value[place]) for key, value in scores.items()},
        )
      )
  identity_GD = np.concatenate(parts) if parts else np.zeros((0, 1))
  return rows, identity_GD, table


_SKILLS = {
  template.text: template.skill
  for live in (True, False)
  for template in dreambench.templates_of(live=live)
}


def _template(prompt: str, noun: str) -> str:
  """A prompt with "{}" for its noun, so that subjects share prompts."""
  # Scripts without spaces have no word's end: letters here are ASCII's.
  whole = rf"(?<!\w){re.escape(noun)}(?!\w)"
  return re.sub(whole, "{}", prompt, count=1, flags=re.A)


def _metrics(
  job: Job,
  rows: Sequence[tables.Row],
  identity_GD: np.ndarray,
  real: Mapping[str, Mapping[str, Any]],
  *,
  rules: protocol.Protocol,
  encoders: Encoders,
) -> dict[str, Any]:
  benchmark = job.reading.benchmark
  real_row = tables.real_row(real, rules)
  groups = {
    "per_subject": lambda row: row.subject,
    "per_prompt": lambda row: row.template,
    "per_skill": lambda row: row.skill,
    "per_category": lambda row: row.category,
    "per_class": lambda row: row.noun,
  }
  return {
    "system": job.system,
    "protocol": protocol.record(rules, job.variants),
    "encoders": encoders.records(),
    "titles": protocol.titles_of(encoders.identity_title),
    "benchmark": {
      "name": benchmark.name,
      "key": benchmark.key(),
      "subjects": len(benchmark.subjects),
      "references": sum(len(s.references) for s in benchmark.subjects.values()),
      "images_per_prompt": benchmark.images_per_prompt,
    },
    "demonstrations": job.demonstrations,
    "pairs": sum(row.references for row in rows),
    "scores": tables.overall(rows, rules)
    | {"diversity": tables.diversity(rows, identity_GD)},
    "real": real_row,
    "copied": tables.copied(rows, real_row),
    **{
      name: tables.grouped(rows, rules, by=key) for name, key in groups.items()
    },
  }


def _coverage(
  reading: Reading,
  rows: Sequence[tables.Row],
  real: Embedded,
  generated: Embedded,
) -> dict[str, Any]:
  """What was expected, found, missing, extra and unreadable, all by name."""
  wanted = reading.benchmark.images_per_prompt
  scored = {row.path for row in rows}
  counts: dict[tuple[str, str], int] = {}
  for picture in reading.pictures:
    if str(picture.path) in scored:
      key = (picture.subject, picture.prompt)
      counts[key] = counts.get(key, 0) + 1
  missing, surplus = [], []
  for subject, prompts in reading.expected.items():
    for prompt in prompts:
      have = counts.get((subject, prompt), 0)
      if have < (wanted or 1):
        missing.append({"subject": subject, "prompt": prompt, "have": have})
      elif wanted and have > wanted:
        surplus.append({"subject": subject, "prompt": prompt, "have": have})
  expected = (wanted or 1) * sum(map(len, reading.expected.values()))
  return {
    "expected": expected if wanted else None,
    "scored": len(rows),
    "missing": missing,
    "surplus": surplus,
    "extra": [{"path": str(x.path), "why": x.why} for x in reading.extra]
    + [
      {"path": str(p.path), "why": f"no photograph of {p.subject} can be read"}
      for p in reading.pictures
      if p.path in generated.rows and str(p.path) not in scored
    ],
    "unreadable": {
      str(path): why
      for path, why in {**generated.unreadable, **real.unreadable}.items()
    },
  }


def _say_coverage(coverage: Mapping[str, Any]) -> list[str]:
  lines = []
  if missing := coverage["missing"]:
    names = [f"{row['subject']}: {row['prompt']}" for row in missing]
    lines.append(
      f"{len(missing)} prompts have too few pictures: {_some(names)}. Scores "
      "are of the others."
    )
  if surplus := coverage["surplus"]:
    names = [
      f"{row['subject']}: {row['prompt']} ({row['have']})" for row in surplus
    ]
    lines.append(
      f"{len(surplus)} prompts have more pictures than the benchmark: "
      f"{_some(names)}. All are scored."
    )
  if extra := coverage["extra"]:
    names = [f"{row['path']} ({row['why'].rstrip('.')})" for row in extra]
    lines.append(f"{len(extra)} files are not scored: {_some(names)}.")
  if unreadable := coverage["unreadable"]:
    lines.append(
      f"{len(unreadable)} pictures cannot be read and are left out: "
      f"{_some(list(unreadable.values()))}"
    )
  return lines


def _some(names: Sequence[str]) -> str:
  more = len(names) - _SHOWN
  shown = "; ".join(names[:_SHOWN])
  return f"{shown} and {more} more" if more > 0 else shown


def _judges_also(job: Job, encoders: Encoders) -> list[str]:
  """Says where a judge also had a part in the training."""
  lines = []
  for name, encoder in (
    ("CLIP", encoders.clip),
    ("identity", encoders.identity),
  ):
    role = job.trained_with.get(encoder.record["fingerprint"])
    if role:
      lines.append(
        f"judge: the {name} encoder, {encoder.record['folder']}, also {role}: "
        "its scores flatter this model."
      )
  return lines


def _write(
  out: Path,
  metrics: Mapping[str, Any],
  rows: Sequence[tables.Row],
  subjects: Mapping[str, Subject],
) -> None:
  lines = [json.dumps(vars(row), ensure_ascii=False) for row in rows]
  write_atomic(out / "pictures.jsonl", ("\n".join(lines) + "\n").encode())
  write_json(
    out / "references.json",
    {name: [str(p) for p in s.references] for name, s in subjects.items()},
  )
  # Written last: its presence says that all of it is there.
  write_json(out / "metrics.json", dict(metrics))


def read_scores(folder: Path) -> tuple[dict[str, Any], list[tables.Row]]:
  """What `evaluate` wrote.

  Raises:
    ValueError: no evaluation has been finished there, or its rows are damaged.
  """
  path = folder / "metrics.json"
  if not path.is_file():
    raise ValueError(
      f"{folder} has no metrics.json: give a folder that suti evaluate "
      "finished (its --out, not its pictures)."
    )
  metrics = read_json(path)
  rows = []
  names = {field.name for field in dataclasses.fields(tables.Row)}
  text = (folder / "pictures.jsonl").read_text(encoding="utf-8")
  for number, line in enumerate(text.split("\n"), start=1):
    if not line:
      continue
    try:
      row = json.loads(line)
      rows.append(tables.Row(**{name: row[name] for name in names}))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise ValueError(
        f"{folder / 'pictures.jsonl'}, line {number}, is no row of a picture: "
        "run suti evaluate again."
      ) from error
  return metrics, rows


def picture_key(row: tables.Row) -> str:
  """A name for a picture that tells nothing about it."""
  return content_key(row.subject, row.prompt, row.number, row.path)
