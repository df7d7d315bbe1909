# SPDX-License-Identifier: Apache-2.0
"""`suti plan` on the devices of this machine, in the place of a slice's.

What it compiles is what the stages run. That TPUs' compiler takes it is
tests/parallel/test_aot.py's.
"""

import importlib.util
import json

import jax
import pytest

from configs import quickstart
from suti.cli import plan_table
from suti.parallel import preflight
from suti.parallel.chips import parse_topology
from suti.parallel.estimate import Assumptions
from suti.parallel.hlo import Costs
from tests.commands import error_of, start


@pytest.fixture
def command(root, monkeypatch, tmp_path, tiny_backbone, tiny_clip):
  """`suti plan` of the tiny models, on four CPU devices as a v5e:2x2."""
  monkeypatch.setattr(preflight, "devices", lambda _: jax.devices()[:4])
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
  return (
    "plan",
    f"--config={root / 'configs/quickstart.py'}",
    "--topology=v5e:2x2",
    f"--config.backbone={tiny_backbone}",
    f"--config.clip={tiny_clip}",
    f"--config.identity={tiny_clip}",
    "--config.size_px=16",
    "--config.mesh.expert=4",
  )


def test_a_plan_of_judges_is_a_table_and_a_file(command, capsys, tmp_path):
  out = tmp_path / "plan.json"
  price = "--config.plan.price_per_chip_hour.v5e=1.5"
  only = "--config.plan.stages=('filter',)"
  assert start(*command, only, price, "--json", out, "--subjects=500") == 0
  said = capsys.readouterr().out
  assert "v5e:2x2: 4 chips" in said
  assert "500 subjects in" in said
  assert "An estimate" in said
  plan = json.loads(out.read_text())
  clip, identity = plan["stages"]
  assert clip["fits"] and clip["flops"] > 0 and clip["argument_bytes"] > 0
  assert clip["cost"] == pytest.approx(1.5 * clip["chip_hours"])
  assert identity["stage"] == "experts.filter identity"


def test_a_program_is_compiled_once(command, capsys, monkeypatch):
  only = "--config.plan.stages=('filter',)"
  assert start(*command, only) == 0
  first = capsys.readouterr().out
  monkeypatch.setattr(preflight, "_compile", None)  # would fail if called
  assert start(*command, only) == 0
  assert capsys.readouterr().out == first


def test_mistakes_are_one_line(command, capsys):
  def said(*more, leave=()):
    kept = [x for x in command if not x.startswith(tuple(leave))]
    return error_of(capsys, *kept, *more)

  assert said("--topology=v5e:9", leave=["--topology"]).startswith(
    "Error: --topology=v5e:9: a slice of v5e is v5e:AxB"
  )
  assert "--topology" in said(leave=["--topology"])
  assert "--config is missing" in said(leave=["--config"])
  assert said("--subjects=0") == "Error: --subjects=0: expected 1 or more."
  assert "config.finetune.experts_per_wave=6 is not divisible by" in said(
    "--config.finetune.experts_per_wave=6"
  )
  assert "config.plan.share_of_peak=2.0: expected a number above 0" in said(
    "--config.plan.share_of_peak=2"
  )
  assert "Unexpected argument 'more'" in said("more")


def test_without_libtpu_it_says_what_to_install(root, capsys, monkeypatch):
  known = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *more: None if name == "libtpu" else known(name, *more),
  )
  config = f"--config={root / 'configs/quickstart.py'}"
  assert error_of(capsys, "plan", config, "--topology=v4:2x2x1") == (
    "Error: suti plan compiles with libtpu, which is not installed: pip install"
    " 'suti-jax[tpu]' (from a checkout: pip install -e '.[tpu]')."
  )


def test_data_need_not_be_there(root, capsys, monkeypatch):
  """Neither the table nor the models of the paper's config."""
  monkeypatch.setattr(preflight, "devices", lambda _: jax.devices()[:4])

  def inspect(program, topology, **_):
    return preflight.Report(
      argument_bytes=program.num_parameters, costs=Costs(bytes=1e9)
    )

  monkeypatch.setattr(preflight, "inspect", inspect)
  config = f"--config={root / 'configs/experts/suti_imagen64.py'}"
  assert start("plan", config, "--topology=v4:2x2x1") == 0
  said = capsys.readouterr().out
  assert "2.13G" in said and "1,800,000 subjects" in said


def test_search_finds_what_fits(command, capsys, monkeypatch):
  room = parse_topology("v5e:2x2").chip.program_bytes

  def inspect(program, topology, **_):
    # A fixed part, and a tenth of the room for each expert of a device.
    return preflight.Report(
      temp_bytes=room * (program.at_once // 4 + 1) // 10,
      costs=Costs(bytes=1e9),
    )

  monkeypatch.setattr(preflight, "inspect", inspect)
  only = "--config.plan.stages=('finetune',)"
  assert start(*command, only, "--search") == 0
  line = capsys.readouterr().out.split("experts.finetune")[1]
  assert line.split()[0] == "9"
  assert start(*command, only, "--config.finetune.experts_per_wave=80") == 0
  assert "does not fit" in capsys.readouterr().out


def test_long_work_is_told_in_days():
  row = {
    "stage": "experts.finetune",
    "at_once": 4,
    "per_device": 1,
    "parameters": 2_100_000_000,
    "fits": True,
    **dict.fromkeys(
      ("argument_bytes", "output_bytes", "alias_bytes", "temp_bytes"), 2**30
    ),
    "total_bytes": 2**31,
    "flops": 1e12,
    "hbm_bytes": 1e9,
    "collective_bytes": {},
    "collectives": {},
    "unknown_loops": 0,
    "least_seconds": 0.1,
    "seconds": 0.2,
    "limit": "memory",
    "share_of_peak": 0.25,
    "calls": 500,
    "hours": 240.0,
    "chip_hours": 69_999.2,
    "cost": None,
    "subjects_per_chip_hour": 30.0,
    "most_per_chip_hour": 60.0,
  }
  assumed = Assumptions(share_of_peak=0.4, num_subjects=28_800, price=None)
  text = plan_table.table([row], parse_topology("v4:2x2x1"), assumed)
  assert "28,800 subjects in 10 days" in text
  assert "30 experts a chip-hour, 60 at most" in text
  assert "69,999 chip-hours" in text
  assert "no chip sends another anything" in text
  assert "cost" not in text
  assert all(len(line) < 160 for line in text.splitlines())


def test_the_quickstarts_plan_names_every_stage():
  assert set(quickstart.get_config().plan.stages) == {
    "finetune",
    "sample",
    "filter",
    "train",
    "apprentice_sample",
  }
