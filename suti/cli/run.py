# SPDX-License-Identifier: Apache-2.0
"""`suti run`: the eight stages in a row, and the report.

On a slice of a TPU pod its first host runs all of it; to use all hosts, start
the stages one by one (`suti.runtime.hosts`).
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from suti.evaluation.dreambench import MOST_REFERENCES

USAGE = """\
usage: suti run --config FILE[:ARG] --workdir DIR [--until STAGE]
                [--config.FIELD=VALUE ...]

Runs the eight stages in a row and writes DIR/report/index.html. What is
finished in DIR is not done again; a run that was killed goes on where it was.

  --config FILE[:ARG]      a file with get_config(ARG): configs/quickstart.py;
                           it is run: read one that is not yours first
  --workdir DIR            where all stages read and write, or
                           gs://BUCKET/FOLDER
  --until STAGE            the last stage to run, up to apprentice.train, such
                           as experts.pack for examples alone; without it all
  --config.FIELD=VALUE     another value for one field of the config
"""

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


def run(argv: Sequence[str]) -> None:
  """`suti run`: all stages in one process, each compiled program made once."""
  if any(arg in ("-h", "--help", "-help") for arg in argv):
    print(USAGE, end="")
    return
  from suti.config import flags, options, relations
  from suti.io import parts
  from suti.runtime import locks, xla_flags

  last, argv = take_until(argv)
  config, workdir = flags.parse(argv)
  options.check(config)
  relations.check_splits(config)
  steps = up_to(last, steps_of(config))
  xla_flags.prepare()
  if not is_first_host():
    return
  started = time.monotonic()
  with locks.lock(workdir):
    parts.clean_parts(workdir)
    look_ahead(config, steps)
    _check_devices(config, workdir, steps, is_whole=not last)
    run_stages(config, workdir, steps=steps, is_whole=not last)
  minutes = (time.monotonic() - started) / 60
  if last:
    print(f"\nDone in {minutes:.1f} min, up to {last}: {workdir}")
    return
  page = workdir / "report" / "index.html"
  print(f"\nDone in {minutes:.1f} min, {evaluated_on(config.benchmark)}.")
  print(f"The report: {page}")


def take_until(argv: Sequence[str]) -> tuple[str, list[str]]:
  """(the stage after `--until`, or ""; the other arguments).

  Raises:
    ValueError: no stage follows it.
  """
  rest = list(argv)
  for place, arg in enumerate(rest):
    name, equals, value = arg.partition("=")
    if name != "--until":
      continue
    del rest[place]
    if not equals:
      value = rest.pop(place) if place < len(rest) else ""
    if not value or value.startswith("-"):
      raise ValueError("--until is without a stage: give one, as experts.pack.")
    return value, rest
  return "", rest


def up_to(
  last: str, steps: Sequence[tuple[str, str]]
) -> Sequence[tuple[str, str]]:
  """The steps up to a stage and with it; all of them for "".

  Raises:
    ValueError: it is none of them.
  """
  names = [name for _, name in steps]
  if not last:
    return steps
  if last not in names:
    raise ValueError(
      f"--until={last}: expected a stage of this config, one of "
      f"{', '.join(names)}; with config.train.num_steps=0 no examples are made."
    )
  return steps[: names.index(last) + 1]


def is_first_host() -> bool:
  """Whether this host runs the stages, alone; the others are told."""
  from suti.runtime import hosts

  if (place := hosts.find_process()) is not None:
    if place.index:
      print("The first host runs all stages; this one has nothing to do.")
      return False
    hosts.stand_alone()
  return True


def run_stages(
  config: Any,
  workdir: Path,
  *,
  steps: Sequence[tuple[str, str]],
  is_whole: bool = True,
) -> None:
  """Runs stages, then the benchmark with its judgement and the report.

  Args:
    config: the whole config, checked.
    workdir: of the run, which is locked.
    steps: (title, stage) of what comes before the benchmark.
    is_whole: whether the benchmark and what follows it are run.
  """
  for title, name in steps:
    _start(title, name, config, workdir)
  if not is_whole:
    return
  benchmark = benchmark_config(config)
  for title, name in benchmark_steps(benchmark):
    _start(title, name, benchmark, workdir / "benchmark")
  for title, name in JUDGEMENT:
    _start(title, name, config, workdir)


def evaluated_on(benchmark: Any) -> str:
  """On what the run was evaluated, in words."""
  where = (
    f"subjects of the {benchmark.split} split"
    if benchmark.source == "world"
    else f"subjects of {benchmark.path}"
  )
  return f"evaluated on {benchmark.num_subjects} {where}"


def benchmark_config(config: Any) -> Any:
  """The config with which stages 1 to 3 run on the benchmark's subjects.

  Held-out subjects with DreamBench's prompts, the first few of which get an
  expert, so that the apprentice can be compared with what it learned from. Both
  know the same pictures of a subject, and sample from the same noise. All
  photographs of a folder are references, which generated images are compared
  with; the first of them are the apprentice's demonstrations.

  Args:
    config: the whole config; its section `benchmark` says how many.

  Returns: a locked copy with other values.
  """
  benchmark, shown = config.benchmark, config.apprentice_sample
  rendered = benchmark.source == "world"
  copy = config.copy_and_resolve_references().unlock()
  copy.mine.update(
    source="heldout" if rendered else benchmark.source,
    path=benchmark.path,
    split=benchmark.split,
    num_pages=benchmark.num_subjects,
    nouns=benchmark.nouns,
    min_images=min(config.mine.min_images, benchmark.images_each),
    max_images=benchmark.images_each if rendered else MOST_REFERENCES,
    # The subjects are given: none is refused for how alike its pictures are.
    similarity_low=-1.0,
    similarity_high=1.0,
  )
  # Rendered subjects are labelled by the world, photographs by masks beside
  # them; who has learned to labels either.
  if copy.label.source in ("world", "folder"):
    copy.label.update(source="world" if rendered else "folder", path="")
  copy.prompts.update(
    source="list" if benchmark.prompts else "dreambench",
    path=benchmark.prompts,
    templates=benchmark.templates,
    num_per_cluster=benchmark.num_prompts,
  )
  copy.finetune.update(
    num_clusters=benchmark.num_expert_subjects or None,
    num_pictures=max(1, shown.num_demonstrations),
  )
  copy.sample.images_per_prompt = shown.images_per_prompt
  return copy.lock()


def steps_of(config: Any) -> tuple[tuple[str, str], ...]:
  """The stages before the benchmark; a config may leave some out."""
  # Without a step of training nothing is to be learned from experts.
  if not config.train.num_steps:
    return STEPS[-1:]
  steps = list(STEPS)
  if config.label.candidates != "none":
    number = [name for _, name in steps].index("experts.filter")
    steps.insert(number, ("4/8 label", "experts.label_candidates"))
  if config.label.source != "none":
    # Right after mining, so that a teacher may ask for what is labelled.
    steps.insert(1, ("1/8 label", "experts.label"))
  return tuple(steps)


def benchmark_steps(benchmark: Any) -> tuple[tuple[str, str], ...]:
  """The stages on the benchmark's subjects, of `benchmark_config`."""
  experts = BENCHMARK_EXPERTS if benchmark.benchmark.num_expert_subjects else ()
  labels = (("benchmark: labels", "experts.label"),)
  return (
    *BENCHMARK,
    *(labels if _is_labelled(benchmark) else ()),
    *experts,
  )


