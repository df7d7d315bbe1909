# SPDX-License-Identifier: Apache-2.0
"""Several declared nets as one: one dict of parameters, one function.

A teacher or a method may bring nets beside the backbone's. Parameters of the
first net, whose name is "", keep their names; those of another are "NET:name".
A net that is `SharesFirst` has none of its own, but reads those of the first:
such as the backbone's U-Net, where the first has low-rank updates beside it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from suti.nn.param import Module, Param, functional


@dataclasses.dataclass(frozen=True)
class SharesFirst:
  """A net whose parameters are among the first one's."""

  module: Module


Nets = Module | Mapping[str, Module | SharesFirst]


def functional_nets(
  nets: Nets,
) -> tuple[dict[str, Param], Callable[..., Any]]:
  """As `suti.nn.param.functional`, of one net or of several by name.

  Args:
    nets: a declared module, or several; the first is the one named "".

  Returns:
    spec: the parameters of all.
    apply: `(params, *args, net="", **kwargs)`: `net` says which is applied.
  """
  if isinstance(nets, Module):
    return functional(nets)
  assert "" in nets, "one net is the backbone's, under the name ''"
  shared = {net for net, each in nets.items() if isinstance(each, SharesFirst)}
  parts = {
    net: functional(each.module if isinstance(each, SharesFirst) else each)
    for net, each in nets.items()
  }
  for net in shared:
    assert parts[net][0].keys() <= parts[""][0].keys(), net
  spec = {
    prefix(net) + name: param
    for net, (each, _) in parts.items()
    for name, param in each.items()
    if net not in shared
  }

  def apply(params: Mapping[str, Any], *args: Any, net: str = "", **kw: Any):
    each, function = parts[net]
    if net and net not in shared:
      params = {name: params[prefix(net) + name] for name in each}
    return function(params, *args, **kw)

  return spec, apply


def prefix(net: str) -> str:
  """What the names of a net's parameters begin with."""
  return f"{net}:" if net else ""


def of_net(params: Mapping[str, Any], net: str) -> dict[str, Any]:
  """The parameters of one net, under their own names."""
  if not net:
    return {name: value for name, value in params.items() if ":" not in name}
  start = prefix(net)
  return {
    name.removeprefix(start): value
    for name, value in params.items()
    if name.startswith(start)
  }
