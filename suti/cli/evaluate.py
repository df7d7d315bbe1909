# SPDX-License-Identifier: Apache-2.0
"""`suti evaluate`: scores of any model's pictures by a written protocol."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suti.cli.parser import Parser, place_of

if TYPE_CHECKING:
  from suti.evaluation.benchmark.subjects import Benchmark

_DESCRIPTION = """\
Scores a folder of generated pictures, of this or any other project, by
DreamBench's protocol: DINO, CLIP-I, CLIP-T, delta-CLIP, copying, diversity,
each with an interval over subjects. With --model it samples them first. It can
be stopped anywhere and started again. docs/evaluation.md has the protocol.
"""
_EXAMPLES = """\
examples:
  suti evaluate pictures/ --benchmark dreambench --data dreambooth/dataset \\
    --encoders encoders/ --out scores/
  suti evaluate pictures/ --benchmark my_subjects/ --out scores/
  suti evaluate --model world_apprentice --benchmark subjectworld --out scores/
"""


def evaluate(argv: Sequence[str]) -> None:
  """Reads the arguments, samples if asked to, and scores.

  Raises:
    ValueError: an argument is wrong, or what it names is.
  """
  args = _parser().parse_args(list(argv))
  _check(args)
  from suti.runtime import xla_flags

  xla_flags.prepare()
  from suti.evaluation import protocol
  from suti.evaluation.benchmark.evaluate import PICTURES, Job
  from suti.evaluation.benchmark.evaluate import evaluate as score
  from suti.evaluation.folders.reading import layout_of, read_pictures

  protocol.choose(args.variant)  # before anything takes time
  out = place_of(args.out, flag="--out")
  benchmark = _benchmark(args, out)
  trained_with = _trained_with(args)
  demonstrations = args.demonstrations
  if args.model:
    from apprentice.benchmark import judges_of, sample

    assert benchmark is not None
    trained_with |= judges_of(args.model)
    demonstrations = sample(
      args.model,
      benchmark,
      out / PICTURES,
      num=args.num or benchmark.images_per_prompt or 4,
      num_demonstrations=args.demonstrations,
      seed=args.seed or 0,
    )
  folder = out / PICTURES if args.model else place_of(args.folder)
  layout = "plain" if args.model else layout_of(folder, args.layout)
  reading = read_pictures(
    folder,
    layout=layout,
    benchmark=benchmark,
    table=place_of(args.list, flag="--list") if args.list else None,
    identifiers=args.identifier,
  )
  metrics = score(
    Job(
      system=args.name or _name(args, folder),
      reading=reading,
      encoders=args.encoders,
      variants=tuple(args.variant),
      demonstrations=demonstrations,
      trained_with=trained_with,
    ),
    out,
  )
  _print(metrics, out)


def _check(args: argparse.Namespace) -> None:
  if bool(args.folder) == bool(args.model):
    raise ValueError(
      "give either a FOLDER of pictures, or --model to sample them first."
    )
  if args.model and not args.benchmark:
    raise ValueError(
      "--model needs --benchmark: dreambench (with --data), subjectworld, or a "
      "folder of subjects."
    )
  if args.benchmark == "dreambench" and not args.data:
    raise ValueError(
      "--benchmark=dreambench needs --data: the folder of its photographs, "
      "'dataset' of github.com/google/dreambooth."
    )
  if args.data and args.benchmark != "dreambench":
    raise ValueError("--data goes with --benchmark dreambench alone.")
  ignored = ("num", "seed") if args.folder else ("layout", "list", "identifier")
  for name in ignored:
    if getattr(args, name) not in (None, []):
      raise ValueError(
        f"--{name} goes {'with --model' if args.folder else 'with a FOLDER'} "
        "alone: leave it out."
      )
  for name in ("num", "demonstrations"):
    value = getattr(args, name)
    if value is not None and not 1 <= value <= 1000:
      raise ValueError(f"--{name}={value} must be between 1 and 1000.")
  if not 0 <= (args.seed or 0) < 2**31:
    raise ValueError(f"--seed={args.seed} must be between 0 and {2**31 - 1}.")


def _benchmark(args: argparse.Namespace, out: Path) -> "Benchmark | None":
  """The benchmark that is named, None where the pictures bring their own."""
  from suti.evaluation.benchmark.evaluate import DATA
  from suti.evaluation.benchmark.subjects import read_dreambench, read_folder

  if args.benchmark is None:
    return None
  if args.benchmark == "dreambench":
    return read_dreambench(place_of(args.data, flag="--data"))
  if args.benchmark == "subjectworld":
    from apprentice.benchmark import write_world

    return read_folder(write_world(out / DATA))
  return read_folder(place_of(args.benchmark, flag="--benchmark"))


def _trained_with(args: argparse.Namespace) -> dict[str, str]:
  from suti.hf.find import find_model
  from suti.io.files import fingerprint

  return {
    fingerprint(find_model(name)): "had a part in training (--trained-with)"
    for name in args.trained_with
  }


def _name(args: argparse.Namespace, folder: Path) -> str:
  if args.model:
    return Path(args.model).name
  return folder.stem if folder.is_file() else folder.name


def _print(metrics: dict[str, Any], out: Path) -> None:
  """The scores, a line each, and where they are."""
  names = {**metrics["titles"], "diversity": "diversity"}
  for metric, title in names.items():
    found = metrics["scores"].get(metric)
    if found is None:
      continue
    low, high = found["low"], found["high"]
    span = "" if low is None else f"  [{low:.3f}, {high:.3f}]"
    real = metrics["real"].get(metric)
    beside = f"  real {real['mean']:.3f}" if real else ""
    print(f"{title:<11}{found['mean']:.4f}{span}{beside}")
  scored = metrics["coverage"]["scored"]
  print(
    f"{scored} pictures, {metrics['pairs']} pairs, "
    f"{'comparable' if metrics['comparable'] else 'NOT comparable'} with other "
    f"scores of protocol {metrics['protocol']['name']} "
    f"v{metrics['protocol']['version']}. Wrote {out / 'metrics.json'}."
  )


def _parser() -> Parser:
  parser = Parser(
    prog="suti evaluate", description=_DESCRIPTION, epilog=_EXAMPLES
  )
  add = parser.add_argument
  add("folder", nargs="?", metavar="FOLDER", help="generated pictures")
  add("--model", metavar="NAME_OR_DIR", help="an apprentice to sample with")
  add(
    "--benchmark",
    metavar="NAME_OR_DIR",
    help="dreambench, subjectworld, or a folder with a folder of photographs "
    "for each subject",
  )
  add("--data", metavar="DIR", help="DreamBench's photographs")
  add(
    "--encoders",
    default="world",
    metavar="DIR",
    help="a folder of published encoders, one folder each: CLIP ViT-B/32, DINO "
    "ViT-S/16 (default: world, SubjectWorld's own)",
  )
  add("--out", required=True, metavar="DIR", help="where the scores go")
  add("--name", metavar="TEXT", help="of the system, in tables")
  add(
    "--variant",
    action="append",
    default=[],
    metavar="NAME",
    help="a known departure from the protocol: single-reference, subject-mean, "
    "vits8, dinov2, masked-dinov2, clipscore, photo-prefix, squash, own-pixels",
  )
  add(
    "--layout",
    metavar="NAME",
    help="plain, csv, imagenhub, dreambench-plus, uno, omnicontext (default: "
    "found)",
  )
  add("--list", metavar="FILE", help="what UNO's or OmniContext's files show")
  add(
    "--identifier",
    action="append",
    default=[],
    metavar="WORD",
    help="a word in prompts that is left out, such as sks",
  )
  add(
    "--demonstrations",
    type=int,
    metavar="N",
    help="how many photographs of a subject the model was given, the first "
    "ones: those that it could copy (default: all)",
  )
  add(
    "--trained-with",
    action="append",
    default=[],
    metavar="NAME_OR_DIR",
    help="an encoder that filtered or conditioned the model's training",
  )
  add("--num", type=int, metavar="N", help="images a prompt, with --model")
  add("--seed", type=int, metavar="N", help="with --model (default: 0)")
  return parser
