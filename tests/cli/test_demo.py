# SPDX-License-Identifier: Apache-2.0
"""`suti demo`: its call, its mistakes, its Space; and clicked through."""

import contextlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apprentice.model import load_apprentice
from suti.cli import demo
from suti.cli.subject import APPRENTICE
from suti.images import save_png
from suti.io.image_files import load_image
from tests import browser
from tests.commands import error_of
from tests.evaluation.benchmark_folders import picture

NUMBERS = {"num": 1, "seed": 0, "steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def apprentice():
  return load_apprentice(APPRENTICE)


@pytest.fixture
def files(tmp_path):
  paths = [tmp_path / f"{k}.png" for k in range(2)]
  for k, path in enumerate(paths):
    save_png(path, picture(k))
  return paths


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"files": []}, "There is no picture yet: drop 1 to 10"),
    ({"prompt": " "}, "The prompt is empty"),
    ({"num": 0}, "Pictures must be 1 to 64"),
    ({"seed": -1}, "the seed 0 to"),
    ({"steps": 0}, "steps=0: expected 1 or more"),
  ],
)
def test_mistakes_are_one_line(apprentice, files, change, words):
  given = {"files": files, "prompt": "a dog", "caption": ""} | NUMBERS | change
  with pytest.raises(ValueError, match=words):
    demo.sample(apprentice, given.pop("files"), given.pop("prompt"), **given)


def test_an_emptied_field_is_one_line(apprentice, files):
  dropped = [(str(file), None) for file in files]
  with pytest.raises(ValueError, match="Seed is empty: give a number"):
    demo._check(apprentice, dropped, "a dog", "", 1, None, 2, 2.0)


def test_notes_are_in_the_words_of_the_page(apprentice, files):
  files[0].write_bytes(b"no picture")
  prompt = "a blizzard " * 40
  for _ in range(2):  # A tokenizer falls silent, a page must not.
    images, notes, paths = demo._run(
      apprentice, [(str(file), None) for file in files], prompt, "", 1, 7, 2, 2
    )
    assert images == paths and len(paths) == 1
    assert paths[0].endswith("_a_blizz-7.png")
    assert "1 of 2 pictures cannot be read" in notes
    assert "\n  0.png cannot be read as a picture" in notes
    assert "never met 'blizzard'" in notes
    assert "longer than the 32 tokens that are read" in notes
    for word in ("--", str(files[0].parent)):
      assert word not in notes, notes
  files[1].unlink()
  dropped = [(str(file), None) for file in files[:1]]
  with pytest.raises(ValueError, match=r"^0\.png cannot be read"):
    demo._run(apprentice, dropped, "a dog", "", 1, 0, 2, 2)


def test_without_gradio_the_remedy_is_named(capsys, monkeypatch):
  def missing(name):
    raise ImportError(name)

  monkeypatch.setattr(demo.importlib, "import_module", missing)
  with pytest.raises(ValueError, match=r"suti demo needs gradio: pip install"):
    demo.build(APPRENTICE)
  monkeypatch.undo()
  assert "--port=0 must be" in error_of(capsys, "demo", "--port", "0")


def test_its_pictures_go_with_its_process():
  code = (
    "import numpy, pathlib; from suti.cli import demo; "
    "image = numpy.zeros((8, 8, 3), numpy.uint8); "
    "path, = demo._save([image], text='a dog', first=3); "
    "print(pathlib.Path(path).is_file(), path)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  was_there, path = done.stdout.split()
  assert was_there == "True" and path.endswith("a_dog-3.png")
  assert not Path(path).parent.parent.exists()


def test_a_space_is_a_folder_that_runs_alone(tmp_path, monkeypatch):
  class Gradio:
    __version__ = "6.0"

  monkeypatch.setattr(demo, "_gradio", lambda: Gradio)
  demo.write_space(tmp_path / "space")
  folder = tmp_path / "space"
  for name in ("suti", "experts", "apprentice"):
    assert (folder / name / "__init__.py").is_file()
  assert "sdk_version: 6.0" in (folder / "README.md").read_text()
  assert "jax>=" in (folder / "requirements.txt").read_text()
  compile((folder / "app.py").read_text(), "app.py", "exec")
  with pytest.raises(ValueError, match="is already there"):
    demo.write_space(folder)


@pytest.mark.browser
@pytest.mark.filterwarnings("default")  # gradio's own
def test_an_example_is_clicked_generated_and_saved(tmp_path):
  if importlib.util.find_spec("gradio") is None:
    pytest.skip("no gradio: pip install -e '.[demo]'")
  page_of = demo.build(APPRENTICE).queue(default_concurrency_limit=1)
  _, address, _ = page_of.launch(
    server_name="127.0.0.1",
    prevent_thread_lock=True,
    share=False,
    quiet=True,
  )
  try:
    with browser.opened() as (page, elsewhere):
      page.goto(address)
      # Without a picture a line says what to do.
      page.fill("#prompt textarea, #prompt input", "a <b>dog</b>")
      page.click("#generate")
      page.wait_for_selector("text=There is no picture yet")
      notes = "document.querySelector('#notes textarea').value"
      page.wait_for_function(f"{notes}.startsWith('There is no picture yet')")
      # An example is shown without another click.
      page.click("button.example >> nth=0")
      page.wait_for_selector("#pictures img")
      page.wait_for_selector("#saved a")
      notes = page.input_value("#notes textarea")
      assert "'What the pictures show', under More" in notes
      with page.expect_download() as download:
        page.click("#saved a >> nth=0")
      assert download.value.suggested_filename.startswith("a_dog_wearing")
      download.value.save_as(tmp_path / "saved.png")
      page.screenshot(path=tmp_path / "demo.png")
      # A mistake takes nothing away.
      page.fill("#prompt textarea, #prompt input", "")
      page.click("#generate")
      page.wait_for_function(
        "document.querySelector('#notes textarea').value.includes('prompt')"
        " && !document.querySelector('#generate').disabled"
      )
      assert page.locator("#result img").count() == 4
      assert page.locator("#saved a").count() == 4
    assert not elsewhere
  finally:
    with contextlib.suppress(Exception):
      page_of.close()
  image = load_image(tmp_path / "saved.png")
  assert image.shape == (64, 64, 3) and np.ptp(image) > 50
