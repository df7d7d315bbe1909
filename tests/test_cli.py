# SPDX-License-Identifier: Apache-2.0
"""The `suti` command: what it prints, writes, and refuses.

`suti run` as a whole is tests/end_to_end's.
"""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from apprentice.model import declare, save_apprentice
from configs import quickstart
from suti.cli import subject
from suti.cli.run import benchmark_config, evaluated_on
from suti.config import options
from suti.hf.find import PRETRAINED
from suti.io.files import write_json
from suti.nn.param import init
from suti.pipeline.backbone import load_backbone
from suti.runtime import locks
from tests.commands import error_of, start


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_backbone):
  """An untrained tiny apprentice."""
  config = quickstart.get_config().method.unlock()
  config.update(sites=r"transformer_blocks\.0$", num_heads=2)
  backbone = load_backbone(tiny_backbone)
  apprentice = declare(backbone, name="suti", config=config)
  sampling = {
    "num_steps": 2,
    "sampler": "ddim",
    "guidance": 2.0,
    "percentile": 99.5,
    "num_demonstrations": 4,
    "max_demonstrations": 10,
    "guidance_mode": "joint",
  }
  params = init(apprentice.spec, jax.random.key(0)) | backbone.params
  apprentice = dataclasses.replace(apprentice, params=params, sampling=sampling)
  folder = tmp_path_factory.mktemp("models") / "apprentice"
  save_apprentice(apprentice, folder)
  return folder


@pytest.fixture
def photos(tmp_path):
  """A folder of three pictures of different kinds, and a file that is none."""
  folder = tmp_path / "my_dog"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for name, mode, size in (
    ("a.png", "RGBA", (80, 64)),
    ("b.jpg", "L", (200, 300)),
    ("c.webp", "RGB", (64, 64)),
  ):
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size).convert(mode)
    image.save(folder / name)
  (folder / "notes.txt").write_text("not a picture")
  return folder


def read(path) -> np.ndarray:
  with Image.open(path) as image:
    return np.asarray(image)


# --- Help and mistakes -------------------------------------------------------


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",), ("help",)])
def test_help_is_asked_for_in_each_usual_way(capsys, argv):
  assert start(*argv) == 0
  assert capsys.readouterr().out.startswith("usage: suti COMMAND")


@pytest.mark.parametrize("command", ["run", "generate", "convert"])
def test_each_command_has_help(capsys, command):
  assert start(command, "--help") == 0
  assert f"usage: suti {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "status", "convert"])
def test_a_flag_is_written_whole(capsys, command):
  start(command, "--hel")
  assert "usage:" not in capsys.readouterr().out


def test_an_unknown_command(capsys):
  assert error_of(capsys, "runn") == (
    "Error: no command 'runn'. Did you mean 'run'?"
  )
  assert error_of(capsys, "fly") == (
    "Error: no command 'fly'. There are run, study, generate, demo, evaluate, "
    "report, judge, rate, push, plan, status, convert."
  )


CONFIG = ("--config", "configs/quickstart.py:tiny")
RUN_MISTAKES = {
  "no config": (
    ("--workdir", "DIR"),
    "Error: --config is missing: give a config file, such as --config "
    "configs/quickstart.py.",
  ),
  "no workdir": (
    CONFIG,
    "Error: --workdir is missing: give a folder to work in, such as --workdir "
    "runs/quickstart.",
  ),
  "a wrong value": (
    (*CONFIG, "--workdir", "DIR", "--config.train.ema=1.0"),
    "Error: config.train.ema=1.0: expected a number of at least 0 and below 1; "
    "set it with --config.train.ema=….",
  ),
  "an unknown field": (
    (*CONFIG, "--workdir", "DIR", "--config.train.emma=0.9"),
    "Error: --config.train.emma: configs/quickstart.py:tiny has no such field. "
    'Did you mean "ema" instead of "emma"?',
  ),
  "an unknown model": (
    (*CONFIG, "--workdir", "DIR", "--config.backbone=no_such_model"),
    "Error: No model 'no_such_model': it is neither a folder nor one of the "
    "shipped models",
  ),
}


@pytest.mark.parametrize("name", RUN_MISTAKES)
def test_a_mistake_in_run_is_one_line(capsys, tmp_path, name):
  argv, text = RUN_MISTAKES[name]
  argv = [str(tmp_path / "w") if arg == "DIR" else arg for arg in argv]
  assert error_of(capsys, "run", *argv).startswith(text)


def test_a_workdir_in_use_is_left_alone(capsys, tmp_path):
  with locks.lock(tmp_path):
    line = error_of(capsys, "run", *CONFIG, "--workdir", str(tmp_path))
  assert "in use by another run" in line
  assert not (tmp_path / "experts").exists()


