"""What is read off a compiled program; and that the train step's devices say what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.losses import cross_entropy
from llm_jax.models import transformer
from llm_jax.parallel.collectives import Collective, collectives
from llm_jax.parallel.mesh import batch_sharding, make_mesh
from llm_jax.training import optimizer
from llm_jax.training.step import abstract_state, compile_step

SHAPE = dict(
  vocab_size=1024, dim=256, num_layers=4, num_heads=8, hidden_dim=512, max_length=256, head='untied'
)
ROWS, LENGTH = 16, 128


def test_what_a_program_says_by_hand():
  mesh = make_mesh(fsdp=8)
  place = lambda *axes: NamedSharding(mesh, P(*axes))
  whole = lambda w: jax.lax.with_sharding_constraint(w, place())

  def run(x, weights):
    body = lambda x, w: (jnp.tanh(x @ whole(w)), None)
    return jax.lax.scan(body, x, weights)[0].sum()

  args = (
    jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=place('fsdp')),
    jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=place(None, 'fsdp')),
  )
  found = collectives(jax.jit(run).lower(*args).compile().as_text())
  (gather,) = [c for c in found if c.kind == 'all-gather']
  (total,) = [c for c in found if c.kind == 'all-reduce']
  assert (gather.bytes, gather.times, gather.devices) == (64 * 64 * 4, 5, 8)
  assert (total.bytes, total.times, total.devices) == (4, 1, 8)
  assert gather.moved == 5 * 64 * 64 * 4 * 7 / 8


@pytest.mark.parametrize(
  ('groups', 'devices'),
  [
    ('replica_groups={{0,1,2,3},{4,5,6,7}}', 4),
    ('replica_groups=[4,2]<=[8]', 2),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
    ('replica_groups={}', 16),
  ],
)
@pytest.mark.parametrize(
  ('result', 'name', 'size'),
  [
    ('f32[4,8]{1,0}', 'all-gather', 128),
    ('(bf16[2,8]{1,0}, bf16[4,8]{1,0})', 'all-gather-start', 64),
    ('(f32[4]{0}, f32[2]{0})', 'all-reduce', 24),
    ('((f32[4000]{0}), f32[1000]{0:T(8,128)})', 'reduce-scatter-start', 4000),
    ('((f32[4000]{0}), f32[4000]{0})', 'all-to-all-start', 16000),
    ('((f32[900]{0}, f32[9]{0}), (f32[1800]{0}, f32[18]{0}))', 'all-gather-start', 7272),
    ('((s8[9], s8[2]), (s8[9], s8[2]), u32[], u32[])', 'collective-permute-start', 11),
    ('(s4[4001], f8e4m3b11fnuz[7])', 'all-gather', 2008),
  ],
)
def test_notations(groups, devices, result, name, size):
  text = (
    'HloModule jit_f, is_scheduled=true, num_partitions=8, replica_count=2\n\n'
    'ENTRY %main (x: f32[2]) -> f32[4] {\n'
    f'  %y = {result} {name}(%x), {groups}, metadata={{op_name="jit(f)/add"}}\n}}\n'
  )
  kind = name.removesuffix('-start')
  assert collectives(text) == [Collective(kind, size, 1, devices, 'jit(f)/add')]


def test_bytes_that_move():
  moved = lambda kind: Collective(kind, 800, 3, 8, '').moved
  assert moved('all-gather') == 3 * 700
  assert moved('all-reduce') == 3 * 1400
  assert moved('reduce-scatter') == 3 * 8 * 700
  assert moved('collective-permute') == 3 * 800


def step_of(mesh_axes, **options):
  """Collectives of the compiled train step, and the model."""
  model = transformer.make(**SHAPE | options)
  mesh = make_mesh(**mesh_axes)
  with jax.set_mesh(mesh):
    tx, _ = optimizer.make(total_steps=10)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = abstract_state(init, tx, mesh)
    loss_fn = lambda params, batch, rng: cross_entropy.loss_fn(params, batch, rng, model=model)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0)
    place = batch_sharding(mesh)
    kinds = dict(tokens=jnp.int32, position=jnp.int32, segment=jnp.int32, mask=jnp.float32)
    batch = {
      k: jax.ShapeDtypeStruct((ROWS, LENGTH), kind, sharding=place) for k, kind in kinds.items()
    }
    return collectives(step.lower(state, batch).compile().as_text()), model


def layer_bytes():
  attention, mlp = 4 * 256 * 256, 3 * 256 * 512
  return 4 * (attention + mlp)


def test_data_parallel_devices_only_add_up():
  found, model = step_of(dict(data=8))
  assert {c.kind for c in found} == {'all-reduce'}
  assert sum(c.times * c.bytes for c in found) == pytest.approx(4 * model.num_params(), rel=0.01)


def test_fsdp_gathers_a_layer_at_a_time():
  found, _ = step_of(dict(fsdp=8))
  assert {c.kind for c in found} <= {'all-gather', 'reduce-scatter', 'all-reduce'}
  table = 4 * 256 * 1024
  gathers = [c for c in found if c.kind == 'all-gather']
  assert max(c.bytes for c in gathers) <= table
  in_loop = sum(c.bytes * c.times for c in gathers if c.times == SHAPE['num_layers'])
  # Forward and backward, every layer; outside of the loop the embedding and the head.
  assert in_loop == 2 * SHAPE['num_layers'] * layer_bytes()
  assert sum(c.bytes for c in gathers if c.times == 1) <= 2 * table


@pytest.mark.parametrize('axes', [dict(tensor=8), dict(fsdp=2, tensor=4)], ids=str)
def test_tensor_parallel_devices_add_up_activations(axes):
  found, _ = step_of(axes)
  assert not {'all-to-all', 'collective-permute'} & {c.kind for c in found}
  activations = 4 * ROWS * LENGTH * 256 // axes.get('fsdp', 1)
  layers = SHAPE['num_layers']
  sums = [c for c in found if c.times == layers and c.devices == axes['tensor']]
  # Forward after attention and MLP; backward before them, which would be two as well if the parts
  # of query, key and value, and of gate and up, were added up before and not after.
  assert {c.kind for c in sums} == {'all-reduce'}
  assert sum(c.bytes for c in sums) <= 1.01 * (2 + 5) * activations


def test_a_sequence_is_exchanged_for_heads():
  found, _ = step_of(dict(fsdp=2, sequence=4))
  swaps = [c for c in found if c.kind == 'all-to-all' and c.times == SHAPE['num_layers']]
  part = 4 * ROWS // 2 * LENGTH * 256 // 4  # of a device
  # Queries, keys, values and the output, forward and backward.
  assert [(c.bytes, c.times, c.devices) for c in swaps] == [(part, SHAPE['num_layers'], 4)] * 8
  gathers = [c for c in found if c.kind == 'all-gather' and c.times == SHAPE['num_layers']]
  assert {c.devices for c in gathers} == {2}  # weights, over fsdp; no activations
  assert sum(c.bytes for c in gathers) == 2 * layer_bytes()


@pytest.mark.parametrize('axes', [dict(fsdp=8), dict(fsdp=2, tensor=2, sequence=2)], ids=str)
def test_no_large_array_is_replicated(axes):
  model = transformer.make(**SHAPE)
  mesh = make_mesh(**axes)
  tx, _ = optimizer.make(total_steps=10)
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  for leaf in jax.tree.leaves(abstract_state(init, tx, mesh)):
    size = int(np.prod(leaf.shape))
    held = int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
    cut = mesh.shape['fsdp'] * mesh.shape['tensor']
    assert size < 2**12 or held * cut == size


def test_a_tpu_program_tells_the_length_of_a_loop_by_its_condition_and_may_hold_other_text():
  text = """%cond.1 (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %n = s32[]{:T(128)} constant(32)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body.1 (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %k = f32[8]{0} custom-call(%x), frontend_attributes={kernel_metadata={
"block": "1024"
}}, metadata={op_name="a kernel that brings text of its own"}
  %p = (f32[8], f32[8], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %u = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%u), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%j, %one)
  ROOT %both = (s32[]{:T(128)}, f32[8]{0}) tuple(%next, %k)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %zero = s32[]{:T(128)} constant(0)
  %t = (s32[]{:T(128)}, f32[8]{0}) tuple(%zero, %x)
  %w = (s32[], f32[8]{0}) while(%t), condition=%cond.1, body=%body.1
}
"""
  assert collectives(text) == [Collective('collective-permute', 32, 32, 2, '')]


def test_a_tpu_program_writes_a_reduce_scatter_as_a_sum_of_which_a_part_is_taken():
  text = """%all-reduce-scatter.1 (input: f32[32]) -> f32[8] {
  %all-reduce = f32[32]{0} all-reduce(%input), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %part = f32[8]{0} dynamic-slice(%all-reduce, %number), dynamic_slice_sizes={8}
}

