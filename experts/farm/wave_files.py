# SPDX-License-Identifier: Apache-2.0
"""The output files of a wave: weights, loss curves and `Expert` records.

  wave-NNNNN.safetensors   trainable parameters under their published names,
                           stacked as (E, ...), in our layout (kernels HWIO), or
                           their difference to the base
  wave-NNNNN.json          `Expert` records and loss curves; written last, with
                           it the wave is done
  counts/wave-NNNNN.json   how many experts are ok, how many quarantined

Padding is not written. Experts are tuned by `experts.finetune`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from experts.farm.waves import DIVERGENCE_WINDOW, Wave
from suti.io.files import read_json, read_object, replacing, write_json
from suti.io.paths import local
from suti.io.record_bytes import from_json
from suti.schema import Expert

# E experts of a wave, T steps.

_AGAIN = "delete it, and run experts.finetune again."


def describe(
  wave: Wave,
  results: Mapping[str, Any],
  *,
  teacher: str,
  damaged: Mapping[str, str],
) -> dict[str, Any]:
  """Makes the record of a wave.

  Args:
    wave: its clusters.
    results: `step_E`, `failed_E`, `diverged_E` and `loss_ET` of its experts, as
      a state of `experts.farm.train_step` has them after the last step.
    teacher: its name.
    damaged: {cluster: why it could not be tuned on}.

  Returns: `experts`, as fields of `Expert`, and `losses`, a curve for each. To
    them, `finish_wave` adds `steps`, those of the wave.
  """
  num = len(wave.keys)
  failed_E = np.asarray(results["failed_E"])[:num]
  step_E = np.asarray(results["step_E"])[:num]
  diverged_E = np.asarray(results["diverged_E"])[:num]
  loss_ET = np.asarray(results["loss_ET"])[:num]
  experts, curves = [], []
  for key, failed, diverged, step, loss_T in zip(
    wave.keys, failed_E, diverged_E, step_E, loss_ET, strict=True
  ):
    steps = int(step if failed < 0 else failed)
    cause = f"loss or gradient not finite at step {steps}"
    if diverged:
      cause = _divergence(loss_T[:steps])
    cause = damaged.get(key, cause)
    curve = [round(float(x), 6) for x in loss_T[:steps]]
    curves.append(curve)
    expert = Expert(
      cluster=key,
      teacher=teacher,
      steps=steps,
      loss=float(np.mean(curve[-max(1, steps // 10) :] or [0.0])),
      status="ok" if failed < 0 else "quarantined",
      cause="" if failed < 0 else cause,
    )
    experts.append(dataclasses.asdict(expert))
  return {"experts": experts, "losses": curves}


def _divergence(loss_T: np.ndarray) -> str:
  """The cause of quarantine of an expert whose loss diverged."""
  last = np.mean(loss_T[-DIVERGENCE_WINDOW:], dtype=np.float64)
  return (
    f"loss {last:.3g} at step {len(loss_T)}, far above {loss_T[0]:.3g} at its"
    " first"
  )


def write_wave(
  folder: Path,
  wave: Wave,
  record: Mapping[str, Any],
  *,
  params: Sequence[Mapping[str, Any]],
  is_difference: bool = False,
) -> None:
  """Writes the weights, then the record: with it, the wave is done.

  Args:
    folder: of the stage.
    wave: its name, and how many experts it has.
    record: of `describe`.
    params: with E in front, in groups, the last padded; none if they are not
      kept.
    is_difference: they are differences to the base, of `difference`.
  """
  if params:
    num = len(wave.keys)
    weights = {
      name: np.concatenate([part[name] for part in params])[:num]
      for name in params[0]
    }
    kind = "difference" if is_difference else "parameters"
    with replacing(folder / f"{wave.name}.safetensors") as part:
      save_file(weights, part, metadata={"kind": kind})
  write_json(_counts(folder, wave.name), _count(record["experts"]))
  write_json(folder / f"{wave.name}.json", record)


@jax.jit
def difference(
  params: Mapping[str, jax.Array], base: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """The change by tuning, in bfloat16: half of the bytes.

  Its error is 1/256 of the change at most, where bfloat16 of the parameters
  themselves would lose changes below 1/512 of their size.
  """
  wide = jnp.float32
  return {
    name: (x.astype(wide) - base[name].astype(wide)).astype(jnp.bfloat16)
    for name, x in params.items()
  }


def changed(base: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `difference`: on the host if both are there."""
  wide = jnp.float32
  return {
    name: (base[name].astype(wide) + x.astype(wide)).astype(base[name].dtype)
    for name, x in by.items()
  }


def as_kept(
  groups: Iterable[Mapping[str, jax.Array]],
  base: Mapping[str, np.ndarray],
  *,
  is_difference: bool,
  kept: list[dict[str, np.ndarray]] | None,
) -> Iterator[Mapping[str, jax.Array]]:
  """Parameters as they are when read back from disk; copies them to the host.

  Args:
    groups: parameters with E in front, on the devices.
    base: initial parameters of every expert.
    is_difference: whether `difference` is kept.
    kept: a list to which each group's arrays to keep are appended; None keeps
      nothing.

  Yields: parameters, to sample with. No reference is kept here, so that no two
    groups need be on the devices at the same time.
  """
  for params in groups:
    held = [params]
    del params
    if is_difference:
      change = difference(held.pop(), base)
      held.append(jax.jit(changed)(base, change))
    else:
      change = held[0]
    if kept is not None:
      kept.append(jax.device_get(change))
    del change
    yield held.pop()


