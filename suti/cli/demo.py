# SPDX-License-Identifier: Apache-2.0
"""`suti demo`: drop pictures, type a text, see new pictures, in a browser.

The same call as `suti generate --subject`. The page is gradio's, the extra
`demo`: nothing is sent anywhere, and nobody else's page may ask. `--space`
writes a folder that runs as a Space of the Hugging Face hub.
"""

import atexit
import functools
import html
import importlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suti.cli.parser import MAX_NUM, Parser, check_here
from suti.cli.subject import (
  APPRENTICE,
  NOTE,
  NUM,
  choose_caption,
  knows_world_alone,
  load_pictures,
)

if TYPE_CHECKING:
  import numpy as np

  from apprentice.model import Apprentice
  from suti.hf.tokenizer import Tokenizer

_DESCRIPTION = """\
Opens a page in the browser of this machine: drop pictures of a subject, type
what they should show, see new pictures and save them. Needs gradio: pip install
-e '.[demo]'.
"""
_EXAMPLES = """\
examples:
  suti demo
  suti demo --model runs/photos/apprentice/train/model
  suti demo --space my-space/
"""
# Test subjects of SubjectWorld, and what to show them in.
_SHOWN = (
  ("a dog wearing a santa hat", "dog"),
  ("a teapot on top of a purple rug in a forest", "teapot"),
  ("a toy on the beach", "toy"),
)
_PICTURES_EACH = 4
# Galleries as high as what they hold, and on a phone all of it in sight.
_STYLE = """<style>
#pictures .grid-wrap, #result .grid-wrap { height: auto; min-height: 10rem; }
#result:has(.preview) .grid-wrap { min-height: 28rem; }
@media (max-width: 640px) {
  #pictures .grid-container, #result .grid-container {
    grid-template-columns: repeat(2, 1fr);
  }
}
</style>"""
_CAPTION = "What the pictures show"  # a field, and what notes call it
_MAX_STEM = 40  # letters of a saved file's name
_PACKAGES = ("suti", "experts", "apprentice")


def demo(argv: Sequence[str]) -> None:
  """Serves the page until Ctrl-C, or writes a Space's folder.

  Raises:
    ValueError: gradio is not installed, no such model, or the port is taken.
  """
  parser = Parser(prog="suti demo", description=_DESCRIPTION, epilog=_EXAMPLES)
  add = parser.add_argument
  add(
    "--model",
    default=APPRENTICE,
    metavar="NAME_OR_DIR",
    help=f"an apprentice (default: {APPRENTICE})",
  )
  add("--port", type=int, default=7860, metavar="N", help="(default: 7860)")
  add("--no-browser", action="store_true", help="print the address alone")
  add("--space", metavar="DIR", help="write a Space's folder, and stop")
  args = parser.parse_args(list(argv))
  if not 1 <= args.port <= 65535:
    raise ValueError(f"--port={args.port} must be between 1 and 65535.")
  if args.space:
    write_space(check_here(args.space, flag="--space"))
    print(f"Wrote {args.space}: upload it as a Space of the gradio kind.")
    return
  from suti.runtime import xla_flags

  xla_flags.prepare()
  print(f"Opening {args.model} and the page, some seconds ...", flush=True)
  page = build(args.model)
  try:
    _, address, _ = page.queue(default_concurrency_limit=1).launch(
      server_name="127.0.0.1",
      server_port=args.port,
      share=False,
      inbrowser=not args.no_browser,
      footer_links=[],
      prevent_thread_lock=True,
      quiet=True,  # it would recommend a public link
    )
  except OSError as error:
    raise ValueError(f"--port={args.port} is taken: give another.") from error
  print(f"The demo is at {address}; Ctrl-C ends it.", flush=True)
  page.block_thread()


def _gradio() -> Any:
  """The library, set to send nothing home.

  Raises:
    ValueError: it is not installed.
  """
  os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
  try:
    return importlib.import_module("gradio")
  except ImportError as error:
    raise ValueError(
      "suti demo needs gradio: pip install -e '.[demo]'."
    ) from error


