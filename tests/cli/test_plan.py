# SPDX-License-Identifier: Apache-2.0
"""`suti plan` on the devices of this machine, in the place of a slice's.

What it compiles is what the stages run. That TPUs' compiler takes it is
tests/plan/test_aot.py's.
"""

import importlib.util
import json
import types

import jax
import pytest

import apprentice.programs
import experts.farm.programs
from configs import quickstart
from suti.cli import plan_stages, plan_table
from suti.plan import preflight
from suti.plan.chips import parse_topology
from suti.plan.estimate import Assumptions
from suti.plan.hlo import Costs
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
    "--config.mesh.data=4",
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


def test_a_report_that_other_code_has_read_is_not_taken(tmp_path, monkeypatch):
  topology = parse_topology("v5e:2x2")
  before = preflight._hash("program", topology, 0.0)
  assert before == preflight._hash("program", topology, 0.0)
  (tmp_path / "hlo.py").write_text("# another")
  monkeypatch.setattr(preflight.hlo, "__file__", str(tmp_path / "hlo.py"))
  assert before != preflight._hash("program", topology, 0.0)


def test_mistakes_are_one_line(command, capsys, monkeypatch, tmp_path):
  def said(*more, leave=()):
    kept = [x for x in command if not x.startswith(tuple(leave))]
    return error_of(capsys, *kept, *more)

  assert said("--topology=v5e:9", leave=["--topology"]).startswith(
    "Error: --topology=v5e:9: a slice of v5e is v5e:AxB"
  )
  assert "--topology" in said(leave=["--topology"])
  assert "--config is missing" in said(leave=["--config"])
  assert said("--subjects=0") == "Error: --subjects=0: expected 1 or more."
  assert "config.plan.share_of_peak=2.0: expected a number above 0" in said(
    "--config.plan.share_of_peak=2"
  )
  assert "Unexpected argument 'more'" in said("more")
  assert said("--config.size_px=64").endswith(
    "makes pictures of 16 px: set config.size_px=16."
  )
  with monkeypatch.context() as patch:
    patch.setattr(preflight, "inspect", None)  # would fail if called
    assert said(f"--json={tmp_path}") == (
      f"Error: --json={tmp_path} is a folder: give the name of a file."
    )


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
  assert (
    "backbone: models/imagen64 is not here; what config.plan.backbone describes"
  ) in said


def test_a_model_that_is_here_is_planned_whatever_the_config_describes(
  root, capsys, monkeypatch
):
  monkeypatch.setattr(preflight, "devices", lambda _: jax.devices()[:1])
  monkeypatch.setattr(
    preflight,
    "inspect",
    lambda *_, **__: preflight.Report(costs=Costs(bytes=1)),
  )
  config = f"--config={root / 'configs/experts/lora_sd15.py'}"
  command = (
    "plan",
    config,
    "--topology=v5e:1x1",
    "--config.backbone=world_base",
  )
  assert error_of(capsys, *command).endswith(
    "makes pictures of 64 px: set config.size_px=64."
  )
  assert start(*command, "--config.size_px=64") == 0
  said = capsys.readouterr().out
  assert "backbone: world_base\n" in said
  assert "860M" not in said


