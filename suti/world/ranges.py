# SPDX-License-Identifier: Apache-2.0
"""Which subjects of a split are for what: the one place that says so.

An expert's images teach an apprentice nothing if the models that it starts from
have seen true renders of the same subject. So the web that experts are mined
from and the pools that models are pretrained on are disjoint ranges, of the
split "train" and, where they are used, of the others:

  0 to 5,999                  the shipped CLIP and identity encoder
  6,000 to 896,005,999        the web, 224 seeds of a million pages
  900,000,000 and up          pools, a range for each pretraining, see `POOLS`

The web of no seed meets a pool, nor what the shipped models have seen.
"""

from suti.world.templates import SPLIT_SPAN

# Of split "train": the CLIP and the identity encoder of suti/pretrained learned
# from these. Once they are trained anew, nothing needs this range.
SHIPPED = range(6_000)

SUBJECTS_A_PAGE = 4  # the most, and each page has its own
PAGES_A_SEED = 1_000_000
SEEDS = 224
WEB = range(len(SHIPPED), len(SHIPPED) + SEEDS * PAGES_A_SEED * SUBJECTS_A_PAGE)

# {name of a pool: its subjects}.
POOLS = {
  "text_to_image": range(900_000_000, 910_000_000),
  "clip": range(910_000_000, 920_000_000),
  "identity": range(920_000_000, 930_000_000),
  "examples": range(930_000_000, 940_000_000),
  "segmenter": range(940_000_000, 950_000_000),
  "judges": range(950_000_000, SPLIT_SPAN),
}


def web_start(*, seed: int, page: int) -> int:
  """The first of a page's subjects; beyond 224 seeds they come again."""
  start = SUBJECTS_A_PAGE * (seed * PAGES_A_SEED + page)
  return WEB.start + start % len(WEB)


def check_pool(*, name: str, split: str, start: int, num_subjects: int) -> None:
  """Refuses a pool whose subjects another pool, or the web, may show.

  Args:
    name: of the pool, one of `POOLS`.
    split: of its subjects; pools of other splits than "train" teach nothing
      and may lie anywhere.
    start, num_subjects: its subjects, counted from the split's first.

  Raises:
    ValueError: no such pool, or subjects outside of its range.
  """
  if name not in POOLS:
    raise ValueError(
      f"config.pool.name={name!r}: expected one of {', '.join(POOLS)}, whose "
      "subjects suti/world/ranges.py says."
    )
  if split != "train":
    return
  own, last = POOLS[name], start + num_subjects - 1
  if own.start <= start and last < own.stop:
    return
  others = {
    "those of the shipped models": SHIPPED,
    "those of the web": WEB,
    **{f"those of the pool {n!r}": r for n, r in POOLS.items() if n != name},
  }
  met = [
    f"{what} ({r.start} to {r.stop - 1})"
    for what, r in others.items()
    if start < r.stop and last >= r.start
  ]
  raise ValueError(
    f"config.pool.start={start} with {num_subjects} subjects "
    + (f"meets {' and '.join(met)}" if met else "leaves the pool's range")
    + f": expected subjects of {own.start} to {own.stop - 1}, the range of "
    f"the pool {name!r}; set --config.pool.start={own.start}."
  )
