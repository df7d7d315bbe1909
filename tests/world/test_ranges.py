# SPDX-License-Identifier: Apache-2.0
"""No subject of the web is one that a model was pretrained on."""

import itertools

import pytest

from configs.pretrain import pool
from suti.world import dataset, ranges
from suti.world.templates import subject_seeds


def test_no_two_ranges_meet():
  everything = [ranges.SHIPPED, ranges.WEB, *ranges.POOLS.values()]
  for one, two in itertools.combinations(everything, 2):
    assert one.stop <= two.start or two.stop <= one.start
  for one in everything:
    assert subject_seeds("train", one.start, len(one) and 1)
    assert one.stop <= ranges.SPLIT_SPAN


def test_configs_start_where_the_ranges_do():
  starts = {name: r.start for name, r in ranges.POOLS.items()}
  assert starts == pool.START


@pytest.mark.parametrize("seed", [0, 1, 223, 224, 2**32 - 1])
def test_every_page_stays_in_the_web(seed):
  for page in (0, 1, 47, 999_999, 1_000_000):
    plans = dataset._page("train", page=page, seed=seed)
    assert all(plan.shot.subject in ranges.WEB for plan in plans)
  assert ranges.web_start(seed=0, page=0) == 6000
  last = ranges.web_start(seed=223, page=999_999)
  assert last + ranges.SUBJECTS_A_PAGE == ranges.WEB.stop


def check(*, name="clip", split="train", start=910_000_000):
  ranges.check_pool(name=name, split=split, start=start, num_subjects=6000)


def test_a_pool_in_its_range_is_allowed_and_elsewhere_refused():
  check()
  check(start=919_994_000)
  check(split="validation", start=0)
  with pytest.raises(ValueError) as error:
    check(start=5_000)
  assert str(error.value) == (
    "config.pool.start=5000 with 6000 subjects meets those of the shipped"
    " models (0 to 5999) and those of the web (6000 to 896005999): expected"
    " subjects of 910000000 to 919999999, the range of the pool 'clip'; set"
    " --config.pool.start=910000000."
  )
  with pytest.raises(ValueError, match="meets those of the pool 'identity'"):
    check(start=919_994_001)
  with pytest.raises(ValueError, match="leaves the pool's range"):
    check(start=898_000_000)
  with pytest.raises(ValueError, match=r"^config\.pool\.name='vae': expected"):
    check(name="vae")
