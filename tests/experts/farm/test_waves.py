# SPDX-License-Identifier: Apache-2.0
"""Division into waves."""

from experts.farm.waves import expert_key, make_waves

KEYS = [f"{i:012x}" for i in (7, 3, 11, 1, 5)]


def waves_of(keys, **kw):
  return make_waves(keys, **{"experts_per_wave": 2, "num_devices": 1} | kw)


def test_order_of_the_clusters_does_not_matter():
  waves = waves_of(KEYS)
  assert [w.keys for w in waves] == [w.keys for w in waves_of(KEYS[::-1])]
  assert [k for w in waves for k in w.keys] == sorted(KEYS)


def test_the_last_wave_has_the_slots_of_the_others():
  last = waves_of(KEYS)[-1]
  assert last.keys == (max(KEYS),)
  assert (last.num_active, last.num_slots) == (1, 2)
  assert last.name == "wave-00002"


def test_a_wave_is_no_larger_than_needed():
  (wave,) = waves_of(KEYS, experts_per_wave=64, num_devices=4)
  assert (len(wave.keys), wave.num_active, wave.num_slots) == (5, 5, 8)


def test_devices_do_not_move_clusters_between_waves():
  """Two a wave, on one device or on four: a run may go on elsewhere."""
  alone, spread = waves_of(KEYS), waves_of(KEYS, num_devices=4)
  assert [w.keys for w in alone] == [w.keys for w in spread]
  assert {w.num_slots for w in spread} == {4}


def test_refilled_waves_have_fewer_slots():
  """As many on any devices, but for those that are filled up."""
  keys = [f"{i:012x}" for i in range(25)]
  for num_devices, num_slots in ((1, 3), (2, 4), (8, 8)):
    waves = waves_of(
      keys, experts_per_wave=11, experts_per_slot=4, num_devices=num_devices
    )
    assert [len(w.keys) for w in waves] == [11, 11, 3]
    assert [w.num_active for w in waves] == [3, 3, 3]
    assert {w.num_slots for w in waves} == {num_slots}


def test_a_limit_takes_the_first_by_key():
  (wave,) = waves_of(KEYS, limit=2)
  assert wave.keys == tuple(sorted(KEYS)[:2])
  assert len(waves_of(KEYS, limit=0)) == 3


def test_an_expert_key_is_of_seed_and_cluster():
  a, b = (expert_key(0, key) for key in KEYS[:2])
  assert (a != b).all()
  assert (expert_key(0, KEYS[0]) == a).all()
  assert (expert_key(1, KEYS[0]) != a).all()
