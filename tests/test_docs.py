# SPDX-License-Identifier: Apache-2.0
"""README.md, CONTRIBUTING.md and docs/: what they name is there.

Each command is parsed by the program that it starts, and `RUN_BY` says where
commands of its kind are run for real. Files, links, modules, fields and extras
exist. The README's Python is run; the shapes of docs/one_example.md are held by
tests/test_one_example.py.
"""

import argparse
import ast
import importlib
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from configs import quickstart
from suti import cli
from suti.cli import run
from suti.config import flags, options
from suti.images import save_png
from tests.launch.test_tpu_vm import Cloud
from tests.test_architecture import RULES, SHIPPED, imports, module_of, within

ROOT = pathlib.Path(__file__).parent.parent
PAGES = (
  "README.md",
  "CONTRIBUTING.md",
  "suti/models/README.md",
  *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
LANGUAGES = {"sh", "python", "text", "bibtex"}
# How a command begins -> who runs it for real, and what shows that there. An
# empty file: nobody does, it measures, rents or installs; it is parsed alone.
RUN_BY = {
  "bash launch/quickstart.sh": (".ci/run", "bash launch/quickstart.sh"),
  "bash launch/test.sh": (".ci/run", "bash launch/test.sh"),
  "bash launch/train_world.sh": (".ci/run", "bash launch/train_world.sh"),
  "bash .ci/run": ("", "it is CI"),
  "bash launch/tpu_vm.sh": ("tests/test_docs.py", "Cloud(tmp_path)"),
  "python launch/xm_launch.py": (
    "tests/launch/test_xm_launch.py",
    '"configs/quickstart.py:tiny"',
  ),
  "suti run": ("tests/end_to_end/killed_run.py", 'cli.main(["run"'),
  "suti generate --subject": ("tests/test_cli.py", '"generate"'),
  "suti generate": ("tests/cli/test_text_only.py", '"generate"'),
  "suti evaluate": ("tests/evaluation/test_evaluate.py", '"evaluate"'),
  "suti study": ("tests/cli/test_study.py", '"study"'),
  "suti report": ("tests/evaluation/test_comparison.py", '"report"'),
  "suti judge": ("tests/evaluation/test_language_model.py", '"judge"'),
  "suti push": ("tests/hf/test_push.py", '"push"'),
  "suti demo": ("tests/cli/test_demo.py", '"demo"'),
  "suti rate": ("tests/evaluation/test_rating.py", '"rate"'),
  "suti convert": ("tests/cli/test_convert.py", '"convert"'),
  "suti status": ("tests/experts/farm/test_monitor.py", "status([str("),
  "suti plan": ("tests/plan/test_aot.py", '"plan"'),
  "python -m experts.mine": ("tests/experts/test_mine.py", "mine.run("),
  "python -m experts.finetune": (
    "tests/experts/farm/workers.py",
    'stage.main("experts.finetune"',
  ),
  "python -m experts.filter": ("tests/experts/test_filter.py", "filters.run("),
  "python -m experts.truth": ("tests/experts/test_truth.py", "truth.run("),
  "python -m apprentice.train": (
    "tests/apprentice/test_train.py",
    "train.run(",
  ),
  "python -m apprentice.contact_sheet": (
    "tests/apprentice/test_contact_sheet.py",
    "contact_sheet.main(",
  ),
  "python -m apprentice.ship": ("tests/apprentice/test_ship.py", "ship.run("),
  "python -m suti.pretrain": ("tests/pretrain/test_pretrain.py", ".run("),
  "python -m suti.world.contact_sheet": ("", "it renders for minutes"),
  "python -m tests.benchmarks": ("", "it measures"),
  "pytest": (".ci/run", "pytest -q"),
  "pip install": (".ci/run", "install --quiet"),
  "gcloud": ("", "a program of others"),
  "pre-commit": ("", "a program of others"),
}
# Words that stand for what a reader has.
STAND_INS = {"CONFIG": "configs/quickstart.py", "WORKDIR": "runs/x"}


def read(page: str) -> str:
  return (ROOT / page).read_text(encoding="utf-8")


def fences(page: str) -> list[tuple[str, str]]:
  """(language, content) of each fenced block."""
  return re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.M | re.S)


def prose(page: str) -> str:
  return re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)


def spans(page: str) -> list[str]:
  """What stands in backticks, on one line."""
  return [" ".join(x.split()) for x in re.findall(r"`([^`]+)`", prose(page))]


