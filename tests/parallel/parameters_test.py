"""Every parameter has exactly one row of facts, and from it its place; no matrix is left whole."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from llm_jax.compress.walk import planned
from llm_jax.models import actor_critic, lora, transformer
from llm_jax.models.compressed import Compressed
from llm_jax.models.weights import Form
from llm_jax.parallel.mesh import make_mesh
from llm_jax.parallel.parameters import (
  PARAMETERS,
  Parameter,
  facts_of,
  path_of,
  shardings,
  state_shardings,
)
from llm_jax.types import BadInput

VARIANTS = {
  'llama': dict(num_kv_heads=2),
  'gpt2': dict(norm='layer', mlp='gelu', position='learned', bias=True),
  'qwen2': dict(qkv_bias=True),
  'qwen3': dict(qk_norm=True, head_dim=4),
  'untied': dict(head='untied'),
  'reward': dict(head='scalar'),
  'classifier': dict(head='classes', classes=('no', 'yes')),
  'masked': dict(causal=False),
  'unrolled': dict(compute=dict(scan_layers=False)),
  'experts': dict(experts=dict(count=4, balance='bias')),
  'gpt-oss': dict(sinks=True, out_bias=True, experts=dict(count=4, bias=True, clamp=7.0)),
  'deepseek': dict(
    head_dim=8,
    rope_dim=4,
    latent=dict(kv_rank=8, q_rank=8),
    experts=dict(count=4, balance='bias'),
    dense_layers=1,
    dense_dim=64,
  ),
  'shared': dict(experts=dict(count=4, shared_dim=8, shared_gate=True)),
  'biases': dict(mlp_bias=True, qk_norm='wide', pre_norm=False, post_norm=True),
}


def shapes_of(**changes):
  shape = {'vocab_size': 64, 'dim': 16, 'num_layers': 2, 'num_heads': 4, 'max_length': 32}
  model = transformer.make(**shape | changes)
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def flat(tree):
  return {path_of(k): leaf for k, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def adapted():
  """Parameters of a model with low-rank additions wherever there may be some."""
  targets = r'blocks/(attention/[qkvo]|mlp/(gate|up|down))$|head/kernel$'
  shape = {'vocab_size': 64, 'dim': 16, 'num_layers': 2, 'num_heads': 4, 'head': 'untied'}
  model = lora.wrap(transformer.make(**shape), rank=4, targets=targets)
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def test_additions_are_cut_along_the_axis_they_share():
  placed = flat(shardings(adapted(), make_mesh(fsdp=2, tensor=2)))
  for path, leaf in flat(adapted()).items():
    if path.startswith('lora/'):
      assert math.prod(leaf.shape) // math.prod(placed[path].shard_shape(leaf.shape)) == 2, path


def in_few_bits(**changes):
  """Parameters of a model whose matrices, embedding and head are stored in few bits."""
  base = transformer.make(
    vocab_size=64, dim=16, num_layers=2, num_heads=4, head='untied', **changes
  )
  forms = planned(base, Form('int4', 8, zero=True), tables=('embedding', 'head'))
  model = Compressed(base, tuple(forms.items()))
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


FEW_BITS = (
  {},
  VARIANTS['shared'],
  dict(head_dim=8, rope_dim=4, latent=dict(kv_rank=8, q_rank=8)),
)


@pytest.mark.parametrize('changes', FEW_BITS)
def test_codes_are_cut_like_the_weights_that_they_stand_for(changes):
  shapes = in_few_bits(**changes)
  placed = flat(shardings(shapes, make_mesh(fsdp=2, tensor=2)))
  for path, leaf in flat(shapes).items():
    if path.endswith('codes'):
      cut = math.prod(leaf.shape) // math.prod(placed[path].shard_shape(leaf.shape))
      assert cut == (2 if '_a/' in path else 4), path


def halves():
  """Parameters of a policy and its critic."""
  shape = {'vocab_size': 64, 'dim': 16, 'num_layers': 2, 'num_heads': 4}
  model = actor_critic.make(policy=shape, critic=shape)
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def test_every_parameter_has_exactly_one_row_and_every_row_a_parameter():
  zoo = [flat(shapes_of(**options)) for options in VARIANTS.values()]
  found = set()
  zoo += [flat(in_few_bits(**changes)) for changes in FEW_BITS]
  for path, leaf in (
    item for tree in (*zoo, flat(adapted()), flat(halves())) for item in tree.items()
  ):
    rows = [row for row in PARAMETERS if re.search(row.pattern, path)]
    assert rows == [facts_of(path)], path
    facts = rows[0]
    assert len(facts.axes) <= leaf.ndim, path
    stacked, inputs, outputs = facts.split(leaf.shape)
    assert stacked + inputs + outputs == leaf.shape and len(outputs) <= 2
    assert not facts.inputs or (inputs and outputs), path
    assert (facts.stacked > 0) == ('blocks/' in path)
    found.add(facts)
  assert found == {*PARAMETERS}


def test_what_is_decayed_exact_or_low_rank():
  for options in VARIANTS.values():
    for path in flat(shapes_of(**options)):
      facts = facts_of(path)
      assert (facts.inputs == 0) == bool(
        re.search(r'norm/|bias$|offset$|sink$|embedding/|head/scalar$', path)
      )
      assert facts.exact == bool(re.search(r'norm/|router|sink$|head/(scalar|classes|bias)$', path))
      low_rank = r'blocks/(attention/[qkvo]|.*(mlp|shared)/(gate|up|down))$|head/kernel$'
      assert facts.low_rank == bool(re.search(low_rank, path))


@pytest.mark.parametrize('name', VARIANTS)
def test_no_matrix_is_whole_on_every_device(name):
  shapes = shapes_of(**VARIANTS[name])
  placed = flat(shardings(shapes, make_mesh(fsdp=2, tensor=2)))
  matrices = 0
  for path, leaf in flat(shapes).items():
    axes = leaf.ndim - ('blocks/' in path)
    if axes >= 2:
      shard = math.prod(placed[path].shard_shape(leaf.shape))
      cut = math.prod(leaf.shape) // shard
      # Head biases, positions, routers and classes have one axis to cut, weights have two.
      assert cut == (
        2 if path.endswith(('_bias', 'position', 'router', 'shared_gate', '_a', 'classes')) else 4
      ), path
      matrices += 1
    else:
      assert leaf.size <= 2 * 64 * 4, path
    if 'blocks/' in path:
      assert placed[path].shard_shape(leaf.shape)[0] == leaf.shape[0]  # layers stay together
  assert matrices >= 7


@pytest.mark.parametrize('path', ['blocks/attention/r', 'adapter/down', 'blocks/mlp/up_proj', 'x'])
def test_a_path_without_a_row_is_refused(path):
  with pytest.raises(BadInput) as error:
    facts_of(path)
  assert repr(path) in str(error.value) and 'PARAMETERS' in str(error.value)
  tree = {'w': jax.ShapeDtypeStruct((2, 2), jnp.float32)}
  for part in reversed(path.split('/')):
    tree = {part: tree} if tree.keys() != {'w'} else {part: tree['w']}
  with pytest.raises(BadInput, match=path):
    shardings(tree, make_mesh(data=1))


def test_an_axis_that_does_not_divide_is_kept_whole():
  shapes = shapes_of(num_heads=6, num_kv_heads=3, head_dim=4)
  placed = flat(shardings(shapes, make_mesh(fsdp=2, tensor=2)))
  assert placed['blocks/attention/q'].spec == P(None, 'fsdp', 'tensor', None)
  assert placed['blocks/attention/k'].spec == P(None, 'fsdp', None, None)


def test_a_table_can_be_given():
  tree = {'w': jax.ShapeDtypeStruct((4, 4), jnp.float32)}
  table = (Parameter(r'^w$', P(None, 'fsdp')),)
  assert shardings(tree, make_mesh(fsdp=2), table)['w'].spec == P(None, 'fsdp')


def test_what_mirrors_a_parameter_by_path_and_shape_lives_with_it():
  params = {'embedding': {'table': jax.ShapeDtypeStruct((8, 4), jnp.float32)}}
  row = jax.ShapeDtypeStruct((8,), jnp.float32)
  state = {
    'params': params,
    'mu': [params, {'embedding': {'table': row}}],
    'other': {'table': params['embedding']['table']},
    'count': jax.ShapeDtypeStruct((), jnp.int32),
  }
  placed = flat(state_shardings(state, params, make_mesh(fsdp=2, tensor=2)))
  assert {path: place.spec for path, place in placed.items()} == {
    'params/embedding/table': P('tensor', 'fsdp'),
    'mu/0/embedding/table': P('tensor', 'fsdp'),
    'mu/1/embedding/table': P(),  # a factored statistic: another shape
    'other/table': P(),  # the end of a path is not the path
    'count': P(),
  }
