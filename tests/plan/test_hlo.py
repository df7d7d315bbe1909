# SPDX-License-Identifier: Apache-2.0
"""What is read out of a program is what XLA counts, loops and all.

Programs are compiled for CPU here; of TPUs' own notation there is a sample, and
tests/plan/test_aot.py compiles for them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from suti.parallel.mesh import make_mesh
from suti.plan.hlo import read_costs

X = jax.ShapeDtypeStruct((32, 64), jnp.float32)
W = jax.ShapeDtypeStruct((64, 64), jnp.float32)
PRODUCT = 2 * 32 * 64 * 64


def compiled(function, *arguments):
  return jax.jit(function).lower(*arguments).compile()


def costs(function, *arguments):
  return read_costs(compiled(function, *arguments).as_text())


def convolve(x, kernel, *, stride=1, dilation=1, groups=1):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((1, 1), (1, 1)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


@pytest.mark.parametrize("wrt", [None, 0, 1])
@pytest.mark.parametrize(
  "options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 4}]
)
def test_a_convolution_and_its_gradients_cost_what_xla_counts(options, wrt):
  """Padding, strides and dilations: products with nothing are not counted."""
  x = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32)
  groups = options.get("groups", 1)
  kernel = jax.ShapeDtypeStruct((3, 3, 8 // groups, 12), jnp.float32)

  def forward(x, kernel):
    return convolve(x, kernel, **options)

  def total(x, kernel):
    return forward(x, kernel).sum()

  program = compiled(
    forward if wrt is None else jax.grad(total, argnums=wrt), x, kernel
  )
  theirs = program.cost_analysis()["flops"]
  ours = read_costs(program.as_text()).flops
  # They count sums and broadcasts too, fewer than a hundredth of the products.
  assert 0.99 * theirs <= ours <= theirs


def test_a_loop_counts_as_often_as_it_runs():
  def scan(x, w):
    return lax.scan(lambda c, _: (c @ w, None), x, None, length=10)[0]

  def nested(x, w):
    return lax.fori_loop(0, 3, lambda _, c: scan(c, w), x)

  assert costs(lambda x, w: x @ w, X, W).flops == PRODUCT
  assert costs(scan, X, W).flops == 10 * PRODUCT
  assert costs(nested, X, W).flops == 30 * PRODUCT
  assert costs(nested, X, W).unknown_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_named():
  def until(x, w):
    return lax.while_loop(lambda c: c.sum() < 100.0, lambda c: c @ w, x)

  found = costs(until, X, W)
  assert found.flops == PRODUCT
  assert found.unknown_loops == 1


def test_a_loop_over_rows_reads_each_row_once():
  """Not the whole stack in every turn: experts lie stacked in memory."""
  stack = jax.ShapeDtypeStruct((50, 64, 64), jnp.float32)
  x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  found = costs(lambda s, x: lax.map(lambda w: w @ x, s), stack, x)
  assert found.flops == 50 * 2 * 64**3
  row = 64 * 64 * 4
  # A row, x and the result, and copies of them; the stack is 50 rows.
  assert 50 * 3 * row <= found.bytes < 50 * 10 * row


def test_reading_and_writing_is_counted_as_xla_counts_it():
  program = compiled(lambda x, w: jnp.tanh(x @ w) + 1, X, W)
  assert read_costs(program.as_text()).bytes == pytest.approx(
    program.cost_analysis()["bytes accessed"], rel=0.01
  )


@pytest.mark.parametrize(
  ("kind", "function", "moved"),
  [
    ("all-reduce", lambda x: lax.psum(x, "data"), 2 * 4 * 64 * 4),
    (
      "all-gather",
      lambda x: lax.all_gather(x, "data", tiled=True),
      8 * 4 * 64 * 4,
    ),
    (
      "collective-permute",
      lambda x: lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]),
      4 * 64 * 4,
    ),
  ],
)
def test_what_devices_send_each_other_is_named_and_measured(
  kind, function, moved
):
  mesh = make_mesh({"data": 8, "fsdp": 1})
  spread = jax.shard_map(
    function, mesh=mesh, in_specs=P("data"), out_specs=P("data"),
    check_vma=False,
  )  # fmt: skip
  found = costs(spread, X)
  assert found.num_collectives == {kind: 1}
  assert found.collectives == {kind: moved}

  def ten_times(x):
    return lax.fori_loop(0, 10, lambda _, c: spread(c)[:32], x)

  found = costs(ten_times, X)
  assert found.num_collectives[kind] == 10
  assert found.collectives[kind] == 10 * moved


# As a TPU's compiler writes: tiles, memories S(n) that are not HBM, copies that
# are started and waited for, cycles that it knows or does not know.
_TILES = "{1,0:T(8,128)(2,1)}"
_VMEM = "{1,0:T(8,128)(2,1)S(1)}"
_ESTIMATE = 'backend_config={"window_config":{"estimated_cycles":"%s"}}'
TPU = f"""\
HloModule jit_f, is_scheduled=true

%fused (p0: bf16[64,128], p1: bf16[128,32]) -> bf16[64,32] {{
  %p0 = bf16[64,128]{_VMEM} parameter(0)
  %p1 = bf16[128,32]{_TILES} parameter(1)
  ROOT %c = bf16[64,32]{_TILES} convolution(%p0, %p1), dim_labels=bf_io->bf
}}

ENTRY %main (a: bf16[64,128], b: bf16[128,32]) -> bf16[64,32] {{
  %a = bf16[64,128]{_TILES} parameter(0)
  %b = bf16[128,32]{_TILES} parameter(1)
  %start = (bf16[64,128]{_VMEM}, bf16[64,128]{_TILES}, u32[]) copy-start(%a)
  %done = bf16[64,128]{_VMEM} copy-done(%start)
  %f = bf16[64,32]{_TILES} fusion(%done, /*index=1*/%b), calls=%fused, \
{_ESTIMATE % 700}
  ROOT %n = bf16[64,32]{_TILES} negate(%f), {_ESTIMATE % (2**63 - 1)}
}}
"""


def test_the_notation_of_a_tpu_is_read():
  found = read_costs(TPU)
  assert found.flops == 2 * 64 * 128 * 32
  assert found.cycles == 700
  a, b, out = 64 * 128 * 2, 128 * 32 * 2, 64 * 32 * 2
  # `a` is read once, by the copy; the product is written, read, and negated.
  assert found.bytes == a + (b + out) + 2 * out
  assert not found.collectives


def test_costs_add_up():
  one = costs(lambda x, w: x @ w, X, W)
  assert (one + one).flops == one.times(2).flops == 2 * PRODUCT
  assert np.isclose((one + one).bytes, one.times(2).bytes)