ENTRY %main (x: f32[32]) -> f32[8] {
  %f = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
  (one,) = collectives(text)
  assert one == Collective('reduce-scatter', 32, 1, 4, '')
  assert one.moved == 4 * 32 * 3 / 4


def test_what_is_sent_during_products_is_counted_as_often_as_it_begins():
  gather = '%g = bf16[64]{0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}'
  gather += ', frontend_attributes={chain_id="0"}'
  fused = lambda name: f'%{name} (p: bf16[16]) -> bf16[64] {{\n  {gather}\n}}\n\n'
  text = f"""{fused('first')}{fused('step.1')}{fused('last')}%cond (s: (u32[], f32[8])) -> pred[] {{
  %s = (u32[], f32[8]) parameter(0)
  %i = u32[] get-tuple-element(%s), index=0
  %n = u32[] constant(16)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}}

%inner (p.2: bf16[64]) -> bf16[64] {{
  %p.2 = bf16[64] parameter(0)
  ROOT %b = bf16[64] fusion(%p.2), kind=kOutput, calls=%step.1
}}

%body (t: (u32[], f32[8])) -> (u32[], f32[8]) {{
  %t = (u32[], f32[8]) parameter(0)
  %j = u32[] get-tuple-element(%t), index=0
  %two = u32[] constant(2)
  %k = u32[] add(%j, %two)
  %x = f32[8] get-tuple-element(%t), index=1
  %a = bf16[64] fusion(%x), kind=kCustom, calls=%first
  %d = bf16[64] while(%a), body=%inner, backend_config={{"known_trip_count":{{"n":"4"}}}}
  %c = bf16[64] fusion(%d), kind=kCustom, calls=%last
  %e = bf16[64] all-gather(%x), channel_id=1, replica_groups={{{{0,1,2,3}}}}
  ROOT %u = (u32[], f32[8]) tuple(%k, %x)
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8] parameter(0)
  %o = u32[] constant(0)
  %v = (u32[], f32[8]) tuple(%o, %x)
  %w = (u32[], f32[8]) while(%v), condition=%cond, body=%body
  ROOT %r = f32[8] get-tuple-element(%w), index=1
}}
"""
  assert collectives(text) == [Collective('all-gather', 128, 8, 4, '')] * 2