@pytest.mark.parametrize(
  ("field", "value", "text"),
  [
    ("train.method", "suty", "Did you mean 'suti'?"),
    ("finetune.teacher", "dreamboot", "Did you mean 'dreambooth'?"),
  ],
)
def test_a_name_that_a_late_stage_misses_is_found_first(
  capsys, tmp_path, tiny_backbone, field, value, text
):
  """Not after hours of the stages before it."""
  models = ("backbone", "clip", "identity", "train.init")
  line = error_of(
    capsys,
    "run",
    *CONFIG,
    *(f"--config.{name}={tiny_backbone}" for name in models),
    f"--config.{field}={value}",
    "--workdir",
    str(tmp_path / "w"),
  )
  assert text in line
  assert not (tmp_path / "w" / "experts").exists()


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (
      {"train.batch_size": 4},
      "config.train.batch_size=4 is not divisible by the 8 devices of mesh axis"
      " 'data': use a multiple of 8 or set config.mesh.data.",
    ),
    (
      {"mesh.data": 3, "train.batch_size": 9},
      "config.mesh has data=3, fsdp=1, which does not fit the 8 devices of",
    ),
    (
      {"apprentice_sample.batch_size": 12},
      "config.apprentice_sample.batch_size=12 is not divisible by the 8 devices"
      " of a host: use a multiple of 8.",
    ),
  ],
)
def test_what_the_devices_cannot_share_is_found_first(
  capsys, tmp_path, tiny_backbone, changes, text
):
  workdir = tmp_path / "w"
  models = ("backbone", "clip", "identity", "train.init")
  argv = [
    *CONFIG,
    *(f"--config.{name}={tiny_backbone}" for name in models),
    *(f"--config.{name}={value}" for name, value in changes.items()),
    *("--workdir", str(workdir)),
  ]
  assert text in error_of(capsys, "run", *argv)
  assert not (workdir / "experts").exists()
  # A stage that is finished has found its devices, perhaps elsewhere.
  for name in ("train", "sample"):
    (workdir / "apprentice" / name).mkdir(parents=True)
    (workdir / "apprentice" / name / "done.json").write_text("{}")
  assert text not in error_of(capsys, "run", *argv)


# --- The benchmark's config --------------------------------------------------


def test_the_benchmark_runs_on_held_out_subjects_with_the_benchmarks_prompts():
  config = quickstart.get_config()
  benchmark = benchmark_config(config)
  options.check(benchmark)
  assert benchmark.mine.source == "heldout"
  assert benchmark.mine.split == "test" != config.mine.split
  assert benchmark.mine.num_pages == config.benchmark.num_subjects
  assert benchmark.prompts.source == "dreambench"
  assert benchmark.prompts.num_per_cluster == config.benchmark.num_prompts
  assert benchmark.finetune.num_clusters == config.benchmark.num_expert_subjects
  # All that decides how an expert learns is that of the training's experts.
  for name in ("num_steps", "batch_size", "learning_rate", "teacher"):
    assert benchmark.finetune[name] == config.finetune[name]
  # And an expert knows the pictures that the apprentice is shown, no others.
  assert config.finetune.num_pictures is None
  assert benchmark.finetune.num_pictures == 4 < benchmark.mine.max_images
  assert config.mine.source == "world", "the config itself has not changed"


def test_a_run_mines_no_subjects_that_it_is_evaluated_on(capsys, tmp_path):
  argv = ("--config", "configs/quickstart.py:tiny", "--workdir", tmp_path)
  assert error_of(capsys, "run", *argv, "--config.mine.split=test") == (
    "Error: config.mine.split='test' is also config.benchmark.split: expected "
    "two splits, as experts' subjects are not those that the result is "
    "evaluated on; mine from 'train', or set "
    "--config.benchmark.split=validation."
  )
  held_out = ("--config.mine.source=heldout", "--config.mine.split=test")
  assert "is also config.benchmark.split" in error_of(
    capsys, "run", *argv, *held_out
  )
  assert not list(tmp_path.iterdir())


def test_the_benchmark_s_split_and_prompts_are_the_config_s():
  config = quickstart.get_config().unlock()
  config.benchmark.update(
    split="validation",
    prompts="suti/world/prompts_beforehand.csv",
    templates="held_out",
    num_prompts=40,
  )
  options.check(config)
  benchmark = benchmark_config(config)
  assert benchmark.mine.split == "validation"
  assert benchmark.prompts.source == "list"
  assert benchmark.prompts.path == config.benchmark.prompts
  assert benchmark.prompts.templates == "held_out"
  assert evaluated_on(config.benchmark) == (
    "evaluated on 6 subjects of the validation split"
  )