def _is_labelled(benchmark: Any) -> bool:
  """Whether the benchmark's subjects are: of photographs, if one has a mask."""
  from suti.io.mask_files import MASK

  if benchmark.label.source != "folder":
    return benchmark.label.source != "none"
  return any(Path(benchmark.mine.path).expanduser().rglob(f"*{MASK}"))


def check_classes(nouns: Collection[str]) -> None:
  """Refuses what is no class of SubjectWorld, which are DreamBench's.

  Raises:
    ValueError: there is one.
  """
  from suti.evaluation.dreambench import CLASSES

  if unknown := [noun for noun in nouns if noun not in CLASSES]:
    raise ValueError(
      f"config.benchmark.nouns has {unknown[0]!r}: expected classes of "
      f"SubjectWorld, {', '.join(CLASSES)}."
    )


def look_ahead(config: Any, steps: Sequence[tuple[str, str]]) -> None:
  """Opens nothing, but checks that all that is named is there.

  Args:
    config: the whole config.
    steps: (title, stage) of what comes before the benchmark.

  Raises:
    ValueError: a model, examples, a teacher or a method that a later stage
      would miss.
  """
  import apprentice.data
  import apprentice.method
  import experts.label_candidates
  import experts.selection
  import experts.teacher
  from suti.hf.find import find_model

  check_classes(config.benchmark.nouns)
  for name in (
    config.backbone,
    config.clip,
    config.identity,
    config.judge,
  ):
    find_model(name)
  find_model(config.train.init)
  for name in (config.train.init_base, config.method.get("encoder")):
    if name:
      find_model(name)
  # What trains nothing asks for none.
  for folder in config.train.examples if config.train.num_steps else ():
    apprentice.data.open_folder(folder)
  teacher = experts.teacher.find(config.finetune.teacher)
  benchmark = benchmark_config(config)
  asks = experts.teacher.asks_labels(teacher, config)
  num_experts = config.benchmark.num_expert_subjects
  # No teacher runs where examples are there and the benchmark has no experts.
  if num_experts or "experts.finetune" in [name for _, name in steps]:
    experts.teacher.check_together(teacher, config)
    experts.teacher.check_asked(teacher, config)
    experts.teacher.depth_net_folder(config.finetune)
  if asks and num_experts and not _is_labelled(benchmark):
    raise ValueError(
      f"The teacher '{config.finetune.teacher}' asks for labels, and no "
      f"picture of config.benchmark.path='{config.benchmark.path}' has a "
      "NAME.mask.png beside it: lay some there, or set "
      "--config.benchmark.num_expert_subjects=0."
    )
  if config.label.candidates != "none":
    experts.label_candidates.check_source(config)
  if config.label.segmenter:
    find_model(config.label.segmenter)
  experts.selection.open_selection(config)
  apprentice.method.find(config.train.method)


def _check_devices(
  config: Any,
  workdir: Path,
  steps: Sequence[tuple[str, str]],
  *,
  is_whole: bool,
) -> None:
  """Checks that the devices can share the batches of the stages that are left.

  Args:
    config: the whole config.
    workdir: the workdir.
    steps, is_whole: as in `run_stages`.

  Raises:
    ValueError: a batch, or the mesh, does not fit the devices.
  """
  import jax

  from suti.parallel.mesh import check_batch, flat_mesh, make_mesh

  def is_left(name: str) -> bool:
    return not (workdir / name / "done.json").is_file()

  train, sampling = config.train, config.apprentice_sample
  trains = train.num_steps and steps[-1][1] == "apprentice.train"
  if trains and is_left("apprentice/train"):
    mesh = make_mesh(config.mesh, devices=jax.devices())
    check_batch("config.train.batch_size", train.batch_size, mesh)
  if is_whole and is_left("apprentice/sample"):
    field = "config.apprentice_sample.batch_size"
    check_batch(field, sampling.batch_size, flat_mesh())


def _start(title: str, name: str, config: Any, workdir: Path) -> None:
  """Runs one stage."""
  import importlib

  print(f"\n[{title}]", flush=True)
  importlib.import_module(name).run(config, workdir)
