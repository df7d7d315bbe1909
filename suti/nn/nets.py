# SPDX-License-Identifier: Apache-2.0
"""Several declared nets as one: one dict of parameters, one function.

A teacher or a method may bring nets beside the backbone's. Parameters of the
first net, whose name is "", keep their names; those of another are "NET:name".
"""

from collections.abc import Callable, Mapping
from typing import Any

from suti.nn.param import Module, Param, functional

Nets = Module | Mapping[str, Module]


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
  parts = {net: functional(module) for net, module in nets.items()}
  spec = {
    prefix(net) + name: param
    for net, (each, _) in parts.items()
    for name, param in each.items()
  }

  def apply(params: Mapping[str, Any], *args: Any, net: str = "", **kw: Any):
    each, function = parts[net]
    if net:
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
