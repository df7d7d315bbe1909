# SPDX-License-Identifier: Apache-2.0
"""How text and subject should guide.

suti study --config configs/studies/guidance.py \
      --workdir runs/studies/guidance
"""

from ml_collections import ConfigDict

from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  joint = {
    f"joint_{weight}": {
      "row": f"joint, {weight}",
      "x": float(weight),
      "apprentice_sample": _guided("joint", weight),
    }
    for weight in (1, 2, 3, 5, 8)
  }
  # A weight each: with the same weight for both, "two" is "joint".
  modes = {
    f"two_{subject}_{text}": {
      "row": f"two, pictures {subject}, text {text}",
      "apprentice_sample": _guided("two", subject, text),
    }
    for subject, text in ((3, 5), (5, 2), (5, 3), (8, 2))
  }
  modes |= {
    mode: {"apprentice_sample": _guided(mode, 3)}
    for mode in ("interleaved", "agnostic")
  }
  return study.make_study(
    title="Guidance",
    question="How strongly should text and subject guide, and together or "
    "apart?",
    paper="a weight of 15 (arXiv 2304.00186, section 4); what its null drops, "
    "it does not say.",
    run=study.of_sampling(arg),
    reference="joint, 3",
    x="weight of joint guidance",
    variants=joint | modes,
  )


def _guided(mode: str, subject: float, text: float | None = None) -> dict:
  """Fields of a mode; None: the text has the same weight."""
  return {
    "guidance_mode": mode,
    "guidance": float(subject),
    "text_guidance": None if text is None else float(text),
  }
