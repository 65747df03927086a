"""Estimates against published runs, and memory against what a compiler says."""

import jax
import jax.numpy as jnp
import pytest

from configs import plan, sizes
from llm_jax.losses import cross_entropy
from llm_jax.models import transformer
from llm_jax.parallel.chips import CHIPS, find_chip
from llm_jax.parallel.mesh import AXES, batch_sharding, make_mesh
from llm_jax.training import optimizer
from llm_jax.training.roofline import Layout, estimate, layouts
from llm_jax.training.step import abstract_state, compile_step

TX = optimizer.make(total_steps=10)[0]


def model_of(size, **changes):
  shape = sizes.model(size).to_dict() | changes
  shape.pop('name')
  return transformer.make(compute=sizes.compute(size), **shape)


def mesh_of(**axes):
  return {**dict.fromkeys(AXES, 1), **axes}


def best(model, chip, devices, batch, length):
  found = [
    estimate(model, TX, chip, one, batch=batch, length=length)
    for one in layouts(model, devices, batch)
  ]
  return min((e for e in found if e.fits), key=lambda e: e.step)


def test_llama_2_70b_took_1_72_million_hours():
  """arXiv:2307.09288, table 2: 2T tokens in batches of 4M on A100s of 80 GB."""
  model = model_of('70b', vocab_size=32000, rope_scaling=None, max_length=4096)
  assert model.num_params() == pytest.approx(69e9, rel=0.01)
  one = best(model, CHIPS['A100'], 2048, 1024, 4096)
  hours = 2e12 / (1024 * 4096) * one.step * 2048 / 3600
  assert hours == pytest.approx(1.72e6, rel=0.15)


def test_llama_3_405b_took_54_days():
  """arXiv:2407.21783, section 3.3: 15T tokens on 16,384 H100, in batches of 16M."""
  model = model_of('405b')
  one = best(model, CHIPS['H100'], 16384, 2048, 8192)
  days = 15e12 / (2048 * 8192) * one.step / 86400
  assert days == pytest.approx(54, rel=0.15)


def test_the_sketch_of_a_70b():
  """Of a public talk: 10 TB of text, 6,000 GPUs, 12 days, $2M, 140 GB of parameters."""
  model = model_of('70b', vocab_size=32000, rope_scaling=None, max_length=4096)
  assert 2 * model.num_params() == pytest.approx(140e9, rel=0.05)
  batch, devices = 1536, 6144  # of 6,000, no power of two could cut the matrices
  one = best(model, CHIPS['A100'], devices, batch, 4096)
  days = 2e12 / (batch * 4096) * one.step / 86400
  assert days == pytest.approx(12, rel=0.15)
  assert days * 24 * devices * 1.16 == pytest.approx(2e6, rel=0.15)  # its rate
  assert plan.get_config().bytes_per_token * 2e12 == pytest.approx(10e12, rel=0.15)


@pytest.mark.parametrize('axes', [dict(fsdp=8), dict(fsdp=2, tensor=4)], ids=str)
def test_what_is_held_is_what_the_compiler_counts(axes):
  model = transformer.make(vocab_size=512, dim=64, num_layers=2, num_heads=4)
  one = estimate(model, TX, CHIPS['H100'], Layout(mesh_of(**axes), 'none', 1), batch=8, length=64)
  mesh = make_mesh(**axes)
  with jax.set_mesh(mesh):
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = abstract_state(init, TX, mesh)
    loss_fn = lambda params, batch, rng: cross_entropy.loss_fn(params, batch, rng, model=model)
    kinds = dict(tokens=jnp.int32, mask=jnp.float32)
    batch = {
      k: jax.ShapeDtypeStruct((8, 64), kind, sharding=batch_sharding(mesh))
      for k, kind in kinds.items()
    }
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=TX, seed=0)
    compiled = step.lower(state, batch).compile()
  held = one.memory['parameters'] + one.memory['optimizer']
  assert compiled.memory_analysis().argument_size_in_bytes == pytest.approx(held, rel=0.05)


def test_what_is_smaller_is_slower():
  model = model_of('8b')
  run = lambda remat, accumulate: estimate(
    model, TX, CHIPS['H100'], Layout(mesh_of(fsdp=64), remat, accumulate), batch=1024, length=4096
  )
  total = lambda e: sum(e.memory.values())
  for fast, small in (('none', 'dots'), ('dots', 'attention'), ('attention', 'full')):
    assert total(run(small, 4)) < total(run(fast, 4))
    assert run(small, 4).step >= run(fast, 4).step
  assert run('none', 16).memory['activations'] == run('none', 4).memory['activations'] / 4
  assert not run('none', 1).fits and run('full', 16).fits


def test_a_search_uses_all_devices_and_rows():
  model = model_of('1b')
  found = list(layouts(model, 32, 48))
  assert found
  for one in found:
    assert 48 % (one.mesh['data'] * one.mesh['fsdp'] * one.accumulate) == 0
    product = 1
    for size in one.mesh.values():
      product *= size
    assert product == 32
  assert {one.mesh['tensor'] for one in found} >= {2, 4, 8}


@pytest.mark.parametrize(
  ('kind', 'name'),
  [
    ('NVIDIA H200', 'H200'),
    ('NVIDIA H100 80GB HBM3', 'H100'),
    ('TPU v5 lite', 'TPU v5 lite'),
    ('TPU v6 lite', 'TPU v6'),
  ],
)
def test_chips_by_the_names_that_jax_gives(kind, name):
  assert find_chip(kind) == CHIPS[name]
  assert find_chip('cpu') is None


def test_what_crosses_the_network_is_slow():
  # Gradients alone cross between slices where `data` is cut over them, and weights where fsdp is.
  model, chip = model_of('8b'), CHIPS['TPU v5p']
  run = lambda slices, **axes: estimate(
    model, TX, chip, Layout(mesh_of(**axes), 'full', 1), batch=512, length=4096, slices=slices
  )
  one, two = run(1, data=2, fsdp=64), run(2, data=2, fsdp=64)
  moved = 2 * 4 * model.num_params() / 64 / 2
  slower = two.seconds['communication'] - one.seconds['communication']
  assert slower == pytest.approx(moved / chip.network - moved / chip.link, rel=0.01)
  assert one.memory == two.memory
  # A ring through both of two slices of 8 chips crosses over the ports of 8.
  ring = run(2, fsdp=16).seconds['communication'] / run(1, fsdp=16).seconds['communication']
  assert ring == pytest.approx(chip.link / (8 * chip.network), rel=0.01)


def test_a_search_cuts_experts():
  model = model_of('1b', experts=dict(count=8, per_token=2))
  found = list(layouts(model, 32, 64))
  assert {one.mesh['expert'] for one in found} == {1, 2, 4, 8}
  assert all(
    64 % (one.mesh['data'] * one.mesh['fsdp'] * one.mesh['expert'] * one.accumulate) == 0
    for one in found
  )
  plain = [one for one in layouts(model_of('1b'), 32, 64) if one.mesh['expert'] > 1]
  assert not plain
  run = lambda **axes: estimate(
    model, TX, CHIPS['H100'], Layout(mesh_of(**axes), 'none', 1), batch=64, length=4096
  )
  # Experts that stay where they are need not be gathered; their tokens need room instead.
  assert run(fsdp=4, expert=8).memory['gathered'] < run(fsdp=32).memory['gathered']
  assert run(fsdp=4, expert=8).memory['activations'] > run(fsdp=32).memory['activations']