def commands() -> list[tuple[str, str]]:
  """(page, command): of blocks, and of backticks that begin like one."""
  found = []
  for page in PAGES:
    for language, content in fences(page):
      if language == "sh":
        lines = content.replace("\\\n", " ").splitlines()
        found += [(page, line) for line in lines if line.strip()]
    starts = tuple(f"{start}{end}" for start in RUN_BY for end in " .")
    before = r"([A-Z_]+=\S+ )*(\.venv/bin/)?"  # variables, an environment
    found += [
      (page, span)
      for span in spans(page)
      if re.sub(f"^{before}", "", span).startswith(starts)
    ]
  return found


def argv_of(line: str) -> list[str]:
  """A command's words, without variables before it and a comment behind."""
  argv = shlex.split(line, comments=True)
  while argv and re.match(r"[A-Z_]+=", argv[0]):
    argv = argv[1:]
  if argv and argv[0].startswith(".venv/bin/"):
    argv[0] = argv[0].removeprefix(".venv/bin/")
  return [STAND_INS.get(word, word) for word in argv]


def parts_of(line: str) -> list[str]:
  return [part for part in line.split(" && ") if part.strip()]


COMMANDS = [
  pytest.param(page, part, id=f"{page}: {part[:60]}")
  for page, line in commands()
  for part in parts_of(line)
  # Variables of the lines below them.
  if not re.match(r'\w+="', part)
]


def start_of(argv: list[str]) -> str:
  line = " ".join(argv)
  # A model's sampling has a flag of its own that decides who runs it.
  if line.startswith("suti generate") and "--subject" in argv:
    return "suti generate --subject"
  starts = [
    s for s in RUN_BY if line == s or line.startswith((f"{s} ", f"{s}."))
  ]
  assert starts, f"RUN_BY does not say who runs {line}"
  return max(starts, key=len)


@pytest.mark.parametrize("page, line", COMMANDS)
def test_a_command_is_run_somewhere_and_parses(page, line, monkeypatch):
  monkeypatch.chdir(ROOT)
  argv = argv_of(line)
  file, sign = RUN_BY[start_of(argv)]
  assert not file or sign in read(file), f"{file} has no {sign}"
  match argv:
    case ["suti", "run", *rest]:
      last, rest = run.take_until(rest)
      run.up_to(last, run.steps_of(check_config(rest)))
    case ["suti", *rest]:
      parse_suti(rest, monkeypatch)
    case ["python", "-m", module, *rest]:
      check_module(module, rest)
    case ["python", file, *rest]:
      check_script(ROOT / file, rest)
    case ["bash", file, *rest]:
      assert (ROOT / file).is_file()
      check_paths(rest)
    case ["pytest", *rest]:
      check_paths(rest)
    case ["pip", "install", *rest]:
      check_extras(rest)
    case ["gcloud" | "pre-commit", *_]:
      pass
    case _:
      pytest.fail(f"nobody knows how to check {argv}")


def check_config(argv: list[str]) -> Any:
  """A config that loads, and values that it may have."""
  argv = [re.sub(r"^gs://.*", "runs/x", word) for word in argv]
  if "--workdir" not in argv:
    argv += ["--workdir", "runs/x"]
  config, _ = flags.parse(argv)
  if "mine" in config:
    options.check(config, data=False)
  return config


class _ParsedError(Exception):
  """The command has read its arguments; what it would do is not done."""


def parse_suti(argv: list[str], monkeypatch) -> None:
  """Lets a subcommand read its arguments, and no more."""
  command, *rest = argv
  assert command in cli.COMMANDS
  if rest in ([], ["--help"]):
    return
  if command == "plan":
    known = [word for word in rest if not word.startswith("--config.")]
    from suti.cli.plan import _parser

    _, others = _parser().parse_known_args(known)
    assert others[:1] == ["--config"] and len(others) == 2, others
    check_config([*others, *(w for w in rest if w not in known)])
    return
  if command == "study" and "--page" not in rest:
    check_config(rest)
    return
  parse = argparse.ArgumentParser.parse_args

  def parse_alone(self, args=None, namespace=None):
    parse(self, args, namespace)
    raise _ParsedError

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
  module = importlib.import_module(f"suti.cli.{command}")
  with pytest.raises(_ParsedError):
    getattr(module, command)(rest)


