# SPDX-License-Identifier: Apache-2.0
"""An apprentice's images of a benchmark, and SubjectWorld as a benchmark.

  FOLDER/sampling.json              the model's fingerprint, settings, seeds
  FOLDER/SUBJECT/PROMPT/N.png       PROMPT is its number in the list

It resumes at the prompt: a file that is there is not sampled again, and a
folder of another model or other settings is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apprentice.generate import generate
from apprentice.model import RECORD, load_apprentice
from suti.evaluation.benchmark.subjects import Benchmark
from suti.evaluation.dreambench import with_article
from suti.hf.find import find_model
from suti.images import save_png
from suti.io.files import (
  fingerprint,
  first_difference,
  read_json,
  replacing_folder,
  write_atomic,
  write_json,
)
from suti.io.image_files import load_image
from suti.io.paths import in_bucket
from suti.runtime.progress import progress
from suti.schema import seed_of

SETTINGS = "sampling.json"
_KEY = "prompts and photographs"  # of the settings
_NUM_SUBJECTS, _IMAGES_EACH = 30, 5  # as many as DreamBench, about
_LOOKED_AT = 200  # test subjects: all classes are among them


def sample(
  model: str | Path,
  benchmark: Benchmark,
  folder: Path,
  *,
  num: int,
  num_demonstrations: int | None = None,
  seed: int = 0,
  steps: int | None = None,
  guidance: float | None = None,
) -> int:
  """Samples what is missing in a folder.

  Args:
    model: a shipped apprentice's name, or a folder.
    benchmark: subjects and prompts.
    folder: where the images go.
    num: images of a prompt.
    num_demonstrations: the first photographs of a subject, None for as many as
      the apprentice usually takes.
    seed: of the run; the images of a prompt have successive seeds that follow
      from it, the subject and the prompt.
    steps, guidance: of the sampler, None for the apprentice's own.

  Returns: how many demonstrations a subject has at most.

  Raises:
    ValueError: no such model, a subject without prompts or whose photographs
      cannot be read, or a folder of another model or other settings.
  """
  _check_asked(benchmark)
  apprentice = load_apprentice(model)
  shown = num_demonstrations or int(apprentice.sampling["num_demonstrations"])
  _claim(
    folder,
    {
      "model": str(model),
      "fingerprint": fingerprint(find_model(model)),
      "benchmark": benchmark.name,
      # Images are known by the numbers of their prompts.
      _KEY: benchmark.key(),
      "images_per_prompt": num,
      "demonstrations": shown,
      "seed": seed,
      "steps": steps,
      "guidance": guidance,
    },
  )
  jobs = [
    (name, number, prompt)
    for name, subject in benchmark.subjects.items()
    for number, prompt in enumerate(subject.prompts)
  ]
  pictures: dict[str, list[np.ndarray]] = {}
  with progress(len(jobs) * num, "sample") as bar:
    for name, number, prompt in jobs:
      place = folder / name / f"{number:02d}"
      paths = [place / f"{i}.png" for i in range(num)]
      if all(path.is_file() for path in paths):
        bar.skip(num)
        continue
      subject = benchmark.subjects[name]
      if name not in pictures:
        # One subject's at a time: photographs are large.
        pictures = {name: [load_image(p) for p in subject.references[:shown]]}
      images = generate(
        apprentice,
        pictures[name],
        prompt,
        captions=[with_article(subject.noun)] * len(pictures[name]),
        num=num,
        seed=_first_seed(seed, name, prompt),
        steps=steps,
        guidance=guidance,
      )
      for path, image in zip(paths, images, strict=True):
        save_png(path, image)
      bar.update(num)
  return shown


def _check_asked(benchmark: Benchmark) -> None:
  """Refuses a subject without prompts."""
  for name, subject in benchmark.subjects.items():
    if not subject.prompts:
      raise ValueError(
        f"the benchmark has no prompts of {name}, so there is nothing to "
        "sample: add prompts.txt, a prompt a line, to its folder."
      )


def _first_seed(seed: int, name: str, prompt: str) -> int:
  """Below 2^31, so that successive seeds never wrap."""
  return seed_of(seed, name, prompt) >> 1


def _claim(folder: Path, what: Mapping[str, Any]) -> None:
  path = folder / SETTINGS
  if not path.is_file():
    _check_free(folder)
    write_json(path, what)
    return
  # Of older folders it is not known of which prompts they are.
  then = read_json(path)
  now = {name: what[name] for name in what if name in then or name != _KEY}
  if found := first_difference(then, now):
    field, old, new = found
    raise ValueError(
      f"{folder} holds images of {field} {old}, not {new}: give another --out, "
      f"or delete {folder}."
    )


def _check_free(folder: Path) -> None:
  """Refuses a folder of other files: ours would be mixed with them."""
  # In a bucket, what a killed upload left lies there without its last file.
  if not in_bucket(folder) and folder.is_dir() and any(folder.iterdir()):
    raise ValueError(
      f"{folder} holds other files: give another --out, or move them away."
    )


def write_world(folder: Path) -> Path:
  """SubjectWorld's test subjects as a benchmark's folder, rendered once.

  Returns: the folder.

  Raises:
    ValueError: it holds other files, or the disk is full.
  """
  if (folder / "benchmark.json").is_file():
    return folder
  _check_free(folder)  # It is replaced as a whole.
  # Imported here: other benchmarks need no renderer.
  from suti.world.dataset import VERSION, heldout

  clusters = heldout(
    "test", num_subjects=_NUM_SUBJECTS, images_each=_IMAGES_EACH
  )
  with replacing_folder(folder, last="benchmark.json") as part:
    rows = []
    for number, cluster in enumerate(clusters):
      name = f"{number:02d}_{cluster.subject.replace(' ', '_')}"
      rows.append(f"{name},{cluster.subject}")
      for i, image in enumerate(cluster.images):
        save_png(part / name / f"{i:02d}.png", image)
    text = "\n".join(["subject_name,class", *rows, ""])
    write_atomic(part / "prompts_and_classes.txt", text.encode())
    write_json(
      part / "benchmark.json",
      {
        "name": f"subjectworld-{VERSION}",
        "images_per_prompt": 4,
        "prompts": "dreambench",
      },
    )
  return folder


def world_subjects(
  nouns: Sequence[str], *, images_each: int
) -> list[list[np.ndarray]]:
  """Pictures of a test subject of SubjectWorld for each noun.

  Args:
    nouns: classes; one that comes twice has two subjects.
    images_each: pictures of each.

  Returns: their pictures, uint8.
  """
  from suti.world.dataset import Shot, class_of, render_shots, subject_seeds

  seeds = subject_seeds("test", 0, _LOOKED_AT)
  chosen: list[int] = []
  for noun in nouns:
    chosen.append(
      next(x for x in seeds if class_of(x) == noun and x not in chosen)
    )
  shots = [
    Shot(subject=subject, template=place, seed=place)
    for subject in chosen
    for place in range(images_each)
  ]
  images = list(render_shots(shots, size_px=64)["image"])
  return [
    images[start : start + images_each]
    for start in range(0, len(images), images_each)
  ]


def judges_of(model: str | Path) -> dict[str, str]:
  """Encoders that had a part in a model's training, as far as it is known.

  Args:
    model: a folder that `apprentice.train` wrote in a workdir, or any other,
      of which nothing is known.

  Returns: {fingerprint of the encoder: what it did}.
  """
  folder = find_model(model).resolve()
  if not (folder / RECORD).is_file() or len(folder.parents) < 3:
    return {}
  record = folder.parents[2] / "experts" / "filter" / "done.json"
  if not record.is_file():
    return {}
  done = read_json(record)
  roles = {
    "config.clip": "mined and filtered the training data",
    "config.identity": "was the filter's identity encoder",
  }
  return {
    done["inputs"][field]: role
    for field, role in roles.items()
    if field in done.get("inputs", {})
  }