def write_times(folder: Path, name: str, seconds: Sequence[float]) -> None:
  """Writes how long the calls of a wave took, apart from reproducible files.

  Args:
    folder: of the stage.
    name: of the wave.
    seconds: of each call that did not compile; may be empty.
  """
  write_json(folder / "times" / f"{name}.json", list(seconds))


def median_time(folder: Path) -> float | None:
  """Median over all calls of all waves, robust to a machine that was suspended.

  Returns: seconds; None if no call was timed.
  """
  files = sorted((folder / "times").glob("wave-*.json"))
  seconds = [value for file in files for value in read_json(file)]
  return float(np.median(seconds)) if seconds else None


def mean_steps(folder: Path, waves: Sequence[Wave]) -> float:
  """Steps that the waves of an experiment took, a mean over its experts.

  Raises:
    ValueError: the record of a wave does not have them.
  """
  total = 0
  for wave in waves:
    file = folder / f"{wave.name}.json"
    steps = read_object(file).get("steps")
    if not isinstance(steps, int):
      raise ValueError(f"{file} does not say how many steps: {_AGAIN}")
    total += steps * len(wave.keys)
  return total / sum(len(wave.keys) for wave in waves)


def count_experts(folder: Path, name: str) -> tuple[int, int]:
  """How many experts of a finished wave are ok, and how many quarantined.

  It reads a small file: records hold loss curves too, megabytes a wave, which
  monitoring should not have to read.
  """
  if (file := _counts(folder, name)).exists():
    fine, lost = read_json(file)
    return fine, lost
  return _count(read_json(folder / f"{name}.json")["experts"])


def _count(experts: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
  fine = sum(expert["status"] == "ok" for expert in experts)
  return fine, len(experts) - fine


def _counts(folder: Path, name: str) -> Path:
  return folder / "counts" / f"{name}.json"


def read_experts(folder: Path, name: str) -> list[Expert]:
  """The experts of a finished wave, in the order of its weights.

  Raises:
    ValueError: its record is malformed.
  """
  file = folder / f"{name}.json"
  record = read_object(file)
  rows = record.get("experts")
  if not isinstance(rows, list):
    raise ValueError(f"{file} lists no experts: {_AGAIN}")
  experts = []
  for number, row in enumerate(rows):
    try:
      experts.append(from_json(row, Expert))
    except (ValueError, TypeError, KeyError, IndexError) as error:
      raise ValueError(
        f"Expert {number} of {file} is none: {error}; {_AGAIN}"
      ) from error
  return experts


def load_wave(
  file: Path, trainable: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Reads a wave's weights.

  Raises:
    ValueError: they are gone, or of another net.
  """
  try:
    copy = local(file)
    params = load_file(copy)
    with safe_open(copy, framework="np") as opened:
      kind = (opened.metadata() or {}).get("kind")
  except FileNotFoundError as error:
    raise ValueError(
      f"{file} is gone: with config.finetune.keep='nothing' weights are "
      f"deleted once sampled. Delete {file.parent} to tune the experts anew."
    ) from error
  except SafetensorError as error:
    raise ValueError(
      f"{file} is not a whole safetensors file ({error}): delete it and its"
      " .json, and run experts.finetune again."
    ) from error
  shapes = {name: x.shape[1:] for name, x in params.items()}
  if shapes != {name: x.shape for name, x in trainable.items()}:
    raise ValueError(
      f"{file} holds experts of another net than config.backbone and "
      f"config.finetune.teacher declare: delete {file.parent}."
    )
  if kind == "difference":
    params = changed(trainable, params)
  return params


def in_groups(
  params: Mapping[str, np.ndarray], *, size: int, sharding: Sharding
) -> Iterator[dict[str, jax.Array]]:
  """Puts experts on the devices, `size` of them at a time, in their order.

  The last group is padded with the last expert.
  """
  (num,) = {len(x) for x in params.values()}
  for first in range(0, num, size):
    rows = np.minimum(np.arange(first, first + size), num - 1)
    yield jax.device_put({n: x[rows] for n, x in params.items()}, sharding)


def summarise(folder: Path, waves: Sequence[Wave]) -> dict[str, Any]:
  """The summary of the stage.

  Raises:
    ValueError: all experts were quarantined.
  """
  experts = [e for wave in waves for e in read_experts(folder, wave.name)]
  fine = [e for e in experts if e.status == "ok"]
  lost = [f"{e.cluster} ({e.cause})" for e in experts if e not in fine]
  if not fine:
    raise ValueError(
      f"All {len(experts)} experts were quarantined, e.g. {lost[0]}: fix that "
      "(for losses that rise, or are not finite, lower "
      "config.finetune.learning_rate), "
      f"and delete {folder} to run it anew."
    )
  summary = {
    "experts": len(fine),
    "quarantined": ", ".join(lost) or 0,
    "waves": len(waves),
    "loss": float(np.mean([e.loss for e in fine])),
  }
  if (each_s := median_time(folder)) is not None:
    # Of the steps that were taken: fewer than the config's if experts stopped
    # early, as a wave ends with its last one.
    summary["seconds_per_expert"] = each_s * mean_steps(folder, waves)
  return summary