def check_module(module: str, argv: list[str]) -> None:
  file = ROOT / f"{module.replace('.', '/')}.py"
  assert file.is_file(), module
  if "--config" in argv:
    check_config(argv)
  else:
    check_script(file, argv)


def check_script(file: pathlib.Path, argv: list[str]) -> None:
  """Every flag is one that the script's text has."""
  assert file.is_file(), file
  source = file.read_text(encoding="utf-8")
  for word in argv:
    if word.startswith("--config."):
      check_config(["--config", "configs/quickstart.py", word])
    elif word.startswith("--"):
      assert f'"{word.partition("=")[0]}"' in source, f"{file} has no {word}"
  needed = re.findall(
    r'add(?:_argument)?\(\s*"(--\w+)"[^)]*required=True', source
  )
  assert set(needed) <= set(argv), f"{file} needs {needed}"
  configs = [w.partition(":")[0] for w in argv if w.startswith("configs/")]
  assert all((ROOT / config).is_file() for config in configs)


def check_paths(argv: list[str]) -> None:
  for word in argv:
    if word.startswith("tests/"):
      assert (ROOT / word.partition("::")[0]).exists(), word


def check_extras(argv: list[str]) -> None:
  source = read("setup.py")
  for word in argv:
    if extra := re.fullmatch(r"\.\[(\w+)\]", word):
      assert f'"{extra[1]}": [' in source, f"setup.py has no extra {extra[1]}"