def build(model: str) -> Any:
  """The page.

  Args:
    model: an apprentice's name or folder.

  Returns: gradio's Blocks, not launched.

  Raises:
    ValueError: gradio is not installed, or no such model.
  """
  gr = _gradio()
  from apprentice.model import load_apprentice

  apprentice = load_apprentice(model)
  world = knows_world_alone(model)

  def begin(*values):
    """What is wrong at once; or an empty page, and no second click."""
    try:
      _check(apprentice, *values)
    except ValueError as error:
      gr.Warning(html.escape(str(error)), duration=6)  # shown as markup
      return gr.skip(), str(error), gr.skip(), gr.skip(), False
    note = "Sampling; the first time takes longer, to compile."
    return [], note, None, gr.update(interactive=False), True

  def run(good, *values):
    if not good:
      return [gr.skip()] * 4
    try:
      return *_run(apprentice, *values), gr.update(interactive=True)
    except ValueError as error:
      gr.Warning(html.escape(str(error)), duration=6)
      return [], str(error), None, gr.update(interactive=True)

  # Pictures that were dropped here go after a day, and at the end.
  kept = {"delete_cache": (3600, 24 * 3600)}
  with gr.Blocks(title="SuTI", analytics_enabled=False, **kept) as page:
    gr.Markdown("# Show my subject in a new scene")
    if world:
      gr.Markdown(NOTE.format(model=model))
    with gr.Row():
      with gr.Column():
        pictures, prompt = _subject(gr)
        button = gr.Button("Generate", variant="primary", elem_id="generate")
        examples = _examples(gr) if world else []
        caption, *numbers = _numbers(gr, apprentice.sampling)
      with gr.Column():
        outputs = _outputs(gr, size_px=apprentice.backbone.size_px)
    gr.HTML(_STYLE, padding=False)
    fields = [pictures, prompt, caption]
    values, good = [*fields, *numbers], gr.State(value=False)

    def sample_on(event):
      # The mistakes first: they leave the pictures of before where they are.
      event(
        begin,
        inputs=values,
        outputs=[*outputs, button, good],
        show_progress="hidden",
        api_name=False,
      ).then(
        run,
        inputs=[good, *values],
        outputs=[*outputs, button],
        show_progress_on=outputs[:1],  # seconds, on the pictures alone
        api_name=False,
      )

    sample_on(functools.partial(gr.on, [button.click, prompt.submit]))
    for example, text, files in examples:
      filled = example.click(
        lambda text=text, files=files: (files, text, ""),
        outputs=fields,
        api_name=False,
      )
      sample_on(filled.then)
  return page


def _check(apprentice, pictures, prompt, caption, num, seed, steps, guidance):
  """Raises what `_run` would, before anything is sampled."""
  del caption
  numbers = {"Pictures": num, "Seed": seed, "Steps": steps}
  for name, value in (numbers | {"Guidance": guidance}).items():
    if value is None:  # as a browser has a field that was emptied
      raise ValueError(f"{name} is empty: give a number.")
  files = [Path(path) for path, _ in pictures or []]
  check_fields(
    apprentice, files, prompt, num=int(num), seed=int(seed), steps=int(steps)
  )


def _run(apprentice, pictures, prompt, caption, num, seed, steps, guidance):
  """The fields of the page -> its outputs."""
  files = [Path(path) for path, _ in pictures or []]
  try:
    images, notes = sample(
      apprentice,
      files,
      prompt,
      caption=caption,
      num=int(num),
      seed=int(seed),
      steps=int(steps),
      guidance=float(guidance),
    )
  except ValueError as error:
    raise ValueError(_as_dropped(str(error), files)) from error
  paths = _save(images, text=prompt, first=int(seed))
  return paths, _as_dropped("\n".join(notes), files), paths


def _as_dropped(text: str, files: Sequence[Path]) -> str:
  """With files as the user knows them, not where the page keeps them."""
  for file in files:
    text = text.replace(str(file), file.name)
  return text


def _subject(gr: Any) -> list[Any]:
  """Where pictures are dropped, and the text."""
  return [
    gr.Gallery(
      label="1 to 10 pictures of one subject",
      type="filepath",
      file_types=["image"],
      interactive=True,
      columns=4,
      elem_id="pictures",
    ),
    gr.Textbox(
      label="What to show", placeholder="a dog in the snow", elem_id="prompt"
    ),
  ]


def _examples(gr: Any) -> list[tuple[Any, str, list[str]]]:
  """Buttons, each with the text and the pictures that it stands for."""
  gr.Markdown("Or sample one of these, of a subject it has never seen:")
  with gr.Row():
    return [
      (gr.Button(text, size="sm", elem_classes=["example"]), text, files)
      for text, files in write_examples()
    ]


def _numbers(gr: Any, sampling: Mapping[str, Any]) -> list[Any]:
  """What may be left as it is."""
  with gr.Accordion("More", open=False):
    return [
      gr.Textbox(label=_CAPTION, placeholder="empty: after the prompt"),
      gr.Slider(1, 8, value=NUM, step=1, label="Pictures"),
      gr.Number(value=0, precision=0, label="Seed"),
      gr.Slider(
        1, 250, value=int(sampling["num_steps"]), step=1, label="Steps"
      ),
      gr.Slider(0, 30, value=float(sampling["guidance"]), label="Guidance"),
    ]


def _outputs(gr: Any, *, size_px: int) -> list[Any]:
  """The pictures, what was left out, and the files.

  Args:
    size_px: side of the model's images; small ones stand four in a row, which
      does not blow them up.
  """
  return [
    gr.Gallery(
      label="Generated",
      format="png",
      columns=4 if size_px <= 128 else 2,
      object_fit="contain",
      interactive=False,
      buttons=["download_all", "fullscreen"],
      elem_id="result",
    ),
    gr.Textbox(label="Notes", lines=2, interactive=False, elem_id="notes"),
    gr.File(
      label="Save",
      file_count="multiple",
      interactive=False,
      elem_id="saved",
    ),
  ]


