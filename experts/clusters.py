# SPDX-License-Identifier: Apache-2.0
"""The clusters that `experts.mine` found, and which of them can be read.

  clusters.array_record   one record a cluster, in the order of their keys
  clusters.keys           those keys alone, a line each, to search in

One cluster of millions is found without reading any other, so one that is
damaged is met by whoever asks for it and by nobody else.
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
      DamagedError: it cannot be read, or another lies in its place.
      ValueError: there is none.
    """
    place = bisect.bisect_left(self.keys, key)
    if place == len(self.keys) or self.keys[place] != key:
      raise ValueError(
        f"experts/mine has no cluster {key}: the stages after it were run on "
        "other clusters; delete experts/prompts and what follows."
      )
    cluster = self._records[place]
    if cluster.key != key:
      raise DamagedError(
        f"Record {place} of experts/mine is of cluster {cluster.key} and not "
        f"of {key}: run experts.mine anew."
      )
    return cluster


def read_clusters(workdir: Path) -> Clusters:
  """What `experts.mine` wrote.

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
  """What can be read of some clusters, and what is wrong with the others.

  Returns: {key: cluster} and {key: why not}; each key is in one of them.

  Raises:
    ValueError: there is no such cluster.
  """
  found, causes = {}, {}
  for key in keys:
    try:
      found[key] = clusters.find(key)
    except DamagedError as error:
      # Without the path, which is not the same for every worker.
      reason = " ".join(str(error.__cause__ or error).split())
      causes[key] = f"cannot be read: {reason}"
  return found, causes


def write_clusters(
  folder: Path, keys: Sequence[str], clusters: Iterator[Cluster]
) -> None:
  """Writes clusters, in the order of their keys.

  Args:
    folder: of the stage.
    keys: theirs, sorted.
    clusters: may be a generator: pictures need not fit into memory.
  """
  assert list(keys) == sorted(keys), "find searches in them"
  write_atomic(
    folder / "clusters.keys", "".join(f"{key}\n" for key in keys).encode()
  )
  write_records(folder / "clusters.array_record", clusters, kind=Cluster)