def test_all_photographs_of_a_benchmarks_folder_are_references(tmp_path):
  config = quickstart.get_config().unlock()
  config.benchmark.update(source="folder", path=str(tmp_path), images_each=2)
  options.check(config)  # though 4 demonstrations are more than images_each
  assert benchmark_config(config).mine.max_images == 1000


# --- suti generate -----------------------------------------------------------


def generate(model, photos, out, *more: str) -> int:
  return start(
    "generate",
    "--subject",
    str(photos),
    "--prompt",
    "a dog in the snow",
    "--out",
    str(out),
    "--model",
    str(model),
    *more,
  )


def test_generate_writes_a_sheet_and_each_picture(
  capsys, tmp_path, model, photos
):
  out = tmp_path / "new" / "dog.png"
  assert generate(model, photos, out, "--num", "2") == 0
  assert {path.name for path in out.parent.iterdir()} == {
    "dog.png",
    "dog-0.png",
    "dog-1.png",
  }
  one, two = (read(out.with_name(f"dog-{i}.png")) for i in "01")
  assert one.shape == two.shape == (16, 16, 3)
  assert (one != two).any()
  # Three demonstrations in a row, two pictures in another.
  height, width, _ = read(out).shape
  assert width > 3 * subject.CELL_PX and height > 2 * subject.CELL_PX
  captured = capsys.readouterr()
  assert captured.out.strip() == (
    f"Wrote {out} and {out.with_name('dog-0.png')} to dog-1.png."
  )
  assert "SubjectWorld" not in captured.err, "this model is not of the world"
  assert captured.err.strip() == (
    f"--subject={photos}: 1 file is not read: 1 .txt (notes.txt).\n"
    "The pictures are captioned 'a dog', after the prompt; --caption says it "
    "otherwise."
  )


def test_generate_names_the_words_that_the_model_never_met(
  capsys, tmp_path, model, photos, monkeypatch
):
  """In the prompt and the caption; it still generates."""
  known = ["a", "dog", "in", "snow"]
  write_json(model / "words.json", {"words": known})
  out = tmp_path / "x.png"
  more = ("--num", "1", "--steps", "1", "--caption", "a Rex dog")
  try:
    assert generate(model, photos, out, *more) == 0
  finally:
    (model / "words.json").unlink()
  assert capsys.readouterr().err.splitlines()[-1] == (
    f"Note: {model.name} has never met 'the', 'rex', words that no caption of"
    " its training has: they may be ignored."
  )
  assert out.is_file()


def test_generate_says_what_it_does_not_read(
  capsys, tmp_path, model, photos, monkeypatch
):
  monkeypatch.setattr("suti.io.image_files._opens_heif", lambda: False)
  mixed = tmp_path / "mixed"
  shutil.copytree(photos, mixed)
  (mixed / "IMG_1.HEIC").write_bytes(b"x")
  (mixed / "bad.png").write_bytes((photos / "a.png").read_bytes()[:100])
  (mixed / "notes.txt").touch()
  out = tmp_path / "x.png"
  assert generate(model, mixed, out, "--num", "1", "--steps", "1") == 0
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == (
    f"--subject={mixed}: 2 files are not read: 1 .heic (IMG_1.HEIC; pip install"
    " pillow-heif, or convert to JPEG), 1 .txt (notes.txt)."
  )
  assert lines[1] == (
    "--subject: 1 of 4 pictures cannot be read and are left out:"
  )
  assert lines[2].startswith(f"  {mixed / 'bad.png'} cannot be read as a pict")
  # Three pictures are left, as in the folder without the others.
  assert generate(model, photos, tmp_path / "y.png", "--num", "1", "--steps",
                  "1") == 0  # fmt: skip
  np.testing.assert_array_equal(
    read(tmp_path / "x-0.png"), read(tmp_path / "y-0.png")
  )


def test_the_caption_is_said_and_can_be_chosen(capsys, tmp_path):
  def choose(prompt, caption=None):
    return subject.choose_caption(prompt, caption)

  phrase, line = choose("a kettle on a beach")
  assert phrase == "a kettle" and "captioned 'a kettle', after the" in line
  assert choose("a kettle on a beach", "a pot") == (
    "a pot",
    "The pictures are captioned 'a pot' (--caption).",
  )
  phrase, line = choose("something else")
  assert phrase == "" and line.startswith("The pictures have no caption, as")
  assert error_of(
    capsys, "generate", "--prompt", "a dog", "--caption", "a dog", "--model",
    "x", "--out", str(tmp_path / "x.png"),
  ) == (
    "Error: --caption goes with pictures of a subject: give --subject, or leave"
    " out --caption."
  )  # fmt: skip