@pytest.fixture
def planned(command, tmp_path, monkeypatch):
  """The rows of a plan by stage: an expert takes a tenth of a chip's room.

  As much is taken by what experts share, and a picture needs half of it.
  """
  room = parse_topology("v5e:2x2").chip.program_bytes

  def inspect(program, topology, **_):
    return preflight.Report(
      total_bytes=room * (program.batch_size // 4 + 1) // 10,
      costs=Costs(bytes=1e9),
    )

  def rows(*arguments):
    out = tmp_path / "plan.json"
    assert start(*command, *arguments, f"--json={out}") == 0
    return {row["stage"]: row for row in json.loads(out.read_text())["stages"]}

  monkeypatch.setattr(preflight, "inspect", inspect)
  return rows


ONLY = "--config.plan.stages=('{}',)"


def test_search_finds_what_a_run_would_choose(planned):
  """Which leaves a tenth of the room."""
  only = (ONLY.format("finetune"), "--config.sample.batch_size=1")
  assert planned(*only, "--search")["experts.finetune"]["per_device"] == 8
  auto = "--config.finetune.experts_per_device=auto"
  row = planned(*only, auto)["experts.finetune"]
  assert (row["per_device"], row["fits"]) == (8, True)
  few = planned(*only, auto, "--subjects=10")["experts.finetune"]
  assert few["per_device"] == 3


def test_what_is_sampled_after_tuning_must_fit(planned):
  """Eight pictures an expert are eight times what tuning it takes."""
  only = ONLY.format("finetune"), "--config.finetune.experts_per_device=auto"
  for together, num in ((True, 1), (False, 8)):
    row = planned(*only, f"--config.finetune.sample_after_tuning={together}")
    assert row["experts.finetune"]["per_device"] == num


def test_experts_are_drawn_as_many_together_as_they_are_tuned(planned):
  both = "--config.plan.stages=('finetune','sample')"
  small = "--config.sample.batch_size=1"
  auto = "--config.finetune.experts_per_device=auto"
  for arguments in (
    (both, auto),
    (both, "--search"),
    (auto, ONLY.format("sample")),
  ):
    row = planned(small, *arguments)["experts.sample"]
    assert (row["per_device"], row["batch_size"]) == (8, 32)


def test_experts_run_as_they_would_where_that_is_left_to_the_machine(
  planned, monkeypatch
):
  """Of six a device, one after the other is less: of three it is not needed.

  Drawn later, those three are more as well, if each draws four pictures.
  """
  asked = []
  make = experts.farm.programs.sample

  def recorded(config, *args, **kw):
    asked.append(config.finetune.inner)
    return make(config, *args, **kw)

  monkeypatch.setattr(experts.farm.programs, "sample", recorded)
  for num, pictures, inner in ((12, 1, "vmap"), (36, 1, "map"), (12, 4, "map")):
    for together in (True, False):
      planned(
        ONLY.format("sample"),
        "--config.finetune.inner=auto",
        f"--config.finetune.experts_per_wave={num}",
        f"--config.finetune.sample_after_tuning={together}",
        f"--config.sample.batch_size={pictures}",
      )
      assert asked.pop() == inner


@pytest.mark.parametrize(
  ("arguments", "remedy"),
  [
    ((ONLY.format("finetune"),), "--search finds what does."),
    (
      (ONLY.format("finetune"), "--config.finetune.experts_per_wave=4"),
      "set config.finetune.remat=True or dtype and master_dtype to 'bfloat16',",
    ),
    ((ONLY.format("finetune"), "--search"), "set config.finetune.remat=True"),
    (
      (ONLY.format("sample"),),
      "lower config.sample.batch_size, or tune fewer experts together, config.",
    ),
    (
      (ONLY.format("filter"), "--search"),
      "give a smaller judge as config.identity.",
    ),
    (
      (ONLY.format("train"), "--search"),
      "split its parameters over more chips, config.mesh.fsdp.",
    ),
  ],
)
def test_what_to_do_where_a_stage_does_not_fit(
  command, capsys, monkeypatch, arguments, remedy
):
  monkeypatch.setattr(
    preflight,
    "inspect",
    lambda *_, **__: preflight.Report(total_bytes=2**40, too_large="no"),
  )
  more = "--config.finetune.experts_per_wave=8"
  assert start(*command, more, *arguments) == 0
  said = capsys.readouterr().out
  assert f"GiB of 15.75; {remedy}" in said or f"GiB of 14.17; {remedy}" in said
  assert ("--search" in said) == (remedy == "--search finds what does.")


def test_each_host_tunes_its_own_experts_and_one_draws_the_benchmark(
  command, monkeypatch, tmp_path
):
  """Two hosts of four: training alone takes the devices of both."""
  meshes = {}

  def record(stage):
    def make(config, backbone, mesh, *, per_device):
      meshes[stage] = (mesh.size, per_device)
      return preflight.Program(
        function=None, arguments=(), num_parameters=1, subjects=8, batch_size=8
      )

    return make

  for programs, stage in (
    (experts.farm.programs, "finetune"),
    (experts.farm.programs, "sample"),
    (apprentice.programs, "train"),
    (apprentice.programs, "sample"),
  ):
    name = f"{programs.__name__.split('.')[0]}.{stage}"
    monkeypatch.setattr(programs, stage, record(name))

  def fake(devices):
    return types.SimpleNamespace(size=len(devices))

  monkeypatch.setattr(plan_stages, "flat_mesh", fake)
  monkeypatch.setattr(
    plan_stages, "make_mesh", lambda _, devices: fake(devices)
  )
  monkeypatch.setattr(
    preflight,
    "devices",
    lambda _: [types.SimpleNamespace(process_index=n // 4) for n in range(8)],
  )
  monkeypatch.setattr(
    preflight,
    "inspect",
    lambda *_, **__: preflight.Report(costs=Costs(bytes=1)),
  )
  out = tmp_path / "plan.json"
  assert (
    start(
      *command,
      "--topology=v5e:2x4",
      "--config.finetune.experts_per_wave=16",
      "--config.plan.stages=('finetune','sample','train','apprentice_sample')",
      f"--json={out}",
    )
    == 0
  )
  assert meshes == {
    "experts.finetune": (4, 4),
    "experts.sample": (4, 4),
    "apprentice.train": (8, 2),
    "apprentice.sample": (4, 2),
  }
  rows = json.loads(out.read_text())["stages"]
  assert [row["replicas"] for row in rows] == [2, 2, 1, 1]


@pytest.mark.parametrize(
  ("text", "num_bytes"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 41.25G "
      "of 30.75G hbm. Exceeded hbm capacity by 10.50G.",
      41.25 * 2**30,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (384.00G) exceeds available HBM (15.75G).",
      384 * 2**30,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.00M "
      "of 16.00M vmem. Exceeded vmem capacity by 4.00M.",
      None,
    ),
    ("RESOURCE_EXHAUSTED: of something else", None),
    ("INTERNAL: Used 41.25G of 30.75G hbm", None),
  ],
)
def test_only_a_devices_memory_makes_a_program_too_large(text, num_bytes):
  class Lowered:
    def compile(self, **_):
      raise jax.errors.JaxRuntimeError(text)

    def lower(self):
      return self

  program = preflight.Program(
    function=Lowered(), arguments=(), num_parameters=0, batch_size=1
  )
  if num_bytes is None:
    with pytest.raises(jax.errors.JaxRuntimeError):
      preflight._compile(Lowered(), 0.0)
    with pytest.raises(jax.errors.JaxRuntimeError):
      preflight.total_bytes(program)
    return
  report = preflight._compile(Lowered(), 0.0)
  assert report.total_bytes == preflight.total_bytes(program) == num_bytes
  assert report.too_large == text


def test_long_work_is_told_in_days():
  row = {
    "stage": "experts.finetune",
    "batch_size": 4,
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
  text = plan_table.table([], [row], parse_topology("v4:2x2x1"), assumed)
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
