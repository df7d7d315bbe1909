# SPDX-License-Identifier: Apache-2.0
"""The `suti` command: short ways in for people.

  suti run        the eight stages in a row, and the report
  suti generate   pictures of a subject and a text -> new pictures

It reads arguments and calls a stage: nothing is computed here. Each import
stands where it is needed, so that help and mistakes cost no start-up.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

DESCRIPTION = """\
Subject-driven text-to-image generation by apprenticeship learning, in JAX.

commands:
  run        the whole loop: mine, finetune, sample, filter, pack, train,
             sample, evaluate, and a report
  generate   draw a subject, given as pictures, in a new scene, given as text

suti COMMAND --help says more. Each stage is also a command of its own, such as
python -m experts.mine, with the arguments of `suti run`.
"""

RUN_USAGE = """\
usage: suti run --config FILE[:ARG] --workdir DIR [--config.FIELD=VALUE ...]

Runs the eight stages in a row and writes DIR/report/index.html. What is
finished in DIR is not done again; a run that was killed goes on where it was.

  --config FILE[:ARG]      a file with get_config(ARG): configs/quickstart.py
  --workdir DIR            where all stages read and write
  --config.FIELD=VALUE     another value for one field of the config
"""

NOTE = (
  "Note: {model} has learned from SubjectWorld's rendered pictures alone. Of "
  "photographs it makes no good picture; for those, train on a base that knows "
  "photographs: README.md, 'Real photographs'."
)

CELL_PX = 192  # side of a picture on the contact sheet

# What `suti run` shows before each step: the eight stages of the README.
# `experts.prompts` belongs to the first, the benchmark's experts to the last.
STEPS = (
  ("1/8 mine", "experts.mine"),
  ("1/8 prompts", "experts.prompts"),
  ("2/8 finetune", "experts.finetune"),
  ("3/8 sample", "experts.sample"),
  ("4/8 filter", "experts.filter"),
  ("5/8 pack", "experts.pack"),
  ("6/8 train", "apprentice.train"),
)
BENCHMARK = (
  ("benchmark: subjects", "experts.mine"),
  ("benchmark: prompts", "experts.prompts"),
)
BENCHMARK_EXPERTS = (
  ("benchmark: experts", "experts.finetune"),
  ("benchmark: their pictures", "experts.sample"),
)
JUDGEMENT = (
  ("7/8 sample", "apprentice.sample"),
  ("8/8 evaluate", "apprentice.evaluate"),
  ("report", "suti.evaluation.report"),
)


class _Parser(argparse.ArgumentParser):
  """An argument parser whose mistakes are one line."""

  def error(self, message: str) -> NoReturn:
    """Prints the line and exits with 2."""
    print(f"Error: {message} (see {self.prog} --help)", file=sys.stderr)
    sys.exit(2)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command and exits.

  Args:
    argv: arguments after `suti`; those of the process if None.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
  if command in ("-h", "--help", "help"):
    print(f"usage: suti COMMAND ...\n\n{DESCRIPTION}", end="")
    sys.exit(0)
  commands: dict[str, Callable[[Sequence[str]], None]] = {
    "run": run,
    "generate": generate,
  }
  if command not in commands:
    from suti.options import suggest

    hint = suggest(command, commands) or " There are run and generate."
    print(f"Error: no command '{command}'.{hint}", file=sys.stderr)
    sys.exit(2)
  from suti import stage

  sys.exit(stage.guard(lambda: commands[command](rest)))


# --- suti run ----------------------------------------------------------------


def run(argv: Sequence[str]) -> None:
  """`suti run`: all stages in one process, each compiled program made once."""
  if any(arg in ("-h", "--help", "-help") for arg in argv):
    print(RUN_USAGE, end="")
    return
  from suti import options, stage
  from suti.io import files

  config, workdir = stage.parse(argv)
  options.check(config)
  stage.use_compilation_cache()
  started = time.monotonic()
  with files.lock(workdir):
    files.clean_parts(workdir)
    _look_ahead(config)
    # Without a step of training nothing is to be learned from experts.
    for title, name in STEPS if config.train.num_steps else STEPS[-1:]:
      _start(title, name, config, workdir)
    benchmark = benchmark_config(config)
    experts = BENCHMARK_EXPERTS if config.benchmark.num_expert_subjects else ()
    for title, name in (*BENCHMARK, *experts):
      _start(title, name, benchmark, workdir / "benchmark")
    for title, name in JUDGEMENT:
      _start(title, name, config, workdir)
  minutes = (time.monotonic() - started) / 60
  page = workdir / "report" / "index.html"
  print(f"\nDone in {minutes:.1f} min. The report: {page}")


def benchmark_config(config: Any) -> Any:
  """The config with which stages 1 to 3 run on the benchmark's subjects.

  Held-out subjects with DreamBench's prompts, the first few of which get an
  expert, so that the apprentice can be compared with what it learned from.

  Args:
    config: the whole config; its section `benchmark` says how many.

  Returns: a locked copy with other values.
  """
  benchmark = config.benchmark
  copy = config.copy_and_resolve_references().unlock()
  copy.mine.update(
    source="heldout" if benchmark.source == "world" else benchmark.source,
    path=benchmark.path,
    split="test",
    num_pages=benchmark.num_subjects,
    min_images=min(config.mine.min_images, benchmark.images_each),
    max_images=benchmark.images_each,
    # The subjects are given: none is refused for how alike its pictures are.
    similarity_low=-1.0,
    similarity_high=1.0,
  )
  copy.prompts.update(
    source="dreambench", num_per_cluster=benchmark.num_prompts
  )
  copy.finetune.num_clusters = benchmark.num_expert_subjects or None
  copy.sample.images_per_prompt = config.apprentice_sample.images_per_prompt
  return copy.lock()


def _look_ahead(config: Any) -> None:
  """Opens nothing, but sees that all that is named is there.

  Raises:
    ValueError: a model, examples, a teacher or a method that a later stage
      would miss.
  """
  import apprentice.data
  import apprentice.method
  import experts.teacher
  from suti.backbone import find_model

  for name in (config.backbone, config.clip, config.identity):
    find_model(name)
  find_model(config.train.init)
  for folder in config.train.examples:
    apprentice.data.open_folder(folder)
  experts.teacher.find(config.finetune.teacher)
  apprentice.method.find(config.train.method)


def _start(title: str, name: str, config: Any, workdir: Path) -> None:
  """Runs one stage."""
  import importlib

  print(f"\n[{title}]", flush=True)
  importlib.import_module(name).run(config, workdir)


# --- suti generate -----------------------------------------------------------


def generate(argv: Sequence[str]) -> None:
  """`suti generate`: a contact sheet, and each picture beside it."""
  args = _generate_parser().parse_args(list(argv))
  out = _check_out(args.out)
  files = find_pictures(args.subject)
  from suti import images, stage

  pictures = [images.load_image(file) for file in files]
  stage.use_compilation_cache()
  from apprentice.generate import generate as draw
  from apprentice.model import load_apprentice

  if knows_world_alone(args.model):
    print(NOTE.format(model=args.model), file=sys.stderr)
  drawn = draw(
    load_apprentice(args.model),
    pictures,
    args.prompt,
    num=args.num,
    seed=args.seed,
    steps=args.steps,
    guidance=args.guidance,
  )
  paths = [out.with_name(f"{out.stem}-{i}.png") for i in range(len(drawn))]
  for path, picture in zip(paths, drawn, strict=True):
    images.save_png(path, picture)
  sheet = images.contact_sheet(
    [pictures, drawn], ["given", args.prompt], size_px=CELL_PX
  )
  images.save_png(out, sheet)
  others = f"{paths[0]}" + (f" to {paths[-1].name}" if paths[1:] else "")
  print(f"Wrote {out} and {others}.")


def _generate_parser() -> _Parser:
  parser = _Parser(
    prog="suti generate",
    allow_abbrev=False,
    description="Draws a subject in a new scene, without fine-tuning.",
  )
  add = parser.add_argument
  add(
    "--subject",
    nargs="+",
    required=True,
    metavar="DIR_OR_FILE",
    help="pictures of one subject, 1 to 10: a folder of them, or files "
    "(JPEG, PNG, WebP, ...)",
  )
  add(
    "--prompt",
    required=True,
    metavar="TEXT",
    help='what to draw; name the subject: "a dog wearing a red hat"',
  )
  add(
    "--out",
    required=True,
    metavar="FILE.png",
    help="the contact sheet; pictures are written beside it as FILE-0.png ...",
  )
  add("--num", type=int, default=4, metavar="N", help="how many pictures (4)")
  add("--seed", type=int, default=0, metavar="N", help="of the first (0)")
  add("--steps", type=int, metavar="N", help="of the sampler (the model's)")
  add(
    "--guidance",
    type=float,
    metavar="W",
    help="how strongly text and pictures are followed (the model's)",
  )
  add(
    "--model",
    default="world_apprentice",
    metavar="NAME_OR_DIR",
    help="an apprentice: a shipped name, or WORKDIR/apprentice/train/model "
    "(world_apprentice)",
  )
  return parser


def _check_out(name: str) -> Path:
  """The contact sheet's path, before anything is computed."""
  out = Path(name)
  if out.suffix.lower() != ".png":
    raise ValueError(
      f"--out={name}: expected the name of a PNG file; call it "
      f"{out.with_suffix('.png')}."
    )
  if out.is_dir():
    raise ValueError(f"--out={name} is a folder: give the name of a file.")
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f"--out={name}: its folder cannot be made ({error.strerror}): give "
      "another place."
    ) from error
  return out


