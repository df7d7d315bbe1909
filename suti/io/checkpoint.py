# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run, with Orbax.

A checkpoint has the loop's state (a tree of arrays, sharded or not), the data
iterator's position, and the identity of the model: a checkpoint of another
model is refused by name and not by a failure deep inside a restore. Orbax
writes to a temporary folder and renames it, or in a bucket writes one file
last, so that a complete checkpoint is distinguished from a partial one. Weights
to publish are not checkpoints: see `suti.hf.weights`.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from suti.io import files
from suti.io.paths import in_bucket, path_of

# Orbax writes it last where it cannot rename.
_COMMITTED = "commit_success.txt"
_FIRST_DIM = re.compile(r"\(\d+")  # of a shape as `_leaves` writes it


class Checkpoints:
  """The checkpoints in a folder.

  A loop starts in one of three ways, which `restore` distinguishes:

    1. The folder has no checkpoint: the loop's initial state is returned as it
       is.
    2. The folder has checkpoints of the same model: the newest is returned,
       sharded like the loop's state, and the run resumes from its step.
    3. It has those of another model: ValueError, naming both.

  Attributes:
    data: the `data` that was saved with the restored state; None in case 1.
  """

  def __init__(
    self,
    folder: str | Path,
    *,
    model: Mapping[str, Any] | None = None,
    max_to_keep: int = 2,
    read_only: bool = False,
  ) -> None:
    """Opens the folder; it is created by the first save.

    Args:
      folder: the run's checkpoints.
      model: config fields by name that must be equal for a run to resume.
      max_to_keep: older ones are deleted.
      read_only: another process may be writing there: nothing is cleaned up.
    """
    self.folder = path_of(folder).resolve()
    self.data: Any = None
    self._model = _plain(model or {})
    options = ocp.CheckpointManagerOptions(
      max_to_keep=max_to_keep,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      # On CPU a saved array may be the very buffer that the next step, which
      # takes its state by donation, writes into.
      enable_async_checkpointing=jax.default_backend() != "cpu",
    )
    try:
      with _quiet():
        self._manager = ocp.CheckpointManager(self.folder, options=options)
    except Exception as error:
      if not in_bucket(self.folder):
        raise
      # Orbax finds credentials in its own way, and needs a project.
      reason = " ".join(str(error).split())[:200]
      raise ValueError(
        f"Orbax cannot work in {self.folder} ({reason}): log in with `gcloud"
        " auth application-default login`, name a project with `gcloud config"
        " set project`, and let the account see the bucket itself"
        " (roles/storage.legacyBucketReader)."
      ) from error

  @property
  def latest(self) -> int | None:
    """The step of the newest checkpoint, None if there is none."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, data: Any = None) -> None:
    """Saves a state; does nothing if this step was saved before.

    Args:
      step: steps done.
      state: tree of arrays; typed random keys are allowed.
      data: anything JSON can hold, such as a Grain iterator's `get_state()`.

    Raises:
      ValueError: the disk is full.
    """
    if step in self._manager.all_steps():
      return
    about = {"model": self._model, "leaves": _leaves(state)}
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(jax.tree.map(_raw, state)),
      about=ocp.args.JsonSave(about),
      data=ocp.args.JsonSave({"data": data}),
    )
    try:
      with _quiet():
        self._manager.save(step, args=items)
    except Exception as error:
      self._raise_if_full(error)
      raise

  def restore(
    self, state: Any, *, step: int | None = None, any_length: bool = False
  ) -> Any:
    """Returns the newest saved state, or the given one if there is none.

    Args:
      state: the loop's initial state; gives names, shapes, dtypes and
        shardings.
      step: which to read, instead of the newest.
      any_length: leading dims may differ from those that were saved: rows are
        cut off at the end, or zeros added.

    Returns:
      A state of the same structure.

    Raises:
      ValueError: the checkpoint is of another model, or cannot be read.
    """
    step = self.latest if step is None else step
    if step is None:
      return state
    about = self._read(step, about=ocp.args.JsonRestore()).about
    self._compare(about, state, any_length=any_length)
    shapes = jax.tree.map(_shape, state)
    read = self._read(
      step,
      state=ocp.args.StandardRestore(shapes, strict=not any_length),
      data=ocp.args.JsonRestore(),
    )
    self.data = read.data["data"]
    return jax.tree.map(_like, read.state, state)

  def wait(self) -> None:
    """Waits until all is written.

    Raises:
      ValueError: the disk is full.
    """
    try:
      with _quiet():
        self._manager.wait_until_finished()
    except Exception as error:
      self._raise_if_full(error)
      raise

  def close(self) -> None:
    """Waits like `wait`, and ends Orbax's threads."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def _read(self, step: int, **items: Any) -> Any:
    """Reads parts of a checkpoint."""
    try:
      with _quiet():
        return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:
      reason = " ".join(str(error).split())[:200]
      raise ValueError(
        f"The checkpoint {self.folder / str(step)} cannot be read ({reason}):"
        " delete that folder to go on from the checkpoint before it, or from"
        " the start."
      ) from error

  def _compare(
    self, about: Mapping[str, Any], state: Any, *, any_length: bool
  ) -> None:
    """Raises unless a checkpoint is of this model."""
    then, now = about["leaves"], _leaves(state)
    if any_length:
      then, now = (
        {name: _FIRST_DIM.sub("(E", text) for name, text in leaves.items()}
        for leaves in (then, now)
      )
    found = files.first_difference(
      about["model"], self._model, "config"
    ) or files.first_difference(then, now)
    if found:
      name, old, new = found
      raise ValueError(
        f"The checkpoint in {self.folder} is of another model: {name} is {old}"
        f" there and {new} here. Give another --workdir, or delete"
        f" {self.folder} to start anew."
      )

  def _raise_if_full(self, error: Exception) -> None:
    if files.is_disk_full(error):
      raise ValueError(
        f"The disk of {self.folder} is full: free some space there and run the"
        f" same command again, it goes on from step {self.latest or 0}."
      ) from error


def saved_steps(folder: Path) -> list[int]:
  """The steps of the whole checkpoints in a folder, in no order."""
  if in_bucket(folder):
    names = [path.parent.name for path in folder.glob(f"*/{_COMMITTED}")]
  else:
    names = files.names_in(folder)
  return [int(name) for name in names if name.isdigit()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences Orbax's log, which prints a traceback before our message."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def _plain(tree: Any) -> Any:
  """Mappings (a ConfigDict too) as dicts, tuples as lists, for JSON."""
  if hasattr(tree, "items"):
    return {str(key): _plain(value) for key, value in tree.items()}
  if isinstance(tree, (tuple, list)):
    return [_plain(value) for value in tree]
  return tree


def _leaves(state: Any) -> dict[str, str]:
  """The state's arrays by name: "float32 (3, 3, 4, 64)"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(state)
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): (
      f"{jnp.result_type(leaf)} {tuple(np.shape(leaf))}"
    )
    for path, leaf in leaves
  }


def _is_key(leaf: Any) -> bool:
  """Whether an array holds typed random keys, which Orbax cannot store."""
  return hasattr(leaf, "dtype") and jnp.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  )


def _raw(leaf: Any) -> Any:
  """Converts typed keys to their data; other arrays are unchanged."""
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _shape(leaf: Any) -> Any:
  """The description of a leaf with which Orbax restores it."""
  return ocp.utils.to_shape_dtype_struct(_raw(leaf))


def _like(restored: Any, leaf: Any) -> Any:
  """Converts key data back to typed keys."""
  if not _is_key(leaf):
    return restored
  return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(leaf))