def test_the_commands_for_tpu_vms_are_taken(tmp_path):
  """The whole block, with a gcloud that does nothing."""
  cloud = Cloud(tmp_path)
  (block,) = [
    content
    for _, content in fences("docs/tpu.md")
    if "bash launch/tpu_vm.sh" in content
  ]
  lines = [
    re.sub(r"(tpu_vm\.sh \w+ suti \$slices)", r"\1 --dry-run", line)
    for line in block.splitlines()
  ]
  assert sum("--dry-run" in line for line in lines) == 4
  result = subprocess.run(
    ["bash", "-e", "-c", "\n".join(lines)],
    cwd=ROOT,
    env={
      "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
      "STATES": str(tmp_path),
      "HOME": str(tmp_path),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert not cloud.asked()
  assert "--accelerator-type=v4-128" in result.stdout


def test_the_readmes_python_samples_four_images(tmp_path, monkeypatch):
  (source,) = [x for language, x in fences("README.md") if language == "python"]
  rng = np.random.default_rng(0)
  (tmp_path / "my_dog").mkdir()
  for number in range(3):
    image_u8 = rng.integers(0, 256, (80, 64, 3)).astype(np.uint8)
    save_png(tmp_path / "my_dog" / f"{number}.png", image_u8)
    (tmp_path / "my_dog" / f"{number}.png").rename(
      tmp_path / "my_dog" / f"{number}.jpg"
    )
  monkeypatch.chdir(tmp_path)
  names: dict = {}
  exec(compile(source, "README.md", "exec"), names)
  assert [image.shape for image in names["images"]] == [(64, 64, 3)] * 4
  assert all(image.dtype == np.uint8 for image in names["images"])


@pytest.mark.parametrize("page", PAGES)
def test_a_block_names_its_language(page):
  opened = re.findall(r"^```(.*)$", read(page), re.M)[::2]
  assert set(opened) <= LANGUAGES, opened
  for language, content in fences(page):
    if language == "python":
      compile(content, page, "exec")


def anchors(page: pathlib.Path) -> set[str]:
  """Of the headings, as GitHub makes them."""
  titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
  return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
  for link in re.findall(r"\]\(\s*((?!http)[^)\s]+)\s*\)", prose(page)):
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.exists(), f"{page} links to {link}"
    assert not anchor or anchor in anchors(target), f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_that_are_named_exist(page):
  beside = (ROOT, (ROOT / page).parent, ROOT / "suti")
  for span in spans(page):
    name = span.partition(":")[0]
    if "NAME" in span:
      continue
    if re.fullmatch(r"\.?[\w./-]+/[\w.-]+\.(py|sh|ipynb|md)", name):
      assert any((at / name).exists() for at in beside), f"{page}: {span}"
    if re.fullmatch(r"(suti|experts|apprentice|tests)(\.\w+)+", span):
      assert is_there(span), f"{page} names {span}"


def is_there(dotted: str) -> bool:
  """A module, or a name in one."""
  at = ROOT / dotted.replace(".", "/")
  if at.is_dir() or at.with_suffix(".py").is_file():
    return True
  file = at.parent.with_suffix(".py")
  return file.is_file() and at.name in defined(file)


def defined(file: pathlib.Path) -> set[str]:
  """What a module defines at its top."""
  found = set()
  for node in ast.parse(file.read_text(encoding="utf-8")).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      found.add(node.name)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      found |= {t.id for t in targets if isinstance(t, ast.Name)}
  return found


def has(config, field: str) -> bool:
  """Whether a config has a field, "section.field" for one of a section."""
  for name in field.split("."):
    if name not in config:
      return False
    config = config[name]
  return True


@pytest.mark.parametrize("page", PAGES)
def test_fields_that_are_named_exist(page):
  """In the config of a run, or in that of a pretraining."""
  config = quickstart.get_config()
  configs = [
    config,
    *(
      importlib.import_module(f"configs.pretrain.{path.stem}").get_config()
      for path in (ROOT / "configs/pretrain").glob("[a-z]*.py")
      if path.stem != "pool"  # a section of the others
    ),
    importlib.import_module("configs.studies.guidance").get_config(),
  ]
  leaves = {
    name
    for section in config.values()
    if hasattr(section, "keys")
    for name in section
  }
  for span in spans(page):
    if path := re.match(r"(?:--)?config\.([a-z_.0-9]+)", span):
      field = path[1].rstrip(".")
      assert any(has(c, field) for c in configs), f"{page} names {span}"
    elif field := re.fullmatch(r"([a-z_]+)=\S+", span):
      assert field[1] in leaves, f"{page} names {span}"


def test_where_to_change_what_is_there():
  table = read("README.md").partition("## Where to change what")[2]
  table = table.partition("\n\n## ")[0]
  named = re.findall(r"\]\(([\w/]+\.py)\) \(`(\w+)`\)", table)
  assert len(named) >= 12
  for file, name in named:
    assert name in defined(ROOT / file), f"{file} defines no {name}"


def test_the_readme_is_one_page():
  assert len(read("README.md").split()) <= 900


def test_every_page_is_in_the_index():
  index = read("docs/README.md")
  for page in PAGES:
    name = page.removeprefix("docs/")
    if page.startswith("docs/") and name != "README.md":
      assert f"[{name}]({name})" in index, name


def test_the_rooms_are_told_in_their_layers():
  """CONTRIBUTING's table: all rooms of suti/, none above what it imports."""
  text = read("CONTRIBUTING.md")
  table = text.partition("The rooms of `suti/`")[2].partition("\n\nIn `exp")[0]
  cells = re.findall(r"^\| (.*?) \| ", table, re.M)
  rooms = [
    name for cell in cells for name in re.findall(r"[\[`](\w+)(?:/|\.py)", cell)
  ]
  there = {
    path.stem
    for path in (ROOT / "suti").iterdir()
    if not path.name.startswith("_")
  }
  assert sorted(rooms) == sorted(there)
  for room in rooms:
    for other in RULES.get(f"suti.{room}", ((), None))[0]:
      above = other.split(".")[1:2]
      assert not above or rooms.index(above[0]) <= rooms.index(room), room


def test_what_serves_published_models_alone_is_counted():
  """Lines of suti/ that no stage, plan or report reaches."""
  files = {module_of(file): file for file in SHIPPED}
  cut = {"suti.cli.text_only", "suti.cli.adapted"}
  cut |= {"suti.cli.convert", "experts.export"}
  seen: set[str] = set()
  left = [m for m in files if within(m, "experts") or within(m, "apprentice")]
  left += [
    m for m in files if re.match(r"suti\.(pretrain|world|evaluation)", m)
  ]
  left += [m for m in files if re.match(r"suti\.(cli|runtime|plan)\.", m)]
  while left:
    module = left.pop()
    if module in seen or module in cut or module not in files:
      continue
    seen.add(module)
    left += [name for name, _ in imports(files[module])]
  num = sum(
    len(read(file).splitlines())
    for module, file in files.items()
    if within(module, "suti")
    and module not in seen
    and not file.endswith("__init__.py")
  )
  said = re.search(
    r"About ([\d,]+) lines serve", read("docs/published_models.md")
  )
  assert said
  assert int(said[1].replace(",", "")) == pytest.approx(num, rel=0.1)


def test_the_pages_are_found():
  """Or all of the above would hold of nothing."""
  assert len(PAGES) >= 12
  assert len(COMMANDS) >= 40
  assert sys.version_info >= (3, 11)
