# SPDX-License-Identifier: Apache-2.0
"""The artistic styles that prompts ask for, and their words.

SuTI (arXiv 2304.00186) names five painters in its figures of style transfer,
"a Claude Monet styled painting of ..."; it gives no list. The others are our
choice: painters and techniques whose manner a stranger names at a glance.
Here are names alone; how a style looks in SubjectWorld is in
`suti.world.styles`.
"""

# The artists of the paper's style figures, then ours.
PAPER_ARTISTS = (
  "Claude Monet",
  "Pablo Picasso",
  "Rembrandt",
  "Rene Magritte",
  "Vincent van Gogh",
)
_ARTISTS = (
  *PAPER_ARTISTS,
  "Katsushika Hokusai",
  "Georges Seurat",
  "Roy Lichtenstein",
)

# Style -> its prompt, with "a {}" in the place of the subject, or of any prompt
# that begins with it: "a pencil sketch of " + "a dog in the snow".
STYLE_TEXTS = {
  **{artist: f"a {artist} styled painting of a {{}}" for artist in _ARTISTS},
  "pencil sketch": "a pencil sketch of a {}",
  "watercolor": "a watercolor painting of a {}",
  "pixel art": "a pixel art picture of a {}",
  "mosaic": "a mosaic of a {}",
}


def styled(text: str, style: str) -> str:
  """A prompt in a style: "a {} in the snow" -> "a mosaic of a {} in the snow".

  Args:
    text: begins with "a " or "an "; of "", what comes before one is left.
    style: one of STYLE_TEXTS, or "" for none.
  """
  return STYLE_TEXTS[style].removesuffix("a {}") + text if style else text


def style_in(prompt: str) -> str:
  """The style that a prompt asks for, "" if it asks for none."""
  asked = (s for s in STYLE_TEXTS if prompt.startswith(styled("", s)))
  return next(asked, "")