def find_pictures(subject: Sequence[str]) -> list[Path]:
  """The files that `--subject` names.

  Args:
    subject: files, or folders of them, in any mixture.

  Returns: the files; those of a folder by name.

  Raises:
    ValueError: nothing is there, or no picture is.
  """
  from experts.rows import PICTURES

  files: list[Path] = []
  for name in subject:
    path = Path(name).expanduser()
    if not path.exists():
      raise ValueError(
        f"--subject={name}: there is no such file or folder; give pictures of "
        "one subject, or the folder they are in."
      )
    if not path.is_dir():
      files.append(path)
      continue
    found = sorted(
      file
      for file in path.iterdir()
      if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )
    if not found:
      raise ValueError(
        f"--subject={name}: no pictures in this folder (looked for "
        f"{' '.join(sorted(PICTURES))}); give pictures of one subject."
      )
    files += found
  return files


def knows_world_alone(model: str) -> bool:
  """Whether a model has seen nothing but SubjectWorld's renderings.

  Follows an apprentice to the base it stands on: all shipped models are of
  SubjectWorld, of others nothing is known.
  """
  from suti.backbone import PRETRAINED, find_model
  from suti.io.files import read_json

  seen: set[Path] = set()
  folder = find_model(model)
  while folder not in seen:
    if folder.parent == PRETRAINED:
      return True
    seen.add(folder)
    record = folder / "apprentice.json"
    base = str(read_json(record)["base"]) if record.is_file() else ""
    for place in (PRETRAINED / base, Path(base)):
      if base and place.is_dir():
        folder = place
        break
  return False


if __name__ == "__main__":
  main()
