"""Masking for masked language models: who is chosen, what they become, and what is asked back."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import mask_tokens
from llm_jax.losses import cross_entropy
from llm_jax.models.transformer import make
from llm_jax.types import BadInput

MASK, VOCAB = 3, 40
TOKENIZER = types.SimpleNamespace(
  special={'<|mask|>': MASK}.__getitem__,
  token_bytes=np.repeat([0, 1], [6, VOCAB - 6]),
)
MODEL = make(vocab_size=VOCAB, dim=16, num_layers=1, num_heads=2, hidden_dim=16, causal=False)


def batch_of(rows=64, length=128):
  draw = np.random.default_rng(0)
  tokens = draw.integers(6, VOCAB, (rows, length), np.int32)
  mask = np.ones((rows, length), np.float32)
  mask[:, 0] = mask[:, -10:] = 0
  return {
    'tokens': jnp.asarray(tokens),
    'mask': jnp.asarray(mask),
    'segment': jnp.ones_like(tokens),
  }


def run(batch, seed=0, **options):
  annotate = mask_tokens.make(MODEL, TOKENIZER, **options)
  return {k: np.asarray(v) for k, v in annotate({}, batch, jax.random.key(seed)).items()}


@pytest.mark.parametrize('fraction', [0.15, 0.5, 1.0])
def test_shares(fraction):
  batch = batch_of()
  out = run(batch, fraction=fraction)
  tokens, allowed = np.asarray(batch['tokens']), np.asarray(batch['mask']) > 0
  chosen = out['mask'] > 0
  assert not chosen[~allowed].any()
  assert chosen[allowed].mean() == pytest.approx(fraction, abs=0.02)
  hidden, same = out['tokens'] == MASK, out['tokens'] == tokens
  assert (hidden | same)[~chosen].all() and same[~chosen].all()
  other = chosen & ~hidden & ~same
  hits = 1 / (VOCAB - 6)  # a random token may be the one that stood there
  assert hidden[chosen].mean() == pytest.approx(0.8, abs=0.04)
  assert other[chosen].mean() == pytest.approx(0.1 * (1 - hits), abs=0.03)
  assert out['tokens'][other].min() >= 6 and out['tokens'][other].max() == VOCAB - 1


def test_fields():
  batch = batch_of(2, 32)
  out = run(batch)
  np.testing.assert_array_equal(out['target'], batch['tokens'])
  np.testing.assert_array_equal(out['segment'], batch['segment'])
  assert {k: str(v.dtype) for k, v in out.items()} == dict(
    tokens='int32', mask='float32', segment='int32', target='int32'
  )


def test_shares_can_be_all_or_nothing():
  batch = batch_of(4, 32)
  chosen = lambda out: out['mask'] > 0
  out = run(batch, mask_share=1.0, random_share=0.0)
  assert (out['tokens'][chosen(out)] == MASK).all()
  out = run(batch, mask_share=0.0, random_share=0.0)
  np.testing.assert_array_equal(out['tokens'], batch['tokens'])
  assert chosen(out).any()
  out = run(batch, mask_share=0.0, random_share=1.0)
  assert (out['tokens'][chosen(out)] != MASK).all()
  assert not chosen(run(batch, fraction=0.0)).any()


def test_seeds_choose_anew_and_one_seed_the_same():
  batch = batch_of(4, 64)
  first, again, other = run(batch, 1), run(batch, 1), run(batch, 2)
  np.testing.assert_array_equal(first['tokens'], again['tokens'])
  assert (first['mask'] != other['mask']).any()


def test_groups_keep_their_axes():
  batch = {k: v.reshape(2, 2, -1) for k, v in batch_of(4, 16).items()}
  assert run(batch)['tokens'].shape == (2, 2, 16)


def test_the_loss_asks_for_what_was_hidden():
  batch = batch_of(4, 32)
  out = run(batch)
  params = jax.jit(MODEL.init)(jax.random.key(0), batch['tokens'])
  loss = jax.jit(lambda b: cross_entropy.loss_fn(params, b, None, model=MODEL)[0])
  mean = loss(out)
  assert mean.count == out['mask'].sum()
  assert mean.value == pytest.approx(np.log(VOCAB), abs=0.5)  # an untrained model guesses
  wrong = dict(out, target=np.where(out['mask'] > 0, 6, out['target']))
  assert loss(wrong).total != mean.total


def test_a_causal_model_is_refused():
  causal = make(vocab_size=VOCAB, dim=16, num_layers=1, num_heads=2)
  with pytest.raises(BadInput, match=r'needs model\.causal=False'):
    mask_tokens.make(causal, TOKENIZER)


def test_shares_above_one_are_refused():
  with pytest.raises(BadInput, match=r'mask_share \+ random_share exceed 1'):
    mask_tokens.make(MODEL, TOKENIZER, mask_share=0.8, random_share=0.3)
