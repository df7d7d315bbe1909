# SPDX-License-Identifier: Apache-2.0
"""The house rules that a machine can check: imports, sizes, texts, commands.

What the rules are for stands in CONTRIBUTING.md. Files are read, not imported,
but for one test that imports them all in a process without an accelerator.
"""

import ast
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("suti", "experts", "apprentice", "configs", "launch", "tests")
FILES = [
  "setup.py",
  *sorted(
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
  ),
]
SHIPPED = [
  f for f in FILES if f.split("/")[0] in ("suti", "experts", "apprentice")
]
STAGES = (
  "experts.mine",
  "experts.prompts",
  "experts.finetune",
  "experts.sample",
  "experts.filter",
  "experts.label",
  "experts.label_candidates",
  "experts.pack",
  "apprentice.train",
  "apprentice.sample",
  "apprentice.evaluate",
)
OURS = frozenset(PACKAGES)

# A prefix of a module's name -> what it may import of ours beside itself, and
# which installed packages; the longest prefix decides, and `None` allows every
# package. Rooms stand in layers: nothing imports what stands below it.
NUMPY = frozenset({"numpy"})
JAX = frozenset({"jax", "numpy"})
RULES: dict[str, tuple[tuple[str, ...], frozenset[str] | None]] = {
  "suti.schema": ((), NUMPY),
  "suti.nn": ((), JAX | {"flax", "optax"}),
  "suti.parallel": ((), JAX),
  "suti.io": (
    ("suti.schema",),
    JAX
    | {
      "PIL",
      "absl",
      "array_record",
      "etils",
      "gcsfs",
      "google",
      "aiohttp",
      "requests",
      "grain",
      "orbax",
      "pillow_heif",
      "tensorflow_datasets",
    },
  ),
  "suti.images": (("suti.io",), NUMPY | {"PIL"}),
  "suti.config": (
    ("suti.io.paths", "suti.schema"),
    NUMPY | {"absl", "ml_collections"},
  ),
  "suti.models": (("suti.nn", "suti.config.values"), JAX | {"flax"}),
  "suti.diffusion": (("suti.config.values",), JAX),
  "suti.runtime": (("suti.config", "suti.io"), JAX | {"absl", "clu"}),
  "suti.plan": (("suti.config.names", "suti.io.files", "suti.parallel"), JAX),
  "suti.hf": (
    ("suti.config.values", "suti.io", "suti.models", "suti.nn", "suti.runtime"),
    JAX
    | {
      "PIL",
      "huggingface_hub",
      "ml_dtypes",
      "safetensors",
      "tokenizers",
      "transformers",
    },
  ),
  "suti.pipeline": (
    (
      "suti.config.samplers",
      "suti.config.values",
      "suti.diffusion",
      "suti.hf",
      "suti.images",
      "suti.io",
      "suti.models",
      "suti.nn",
      "suti.runtime",
    ),
    JAX,
  ),
  # The encoders that judge are published models, like a backbone's parts.
  "suti.evaluation": (
    (
      "suti.config",
      "suti.hf",
      "suti.images",
      "suti.io",
      "suti.runtime",
      "suti.schema",
    ),
    JAX | {"PIL"},
  ),
  # Of evaluation the names of styles alone.
  "suti.world": (
    ("suti.evaluation.styles", "suti.images", "suti.io", "suti.schema"),
    None,
  ),
  "suti.pretrain": (("suti",), None),
  "experts": (("suti",), None),
  "apprentice": (("suti",), None),
  "suti.cli": (("suti", "experts", "apprentice"), JAX),
  "configs": ((), frozenset({"ml_collections"})),
  "launch": (
    (),
    frozenset(
      {
        "absl",
        "google",
        "kubernetes",
        "xm_clouds",
        "xm_specs",
        "urllib3",
        "xmanager",
        "yaml",
      }
    ),
  ),
}
# What a command imports before it knows that it is well formed: it starts
# without JAX, so that a mistake is answered at once.
LIGHT = (
  "suti.config.names",
  "suti.config.options",
  "suti.config.relations",
  "suti.config.rules",
  "suti.config.samplers",
  "suti.config.flags",
  "suti.config.values",
  "suti.io.files",
  "suti.io.paths",
  "suti.io.processes",
  "suti.runtime.leases",
  "suti.runtime.locks",
  "suti.runtime.preemption",
  "suti.runtime.progress",
  "suti.runtime.stage",
  "suti.runtime.xla_flags",
)
# Where SubjectWorld may be named: where it is trained on or read as a source.
WORLD_READERS = (
  "suti.world",
  "suti.pretrain",
  "experts.mining",
  "experts.mine",
  "experts.truth",
  "apprentice.evaluate",
  "apprentice.benchmark",
  "apprentice.judging",
  "apprentice.world_scale",
  "apprentice.contact_sheet",
  # Which of DreamBench's prompts its models may have been trained without.
  "experts.prompts",
  "apprentice.prompt_kinds",
)