def test_a_mask_for_a_method_that_sees_none_is_one_line(
  capsys, tmp_path, model, photos
):
  mask = str(photos / "a.png")
  assert generate(model, photos, tmp_path / "x.png", "--mask", mask) == 2
  assert capsys.readouterr().err.splitlines()[-1] == (
    "Error: The method 'suti' does not see a mask beside pictures and text: it "
    "sees none; leave it out."
  )


def test_generate_depends_on_the_seed_and_on_nothing_else(
  tmp_path, model, photos
):
  for name, seed, num in (("a", "3", "1"), ("b", "3", "1"), ("c", "4", "1")):
    out = tmp_path / f"{name}.png"
    assert generate(model, photos, out, "--seed", seed, "--num", num) == 0
  a, b, c = (read(tmp_path / f"{name}-0.png") for name in "abc")
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


def test_generate_takes_files_in_the_place_of_a_folder(photos):
  files = [str(photos / "c.webp"), str(photos / "a.png")]
  assert [str(path) for path in subject.find_pictures(files)[0]] == files
  assert [p.name for p in subject.find_pictures([str(photos)])[0]] == [
    "a.png",
    "b.jpg",
    "c.webp",
  ]


def test_generate_says_so_where_a_model_knows_the_world_alone(
  tmp_path, monkeypatch, tiny_backbone
):
  """A shipped model, and what was trained from one; nothing else."""
  monkeypatch.setattr("suti.hf.find.PRETRAINED", tmp_path / "shipped")
  (tmp_path / "shipped" / "world_base" / "unet").mkdir(parents=True)
  first, second = tmp_path / "first", tmp_path / "second"
  write_json(first / "apprentice.json", {"base": "world_base"})
  write_json(second / "apprentice.json", {"base": str(first)})
  write_json(tmp_path / "other/apprentice.json", {"base": str(tiny_backbone)})
  for name in ("world_base", first, second):
    assert subject.knows_world_alone(str(name)), name
  assert not subject.knows_world_alone(str(tmp_path / "other"))
  page = PRETRAINED.parent.parent / "docs" / "photographs.md"
  assert page.is_file() and "docs/photographs.md" in subject.NOTE


def test_mistakes_in_generate(capsys, tmp_path, model, photos):
  out = str(tmp_path / "x.png")

  def mistake(**changes: str) -> str:
    values = {
      "subject": str(photos),
      "prompt": "a dog in the snow",
      "out": out,
      "model": str(model),
    } | changes
    argv = [part for k, v in values.items() for part in (f"--{k}", v)]
    return error_of(capsys, "generate", *argv)

  nothing = tmp_path / "nothing"
  nothing.mkdir()
  assert mistake(subject=str(nothing)).startswith(
    f"Error: --subject={nothing}: no pictures in this folder (looked for "
  )
  assert mistake(subject="no_such") == (
    "Error: --subject=no_such: there is no such file or folder; give pictures "
    "of one subject, or the folder they are in."
  )
  broken = tmp_path / "broken.jpg"
  broken.write_bytes((photos / "b.jpg").read_bytes()[:300])
  assert str(broken) in mistake(subject=str(broken))
  assert mistake(prompt="  ") == (
    "Error: The prompt is empty: say what to show, e.g. 'a dog in the snow'."
  )
  assert mistake(out="dog.gif") == (
    "Error: --out=dog.gif: expected the name of a PNG file; call it dog.png."
  )
  for name, value, most in (
    ("num", "0", "1 and 64"),
    ("num", "100000", "1 and 64"),
    ("steps", "0", "1 and 1000"),
    ("seed", "-1", "0 and 4294967232"),
    ("seed", "4294967296", "0 and 4294967232"),
    ("guidance", "nan", "0 and 1000"),
  ):
    assert mistake(**{name: value}) == (
      f"Error: --{name}={value} must be between {most}."
    )
  for nameless in ("", ".", "/"):
    line = f"Error: --out={nameless}: give the name of a PNG file."
    assert mistake(out=nameless) == line
  assert mistake(num="two") == (
    "Error: argument --num: invalid int value: 'two' (see suti generate --help)"
  )
  assert mistake(model="no_such").startswith("Error: No model 'no_such'")
  assert not (tmp_path / "x.png").exists()


def test_more_pictures_than_can_be_attended_to(capsys, tmp_path, model):
  many = tmp_path / "many"
  many.mkdir()
  for number in range(11):
    Image.new("RGB", (64, 64), (number, 0, 0)).save(many / f"{number}.png")
  assert generate(model, many, tmp_path / "x.png") == 2
  assert "at most 10" in capsys.readouterr().err
