"""What the tests of losses share: models that are a table, and a batch other libraries have scored.

fixtures/preferences.npz holds three pairs, a policy and a reference; preferences.json what TRL 1.16
and OpenRLHF 0.11.2 make of them in float32. fixtures/reward_model.npz scores the same answers.
"""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import options
from llm_jax.losses.logprobs import score
from llm_jax.models import huggingface
from llm_jax.models.transformer import make

FIXTURES = Path(__file__).parents[1] / 'fixtures'
SHAPE = dict(vocab_size=64, dim=32, hidden_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)


class Table:
  """A language model whose logits are looked up: `table` [V, V] by the token before.

  Given `logits` [rows, L, V] instead, it answers with those, whatever it is asked.
  """

  def __init__(self, vocab_size, causal=True):
    self.shape = SimpleNamespace(vocab_size=vocab_size, causal=causal)

  def apply(self, params, x, *place, method):
    if method == 'unembed':
      return x
    return (params['logits'] if 'logits' in params else params['table'][x]), None


def as_pairs(rows):
  """[chosen x N, rejected x N] as [N, 2, ...]."""
  half = len(rows) // 2
  return np.stack([rows[:half], rows[half:]], axis=1)


def as_batch(ids, real, mask):
  position = np.maximum(real.cumsum(-1) - 1, 0)
  fields = dict(tokens=ids, mask=mask, segment=real, position=position)
  return {k: jnp.asarray(v, jnp.int32) for k, v in fields.items()}


@pytest.fixture(scope='session')
def check():
  """(loss_fn, **options): what is said of options when they are bound."""
  return lambda loss_fn, **given: options.check(loss_fn, given, where='loss', supplied=('model',))


@pytest.fixture(scope='session')
def table():
  return Table


@pytest.fixture(scope='session')
def theirs():
  """The numbers of other libraries, by loss."""
  return json.loads((FIXTURES / 'preferences.json').read_text())


@pytest.fixture(scope='session')
def fixture_arrays():
  with np.load(FIXTURES / 'preferences.npz') as file:
    return dict(file)


@pytest.fixture(scope='session')
def preferences(fixture_arrays):
  """`model`, `params`, `reference`, `batch` [3, 2, 13] with `ref_logp`, `logits` of its rows."""
  z = fixture_arrays
  model = make(**SHAPE, head='untied')
  weights = lambda prefix: {k.removeprefix(prefix): z[k] for k in z if k.startswith(prefix)}
  params = huggingface.from_hf(weights('policy.'), model.shape)
  reference = huggingface.from_hf(weights('ref.'), model.shape)
  names = ('input_ids', 'attention_mask', 'completion_mask')
  batch = as_batch(*(as_pairs(z[name]) for name in names))
  logp = jax.jit(functools.partial(score, model))
  batch['ref_logp'] = logp(reference, batch)
  rows = [batch[k].reshape(6, -1) for k in ('tokens', 'position', 'segment')]
  logits, _ = jax.jit(model.apply)(params, *rows)
  return SimpleNamespace(
    model=model, params=params, reference=reference, batch=batch, logits=logits, logp=logp
  )


@pytest.fixture(scope='session')
def evaluate(preferences):
  """A loss on the fixture's batch through its logits: (loss_fn, batch, options) to (Mean, Metrics).

  The Transformer is left out, so that a case compiles in a blink.
  """
  tabular, params = Table(64), {'logits': preferences.logits}

  def on(batch, loss_fn, **options):
    fn = functools.partial(loss_fn, model=tabular, **options)
    return jax.jit(fn)(params, batch, jax.random.key(0))

  plain = functools.cache(lambda loss_fn, **options: on(preferences.batch, loss_fn, **options))

  def run(loss_fn, batch=None, **options):
    return plain(loss_fn, **options) if batch is None else on(batch, loss_fn, **options)

  return run


@pytest.fixture(scope='session')
def reward_model():
  """`model`, `params` with a scalar head, `batch` [3, 2, 13], and transformers' `scores` [3, 2]."""
  with np.load(FIXTURES / 'reward_model.npz') as file:
    z = dict(file)
  model = make(**SHAPE, head='scalar')
  weights = {k.removeprefix('rm.'): v for k, v in z.items() if k.startswith('rm.')}
  names = ('input_ids', 'attention_mask', 'completion_mask')
  return SimpleNamespace(
    model=model,
    params=huggingface.from_hf(weights, model.shape),
    batch=as_batch(*(as_pairs(z[name]) for name in names)),
    scores=as_pairs(z['rewards']),
  )