def module_of(file: str) -> str:
  return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(file: str) -> list[tuple[str, bool]]:
  """(module, whether the import stands at the file's top), absolute names."""
  tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
  top = set(map(id, tree.body))
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [(alias.name, id(node) in top) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{file}: a relative import"
      name = node.module or ""
      # `from suti.io import files` imports a module, `from x import f` none.
      for alias in node.names:
        whole = f"{name}.{alias.name}"
        path = ROOT / whole.replace(".", "/")
        is_module = path.is_dir() or path.with_suffix(".py").is_file()
        found.append((whole if is_module else name, id(node) in top))
  return found


def within(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(prefix + ".")


def rule_of(module: str):
  """The rule of a module, with its own room among what it may import."""
  prefixes = [p for p in RULES if within(module, p)]
  if not prefixes:
    return None
  room = max(prefixes, key=len)
  ours, others = RULES[room]
  return (room, *ours), others


@pytest.mark.parametrize("file", [f for f in FILES if f != "setup.py"])
def test_who_may_import_whom(file):
  module = module_of(file)
  rule = rule_of(module)
  if rule is None:
    assert module.split(".")[0] in ("suti", "tests"), f"no rule for {module}"
    return
  ours, others = rule
  for name, _ in imports(file):
    first = name.split(".")[0]
    if first in OURS:
      assert any(within(name, p) for p in ours), f"{file} imports {name}"
    elif others is not None and first not in sys.stdlib_module_names:
      assert first in others, f"{file} imports {name}"


@pytest.mark.parametrize("module", LIGHT)
def test_a_command_starts_without_jax(module):
  """Not even through what it imports, unless inside of a function."""
  heavy = {"jax", "flax", "orbax", "transformers"}
  seen, left = set(), [module]
  while left:
    name = left.pop()
    seen.add(name)
    file = f"{name.replace('.', '/')}.py"
    tops = [m for m, top in imports(file) if top]
    assert not heavy & {m.split(".")[0] for m in tops}, name
    left += [m for m in tops if within(m, "suti") and m not in seen]


@pytest.mark.parametrize("file", SHIPPED)
def test_what_nobody_imports(file):
  """Torch and diffusers are the parity tests'; the rest has one importer."""
  module = module_of(file)
  for name, _ in imports(file):
    first = name.split(".")[0]
    assert first not in ("torch", "diffusers", "tensorflow", "pickle"), name
    if first == "transformers":
      assert module == "suti.hf.tokenizer", f"{module} imports transformers"
    if first == "gcsfs":
      assert module == "suti.io.bucket", f"{module} imports gcsfs"
    if within(name, "suti.cli") and not within(module, "suti.cli"):
      pytest.fail(f"{module} imports suti.cli, which nothing may import")
    if within(name, "suti.world"):
      assert any(within(module, r) for r in WORLD_READERS), module


@pytest.mark.parametrize(
  "file",
  [f for f in SHIPPED if re.search(r"/(methods|teachers|filters)/[a-z]", f)],
)
def test_methods_and_teachers_know_neither_each_other_nor_a_loop(file):
  package, folder = file.split("/")[:2]
  record = {"methods": "method", "teachers": "teacher", "filters": "selection"}
  own = f"{package}.{record[folder]}"
  for name, _ in imports(file):
    if name.split(".")[0] in OURS:
      assert within(name, "suti") or name == own, f"{file} imports {name}"


# Public, and called by nobody of ours: by whom, or by what that is to come.
CALLED_BY_OTHERS = {
  "do_GET": "http.server",
  "do_POST": "http.server",
  "log_message": "http.server",
  "redirect_request": "urllib",
  "_info": "tensorflow_datasets",
  "_split_generators": "tensorflow_datasets",
  "decode_batch_example_np": "tensorflow_datasets",
  "serialize_example": "tensorflow_datasets",
  "write_text": "Orbax, as a method of epath's paths",
}


def test_every_function_is_called():
  """Outside of tests: code that only its own test runs is not needed.

  Found by name, so that of two functions of one name one may be missed. What
  the README tells people to call is called.
  """
  called = set(re.findall(r"\w+", (ROOT / "README.md").read_text("utf-8")))
  defined = {}
  for file in FILES:
    if file.startswith("tests/"):
      continue
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
      if isinstance(node, ast.Name):
        called.add(node.id)
      elif isinstance(node, ast.Attribute):
        called.add(node.attr)
      elif isinstance(node, ast.Constant):  # method="encode_image"
        called.add(str(node.value))
      elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        defined.setdefault(node.name, file)
  uncalled = {
    name: file
    for name, file in defined.items()
    if file in SHIPPED and name not in called and not name.startswith("__")
  }
  assert {n: f for n, f in uncalled.items() if n not in CALLED_BY_OTHERS} == {}
  assert set(CALLED_BY_OTHERS) <= set(uncalled), "called, or gone"


def test_every_requirement_is_imported_or_says_who_needs_it():
  source = (ROOT / "setup.py").read_text(encoding="utf-8")
  lines = source.partition("install_requires=[")[2].partition("]")[0]
  used = {name.split(".")[0] for f in SHIPPED for name, _ in imports(f)}
  # Imported by name, so as not to be needed where there are no records.
  used |= {
    name
    for f in SHIPPED
    for name in re.findall(
      r'import_module\("(\w+)', (ROOT / f).read_text(encoding="utf-8")
    )
  }
  modules = {
    name.lower().replace("_", "-"): module
    for module, names in importlib.metadata.packages_distributions().items()
    for name in names
    if module in used
  }
  comment = ""
  for line in map(str.strip, lines.splitlines()):
    if found := re.match(r'"([\w-]+)', line):
      name = found[1].lower().replace("_", "-")
      assert name in modules or comment, f"nobody imports {name}"
    comment = line if line.startswith("#") else ""


def test_tensorflow_is_nowhere():
  for file in FILES:
    source = (ROOT / file).read_text(encoding="utf-8")
    if file != "tests/test_architecture.py":
      assert not re.search(r"^\s*(import|from) tensorflow\b(?!_)", source, re.M)


# Read from top to bottom, as their numbered headings say.
LOOPS = {("apprentice/train.py", "run"), ("experts/finetune.py", "run")}


@pytest.mark.parametrize("file", FILES)
def test_a_file_has_a_licence_a_docstring_and_a_bound(file):
  source = (ROOT / file).read_text(encoding="utf-8")
  lines = source.splitlines()
  assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
  docstring = ast.get_docstring(ast.parse(source))
  assert docstring and docstring.strip(), "no module docstring"
  assert len(lines) <= 500, f"{len(lines)} lines"
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.FunctionDef) and (file, node.name) not in LOOPS:
      length = (node.end_lineno or 0) - node.lineno + 1
      assert length <= 80, f"{node.name} has {length} lines"


@pytest.mark.parametrize("file", SHIPPED)
def test_names_say_what_is_inside(file):
  vague = {
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "base",
    "manager",
    "misc",
  }
  assert not vague & set(file.removesuffix(".py").split("/"))


def test_every_module_imports_and_none_starts_tensorflow():
  """In one process of its own: what a test imported before must not help."""
  modules = [module_of(f) for f in SHIPPED]
  script = (
    "import importlib, json, sys, warnings\n"
    "warnings.simplefilter('error')\n"
    f"for name in {modules!r}: importlib.import_module(name)\n"
    "print(json.dumps(sorted(sys.modules)))\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  loaded = set(json.loads(result.stdout.splitlines()[-1]))
  assert not {"tensorflow", "torch", "diffusers", "transformers"} & loaded


@pytest.mark.parametrize("module", STAGES)
def test_a_stage_is_started_with_two_flags(module):
  """`main(name, run)` defines the flags of a stage; nobody defines more."""
  file = ROOT / f"{module.replace('.', '/')}.py"
  source = file.read_text(encoding="utf-8")
  assert re.search(
    r'^if __name__ == "__main__":\n'
    rf'  (stage\.)?main\("{module}", run(, how="(each|all)")?\)$',
    source,
    re.M,
  ), f"{module} does not end in main(name, run)"
  assert "argparse" not in source and "flags.DEFINE" not in source
  run = next(
    node
    for node in ast.parse(source).body
    if isinstance(node, ast.FunctionDef) and node.name == "run"
  )
  assert [a.arg for a in run.args.args] == ["config", "workdir"]
  assert not run.args.kwonlyargs


def records(folder: str) -> dict[str, str]:
  """Each file of methods or teachers and the paper that its record names."""
  found = {}
  for path in sorted((ROOT / folder).glob("[a-z]*.py")):
    source = path.read_text(encoding="utf-8")
    link = re.search(r"paper=\(?\s*\"([^\"]+)\"", source)
    assert link, f"{path} has no record with a paper"
    found[path.stem] = link.group(1)
  return found


@pytest.mark.parametrize(
  "folder",
  [
    "apprentice/methods",
    "experts/teachers",
    "experts/filters",
    "suti/evaluation/measures",
  ],
)
def test_the_docs_list_each_method_and_teacher_with_its_paper(folder):
  page = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
  rows = dict(
    re.findall(
      rf"^\| \[`(\w+)`\]\(\.\./{folder}/\w+\.py\) \|.*\((http\S+)\)",
      page,
      re.M,
    )
  )
  assert rows == records(folder)


def test_commands_start_fast():
  """Help needs no numpy, `import suti` nothing at all."""
  script = (
    "import sys, suti, suti.cli\n"
    "heavy = {'numpy', 'jax', 'absl'} & set(sys.modules)\n"
    "sys.exit(bool(heavy) and str(heavy))\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
