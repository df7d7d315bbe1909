# SPDX-License-Identifier: Apache-2.0
"""Slot refill: waiting experts of a wave take the slots of finished ones.

With early stopping (`config.finetune.stop_window`) experts take unequal numbers
of steps, and the slot of a finished expert would be idle until the last one has
finished. With `config.finetune.experts_per_slot` above 1 a wave has that many
times more experts than slots: the slot of a finished expert is refilled with
the next one, and the finished expert is kept until the end of the wave in a
file among its checkpoints:

  checkpoints/wave-00007/finished/00012.safetensors   the wave's expert 12

The wave is still leased, resumed and written as a whole. An expert does not
depend on its slot or on when it ran: its randomness depends on its cluster's
key and its own step. So a worker that resumes from a checkpoint may write a
file again, with the same content.

How experts are tuned is in `experts.farm.train_step`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from safetensors.numpy import load_file, save_file

from experts.farm.waves import Wave
from suti.io.files import replacing
from suti.io.paths import local

# E experts of a wave, S slots, T steps at most.

Arrays = dict[str, np.ndarray]
_RESULTS = ("step_E", "failed_E", "diverged_E", "loss_ET")


class Slots:
  """Assigns the experts of a wave to its slots."""

  def __init__(
    self,
    wave: Wave,
    folder: Path,
    *,
    restart: Callable[..., dict[str, Any]],
    base: Mapping[str, np.ndarray],
    absent: Collection[int] = (),
  ) -> None:
    """Takes over a wave; writes nothing before an expert leaves its slot.

    Args:
      wave: its experts and slots.
      folder: of its checkpoints.
      restart: of `experts.farm.train_step.make_restart`.
      base: initial parameters of every expert.
      absent: experts, by number, whose clusters cannot be read: they never get
        a slot.
    """
    self._wave, self._folder = wave, folder / "finished"
    self._restart, self._base, self._absent = restart, base, set(absent)
    # Listed once: on a network file system each listing takes a while.
    self._kept = {int(file.stem) for file in self._folder.glob("*.safetensors")}

  def refill(
    self, state: dict[str, Any], done_S: np.ndarray
  ) -> dict[str, Any] | None:
    """Refills the slots of finished experts with waiting ones.

    Args:
      state: of `experts.farm.train_step`; donated if any slot is refilled.
      done_S: which experts are done.

    Returns: the state with the new experts at their start; None if none is
      waiting, or no slot is free.
    """
    number_S = np.array(state["number_E"])
    free = np.flatnonzero(done_S[: self._wave.num_active])
    new = dict(zip(free.tolist(), self._waiting(number_S), strict=False))
    if not new:
      return None
    self._keep(state, new.keys())
    fresh_S = np.isin(np.arange(len(number_S)), list(new))
    number_S[list(new)] = list(new.values())
    return self._restart(state, number_S, fresh_S)

  def are_over(self, state: dict[str, Any], done_S: np.ndarray) -> bool:
    """Whether all experts are done, and none is waiting.

    Arguments are those of `refill`.
    """
    done = done_S[: self._wave.num_active].all()
    return bool(done) and not self._waiting(np.asarray(state["number_E"]))

  def results(self, state: dict[str, Any]) -> Arrays:
    """The results of all experts, once all are done.

    Returns: `step_E`, `failed_E`, `diverged_E` and `loss_ET`, in the wave's
      order.
    """
    if self._in_place():
      return {name: np.asarray(state[name]) for name in _RESULTS}
    self._keep(state, range(self._wave.num_active))
    for number in self._absent - self._kept:
      self._write(number, self._untouched(state))
    rows = [self._read(number) for number in range(len(self._wave.keys))]
    return {name: np.stack([row[name] for row in rows]) for name in _RESULTS}

  def groups(
    self, state: dict[str, Any], sharding: Sharding
  ) -> Iterator[dict[str, jax.Array]]:
    """The parameters of all experts, in groups as large as the slots.

    Args:
      state: as for `results`, which must be called first; its memory is
        released.
      sharding: of what is yielded.

    Yields: parameters in the wave's order, on the devices, the last group
      padded with its last expert. No reference is kept here: their memory is
      released when the caller drops them.
    """
    held = [state.pop("params")]
    names = list(held[0])
    state.clear()
    if self._in_place():
      yield held.pop()
      return
    held.clear()
    num, slots = len(self._wave.keys), self._wave.num_slots
    for first in range(0, num, slots):
      numbers = np.minimum(np.arange(first, first + slots), num - 1)
      rows = [self._read(number) for number in numbers.tolist()]
      yield jax.device_put(
        {
          name: np.stack([row[f"params.{name}"] for row in rows])
          for name in names
        },
        sharding,
      )

  def _waiting(self, number_S: np.ndarray) -> list[int]:
    """Experts that have not run, after those whose file is lost."""
    held = set(number_S[: self._wave.num_active].tolist())
    reached = max(held) + 1
    lost = sorted(set(range(reached)) - held - self._kept)
    waiting = [*lost, *range(reached, len(self._wave.keys))]
    return [number for number in waiting if number not in self._absent]

  def _keep(self, state: dict[str, Any], slots: Iterable[int]) -> None:
    """Writes the experts of some slots."""
    number_S = np.asarray(state["number_E"])
    for slot in slots:
      self._write(
        int(number_S[slot]),
        {name: _row(state[name], slot) for name in _RESULTS}
        | {f"params.{n}": _row(x, slot) for n, x in state["params"].items()},
      )

  def _untouched(self, state: dict[str, Any]) -> Arrays:
    """The row of an expert that never ran."""
    num_steps = state["loss_ET"].shape[1]
    return {
      "step_E": np.zeros((), np.int32),
      "failed_E": np.zeros((), np.int32),
      "diverged_E": np.zeros((), bool),
      "loss_ET": np.zeros((num_steps,), np.float32),
    } | {
      f"params.{name}": self._base[name].astype(x.dtype)
      for name, x in state["params"].items()
    }

  def _write(self, number: int, row: Arrays) -> None:
    with replacing(self._file(number)) as part:
      save_file(row, part)
    self._kept.add(number)

  def _read(self, number: int) -> Arrays:
    return load_file(local(self._file(number)))

  def _file(self, number: int) -> Path:
    return self._folder / f"{number:05d}.safetensors"

  def _in_place(self) -> bool:
    """Whether every expert has a slot of its own, in the wave's order."""
    return len(self._wave.keys) <= self._wave.num_active


def _row(x: jax.Array, slot: int) -> np.ndarray:
  """A slot's part of an array, from the device that holds it."""
  for shard in x.addressable_shards:
    start = shard.index[0].start or 0
    if start <= slot < start + len(shard.data):
      return np.array(np.asarray(shard.data)[slot - start])
  raise AssertionError(f"no device here holds slot {slot}")
