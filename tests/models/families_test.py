"""Every family against what transformers computed, with and without a cache, and one step of SFT.

fixtures/families.npz was written by fixtures/make_families.py, which also says how its arrays are
drawn.
"""

import functools
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from llm_jax.losses import cross_entropy
from llm_jax.models import huggingface
from llm_jax.models.rope_scaling import scaling_of
from llm_jax.models.transformer import Shape, make
from llm_jax.parallel.parameters import path_of
from tests.fixtures.make_families import CONFIGS, draw, rows

families = pytest.mark.parametrize('family', CONFIGS)
close = functools.partial(np.testing.assert_allclose, atol=1e-4)


@functools.cache
def fixture(family):
  """Their config, arrays by name, and what they computed."""
  with np.load(Path(__file__).parents[1] / 'fixtures' / 'families.npz') as file:
    z = {k.split('.')[1]: v for k, v in file.items() if k.split('.')[0] == family}
  about = json.loads(z['about'][()])
  return about['config'], draw(about['shapes']), z


@functools.cache
def loaded(family):
  """Our model and its parameters."""
  config, weights, _ = fixture(family)
  model = make(**huggingface.shape_of(config))
  return model, huggingface.from_hf(weights, model.shape, config['model_type'])


@families
def test_logits_are_theirs_and_every_parameter_learns(family):
  model, params = loaded(family)
  z = fixture(family)[2]
  ids, mask = rows()

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def step(params, ids, position, mask):
    target = mask * (position > 0)
    batch = {'tokens': ids, 'mask': target, 'position': position, 'segment': mask}
    loss, _ = cross_entropy.loss_fn(params, batch, jax.random.key(0), model=model)
    return loss.value, model.apply(params, ids, position, mask)[0]

  real, position = mask == 1, np.maximum(mask.cumsum(1) - 1, 0)
  (loss, logits), grads = step(params, ids, position, mask)
  close(np.asarray(logits)[real], z['logits'][real])
  for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]:
    assert np.isfinite(grad).all() and np.any(grad), path_of(path)
  # The same padded on the left.
  gaps = mask.shape[1] - mask.sum(1)
  left = lambda x: np.stack([np.roll(row, gap) for row, gap in zip(x, gaps)])
  (again, logits), _ = step(params, left(ids), left(position), left(mask))
  close(np.asarray(logits)[left(mask) == 1], z['logits'][real])
  close(again, loss, rtol=1e-5)
  alone = mask * [[0], [1]]
  close(np.asarray(step(params, ids, position, alone)[0][1])[1][real[1]], z['alone'])


@families
def test_a_cache_continues_as_they_do(family):
  model, params = loaded(family)
  z, ids = fixture(family)[2], rows()[0][0]
  step = jax.jit(lambda *args: model.apply(params, args[0], args[1], None, args[2]))
  cache, said = model.make_cache(1, 32), [*ids]
  # Where frequencies move with the length, what a row says of a token depends on what follows it.
  moves = lambda scaling: scaling is not None and scaling_of(scaling).moves
  begin = len(ids) if any(moves(kind.rope_scaling) for kind in model.shape.blocks) else 1
  at = 0
  while len(said) < len(ids) + len(z['greedy']):
    size = begin if at == 0 else 1
    position = np.arange(at, at + size)[None]
    logits, cache = step(np.array([said[at : at + size]]), position, cache)
    if at + size <= len(ids):
      close(logits[0], z['logits'][0][at : at + size])
    at += size
    if at == len(said):
      said.append(int(logits[0, -1].argmax()))
  assert said[len(ids) :] == z['greedy'].tolist()


@families
@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
def test_arrays_come_back_with_the_same_bits(family, kind):
  config, weights, _ = fixture(family)
  weights = {name: x.astype(getattr(ml_dtypes, kind, kind)) for name, x in weights.items()}
  shape = Shape(**huggingface.shape_of(config))
  params = huggingface.from_hf(weights, shape, config['model_type'])
  stored = jax.tree.map(lambda x: x.astype(getattr(ml_dtypes, kind, kind)), params)
  back = huggingface.to_hf(stored, shape, config['model_type'])
  assert back.keys() == weights.keys()
  for name, x in back.items():
    assert x.dtype == weights[name].dtype and x.tobytes() == weights[name].tobytes(), name


@families
def test_a_config_survives_in_both_spellings(family):
  config = fixture(family)[0]
  shape = Shape(**huggingface.shape_of(config))
  ours = huggingface.config_of(shape, config['model_type'])
  new = {k: v for k, v in ours.items() if k not in ('rope_theta', 'rope_scaling', 'dtype')}
  old = {k: v for k, v in ours.items() if k != 'rope_parameters'}
  for spelling in (ours, new, old):
    assert Shape(**huggingface.shape_of(json.loads(json.dumps(spelling)))) == shape
  nested = {'model_type': 'sees_too', 'text_config': config}
  assert Shape(**huggingface.shape_of(nested)) == shape


def test_each_array_can_be_read_and_written_alone():
  """What a conversion does that never holds a model."""
  config, weights, _ = fixture('gpt_neox')
  model, params = loaded('gpt_neox')
  plan = huggingface.plan(model.shape, config['model_type'])
  whole = {path_of(k): x for k, x in jax.tree_util.tree_flatten_with_path(params)[0]}
  for (path, layer), sources in plan.of().items():
    for source in sources:
      part = source.read(weights[source.name])[path]
      wanted = whole[path] if layer is None else whole[path][layer]
      np.testing.assert_array_equal(part, wanted[source.index[1:]])
  assert {source.name for sources in plan.of().values() for source in sources} == weights.keys()


def test_the_language_model_of_one_that_also_sees():
  config, weights, _ = fixture('gemma3')
  model, params = loaded('gemma3')
  for prefix in (lambda name: f'language_model.{name}', lambda name: f'model.language_{name}'):
    seeing = {prefix(name): x for name, x in weights.items()}
    seeing['vision_tower.embeddings.weight'] = np.zeros(3)
    again = huggingface.from_hf(seeing, model.shape, config['model_type'])
    jax.tree.map(np.testing.assert_array_equal, again, params)