def sample(
  apprentice: "Apprentice",
  files: Sequence[Path],
  prompt: str,
  *,
  caption: str | None,
  num: int,
  seed: int,
  steps: int,
  guidance: float,
) -> tuple[list["np.ndarray"], list[str]]:
  """The images of a page's fields, and lines on what was left out.

  Args:
    apprentice: the model.
    files: pictures of the subject.
    prompt: what to show.
    caption: of the pictures; None or empty for the prompt's own subject.
    num, seed, steps, guidance: as of `suti generate`.

  Raises:
    ValueError: no picture, none that can be read, an empty prompt, or a number
      out of its range.
  """
  from apprentice.generate import generate
  from suti.pipeline import known_words

  check_fields(apprentice, files, prompt, num=num, seed=seed, steps=steps)
  pictures, notes = load_pictures(files, where="")
  caption, why = choose_caption(
    prompt, caption or None, where=f"'{_CAPTION}', under More,"
  )
  folder = apprentice.backbone.folder
  notes += [why, known_words.note(folder, prompt, caption)]
  notes += [_tokenizer(folder).cut(text) for text in (prompt, caption)]
  images = generate(
    apprentice,
    pictures,
    prompt,
    captions=[caption] * len(pictures),
    num=num,
    seed=seed,
    steps=steps,
    guidance=guidance,
  )
  return images, [note for note in notes if note]


def check_fields(
  apprentice: "Apprentice",
  files: Sequence[Path],
  prompt: str,
  *,
  num: int,
  seed: int,
  steps: int,
) -> None:
  """Refuses what `sample` cannot do, before it reads a picture.

  Raises:
    ValueError: no picture, an empty prompt, or a number out of its range.
  """
  from apprentice.generate import check

  if not files:
    raise ValueError(
      "There is no picture yet: drop 1 to 10 pictures of one subject."
    )
  if not 1 <= num <= MAX_NUM or not 0 <= seed < 2**32 - MAX_NUM:
    raise ValueError(
      f"Pictures must be 1 to {MAX_NUM}, the seed 0 to {2**32 - MAX_NUM - 1}."
    )
  check(apprentice, prompt, num_images=len(files), num=num, steps=steps)


@functools.cache
def _tokenizer(folder: Path) -> "Tokenizer":
  from suti.pipeline.text_encoders import open_tokenizer

  return open_tokenizer(folder)


def _save(
  images: Sequence["np.ndarray"], *, text: str, first: int
) -> list[str]:
  """Files of images, in a folder of their own, by their text and seed."""
  from suti.evaluation.folders.pictures import slug
  from suti.images import save_png

  folder = Path(tempfile.mkdtemp(dir=_folder()))
  stem = slug(text)[:_MAX_STEM] or "suti"
  paths = []
  for number, image in enumerate(images, start=first):
    path = folder / f"{stem}-{number}.png"
    save_png(path, image)
    paths.append(str(path))
  return paths


@functools.cache
def _folder() -> Path:
  """What this demo writes, which goes with its process."""
  folder = Path(tempfile.mkdtemp(prefix="suti-demo-"))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


def write_examples() -> list[tuple[str, list[str]]]:
  """Pictures of subjects that no model here has seen, and prompts for them."""
  from apprentice.benchmark import world_subjects

  found = world_subjects([n for _, n in _SHOWN], images_each=_PICTURES_EACH)
  return [
    (text, _save(pictures, text=noun, first=0))
    for (text, noun), pictures in zip(_SHOWN, found, strict=True)
  ]


# --- A Space -----------------------------------------------------------------

_APP = '''\
"""SuTI's demo, as a Space."""

from suti.cli.demo import build

build("world_apprentice").queue(default_concurrency_limit=1).launch()
'''
_CARD = """\
---
title: SuTI
sdk: gradio
sdk_version: {version}
app_file: app.py
license: apache-2.0
---

Shows a subject, given as a few pictures, in a new scene, without fine-tuning.
The shipped model knows SubjectWorld alone, a small rendered world.
"""


def write_space(folder: Path) -> None:
  """Writes a folder that is a Space: the page, the packages, what they need.

  Raises:
    ValueError: it is there already, or gradio is not installed.
  """
  from suti.io.files import check_new_folder, replacing_folder, write_atomic

  version = _gradio().__version__
  root = Path(__file__).parent.parent.parent
  check_new_folder(folder, outside=root / "suti")
  needed = [
    line
    for line in importlib.metadata.requires("suti-jax") or []
    if "extra ==" not in line
  ]
  with replacing_folder(folder, last="README.md") as part:
    for name in _PACKAGES:
      shutil.copytree(
        root / name,
        part / name,
        ignore=shutil.ignore_patterns("__pycache__"),
      )
    for name, text in (
      ("app.py", _APP),
      ("requirements.txt", "\n".join([*needed, ""])),
      ("README.md", _CARD.format(version=version)),
    ):
      write_atomic(part / name, text.encode())
