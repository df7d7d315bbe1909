# SPDX-License-Identifier: Apache-2.0
"""The sheet of an apprentice's drawings: what is shown, asked and laid out."""

import sys

import numpy as np

from apprentice import contact_sheet
from suti.evaluation.dreambench import templates_of
from suti.io.image_files import load_image
from suti.world.templates import LIVE

GREEN = np.full((64, 64, 3), (0, 255, 0), np.uint8)


def test_rows_are_subjects_behind_two_of_their_pictures(
  tmp_path, monkeypatch, capsys
):
  rendered, asked = [], []

  def render_shots(shots, *, size_px):
    rendered.append(shots)
    return {"image": np.zeros((len(shots), size_px, size_px, 3), np.uint8)}

  def generate(apprentice, images, prompt, *, captions, num, seed):
    assert apprentice == "model" and num == 1 and seed == 5
    assert len(images) == len(captions) == 4
    asked.append((captions[0], prompt))
    return [GREEN]

  monkeypatch.setattr(contact_sheet, "render_shots", render_shots)
  monkeypatch.setattr(contact_sheet, "generate", generate)
  monkeypatch.setattr(contact_sheet, "load_apprentice", lambda _: "model")
  out = tmp_path / "sheet.png"
  args = ["contact_sheet", "--out", str(out), "--seed", "5"]
  monkeypatch.setattr(sys, "argv", args)
  contact_sheet.main()
  sheet = load_image(out)
  is_green = (sheet == (0, 255, 0)).all(-1)
  assert is_green.sum() == len(asked) * 64 * 64 == 6 * 8 * 64 * 64
  # The pictures that are shown lie to the left of all that is sampled.
  assert not is_green[:, : 2 * 64].any()
  assert len({shots[0].subject for shots in rendered}) == 6
  assert all(len({shot.subject for shot in shots}) == 1 for shots in rendered)
  for caption, prompt in asked:
    noun = caption.removeprefix("a ")
    texts = [t.text.format(noun) for t in templates_of(live=noun in LIVE)]
    assert prompt in texts
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(" · ")[0] for line in lines] == list(
    dict.fromkeys(caption.removeprefix("a ") for caption, _ in asked)
  )
