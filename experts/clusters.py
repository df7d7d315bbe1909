# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the clusters that `experts.mine` found.

  clusters.array_record   one record a cluster, in the order of their keys
  clusters.keys           the keys alone, one per line, for binary search

A cluster is found without reading any other, so a damaged one affects only
those that read it.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from suti.io.files import write_atomic
from suti.io.records import DamagedError, read_records, write_records
from suti.schema import Cluster


class Clusters(Sequence):
  """The clusters of a workdir, opened lazily.

  Attributes:
    keys: of all clusters, in order.
  """

  def __init__(self, folder: Path) -> None:
    self._records = read_records(folder / "clusters.array_record", Cluster)
    index = folder / "clusters.keys"
    self.keys = index.read_text().split() if index.is_file() else []
    if len(self.keys) != len(self._records):
      raise ValueError(
        f"{index} is not the list of the {len(self._records)} clusters beside "
        f"it: delete {folder} and run experts.mine anew."
      )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index):
    return self._records[index]

  def find(self, key: str) -> Cluster:
    """The cluster of a key.

    Raises:
      DamagedError: it cannot be read, or the record is of another cluster.
      ValueError: there is no such cluster.
    """
    index = bisect.bisect_left(self.keys, key)
    if index == len(self.keys) or self.keys[index] != key:
      raise ValueError(
        f"experts/mine has no cluster {key}: the stages after it were run on "
        "other clusters; delete experts/prompts and what follows."
      )
    cluster = self._records[index]
    if cluster.key != key:
      raise DamagedError(
        f"Record {index} of experts/mine is of cluster {cluster.key} and not "
        f"of {key}: run experts.mine anew."
      )
    return cluster


def read_clusters(workdir: Path) -> Clusters:
  """Opens the clusters that `experts.mine` wrote.

  Raises:
    ValueError: it is absent, or was written by another version.
  """
  return Clusters(workdir / "experts/mine")


def find_clusters(
  clusters: Clusters, keys: Iterable[str]
) -> dict[str, Cluster]:
  """{key: cluster} for some keys.

  Raises:
    ValueError: there is no such cluster, or it cannot be read.
  """
  return {key: clusters.find(key) for key in dict.fromkeys(keys)}


def readable(
  clusters: Clusters, keys: Iterable[str]
) -> tuple[dict[str, Cluster], dict[str, str]]:
  """Reads some clusters, and collects the errors of those that are damaged.

  Returns: {key: cluster} and {key: error}; each key is in one of them.

  Raises:
    ValueError: there is no such cluster.
  """
  found, causes = {}, {}
  for key in keys:
    try:
      found[key] = clusters.find(key)
    except DamagedError as error:
      # Without the path, which differs between workers.
      reason = " ".join(str(error.__cause__ or error).split())
      causes[key] = f"cannot be read: {reason}"
  return found, causes


def write_clusters(
  folder: Path, keys: Sequence[str], clusters: Iterator[Cluster]
) -> None:
  """Writes clusters, in the order of their keys.

  Args:
    folder: of the stage.
    keys: of the clusters, sorted.
    clusters: may be a generator, so that pictures need not fit into memory.
  """
  assert list(keys) == sorted(keys), "find searches in them"
  write_atomic(
    folder / "clusters.keys", "".join(f"{key}\n" for key in keys).encode()
  )
  write_records(folder / "clusters.array_record", clusters, kind=Cluster)
