# SPDX-License-Identifier: Apache-2.0
"""Named colours, and which of them go well together.

Colours have names because captions must be true. sRGB in [0, 1]. No shading
here.
"""

import numpy as np

COLOURS = {
  "red": (0.82, 0.17, 0.15),
  "orange": (0.96, 0.53, 0.14),
  "yellow": (0.98, 0.80, 0.22),
  "green": (0.30, 0.62, 0.27),
  "mint": (0.56, 0.85, 0.70),
  "teal": (0.09, 0.54, 0.55),
  "blue": (0.17, 0.38, 0.82),
  "light blue": (0.52, 0.77, 0.95),
  "navy": (0.13, 0.18, 0.42),
  "purple": (0.50, 0.26, 0.70),
  "pink": (0.97, 0.56, 0.69),
  "brown": (0.47, 0.28, 0.15),
  "golden": (0.83, 0.60, 0.28),
  "tan": (0.79, 0.63, 0.45),
  "cream": (0.96, 0.88, 0.72),
  "white": (0.96, 0.95, 0.93),
  "gray": (0.56, 0.57, 0.60),
  "black": (0.14, 0.14, 0.16),
}
# What is printed, bare or metal whatever the subject's own colours are.
INK = np.array([0.08, 0.08, 0.09])
PAPER = np.array([0.96, 0.96, 0.95])
STEEL = np.array([0.74, 0.76, 0.79])
NAMES = tuple(COLOURS)
RGB = np.array([COLOURS[name] for name in NAMES])

_PARTNERS = {
  "red": "white cream navy yellow black light blue",
  "orange": "white navy teal cream brown blue",
  "yellow": "blue white teal black purple orange",
  "green": "cream yellow white brown orange pink",
  "mint": "pink white navy brown orange",
  "teal": "orange cream pink white yellow",
  "blue": "white yellow orange light-blue cream pink",
  "light blue": "white navy pink yellow brown red",
  "navy": "white red yellow mint tan pink",
  "purple": "yellow white mint pink orange",
  "pink": "white purple teal mint navy yellow",
  "brown": "cream white orange mint light-blue",
  "golden": "white brown cream black",
  "tan": "brown white teal navy",
  "cream": "brown red teal green navy orange",
  "white": "blue red black green orange purple teal",
  "gray": "white yellow black pink teal",
  "black": "white yellow red gray mint",
}


def _partner_table():
  """Indices of partners, (colours, 30); lists repeat, the short more often."""
  rows = []
  for name in NAMES:
    text = _PARTNERS[name].replace("light blue", "light-blue")
    partners = [NAMES.index(w.replace("-", " ")) for w in text.split()]
    rows.append([partners[i % len(partners)] for i in range(30)])
  return np.array(rows)


PARTNER = _partner_table()
OBJECT_COLOURS = tuple(
  i for i, name in enumerate(NAMES) if name not in ("golden", "tan")
)
FUR_PARTNER = {
  "brown": "cream white tan",
  "golden": "white cream brown",
  "tan": "brown white black",
  "cream": "brown golden white",
  "white": "brown black gray orange golden",
  "gray": "white black cream",
  "black": "white golden tan gray",
  "orange": "white cream brown",
}
FUR_COLOURS = tuple(NAMES.index(name) for name in FUR_PARTNER)


def partner(main_n, u_n):
  """A harmonious second colour. main_n: int indices; u_n: [0, 1)."""
  return PARTNER[main_n, (u_n * 30).astype(int)]


def fur_partner(main_n, u_n):
  """A second colour as animals have it."""
  rows = np.zeros((len(NAMES), 30), int)
  for name, text in FUR_PARTNER.items():
    words = text.split()
    rows[NAMES.index(name)] = [
      NAMES.index(words[i % len(words)]) for i in range(30)
    ]
  return rows[main_n, (u_n * 30).astype(int)]


def rgb(index_n, jitter_n3):
  """Colour values, a little different for each subject.

  Args:
    index_n: colour indices.
    jitter_n3: uniform numbers.

  Returns:
    (n, 3) in [0, 1]; so close to the named colour that the name stays true.
  """
  base_n3 = RGB[index_n]
  bright_n1 = 0.90 + 0.2 * jitter_n3[:, :1]
  tint_n3 = (jitter_n3 - 0.5) * 0.07
  return np.clip(base_n3 * bright_n1 + tint_n3, 0.03, 0.98)
