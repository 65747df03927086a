"""Cross-entropy: the number, the counting, and blindness to what is masked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.cross_entropy import loss_fn
from llm_jax.losses.logprobs import scores
from llm_jax.models.transformer import make
from llm_jax.types import BadInput

VOCAB = 13
MODEL = make(vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2, hidden_dim=16)
MASKED = make(vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2, hidden_dim=16, causal=False)


def params_of(model):
  token = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  draw = np.random.default_rng(0)
  return jax.tree.map(lambda x: jnp.asarray(draw.normal(0.3, 0.4, x.shape), x.dtype), shapes)


PARAMS = params_of(MODEL)  # both models have the same arrays


def batch_of(rows=4, length=9, seed=1):
  """Rows of two documents and some padding; first tokens and a few others are no targets."""
  draw = np.random.default_rng(seed)
  segment = np.repeat([[1, 2, 0]], [4, 3, length - 7], axis=1).repeat(rows, axis=0)
  position = np.repeat([[*range(4), *range(3), *[0] * (length - 7)]], rows, axis=0)
  mask = (segment > 0) & (position > 0) & (draw.random((rows, length)) < 0.8)
  return {
    'tokens': draw.integers(0, VOCAB, (rows, length), np.int32),
    'segment': segment.astype(np.int32),
    'position': position.astype(np.int32),
    'mask': mask.astype(np.float32),
  }


@functools.cache
def compiled(model, **options):
  return jax.jit(lambda p, b: loss_fn(p, b, jax.random.key(0), model=model, **options))


@functools.cache
def compiled_grad(model):
  loss = lambda p, b: loss_fn(p, b, jax.random.key(0), model=model, z_loss=0.1)[0].total
  return jax.jit(jax.grad(loss))


def run(batch, model=MODEL, **options):
  return compiled(model, **options)(PARAMS, batch)


def grad_of(batch, model=MODEL):
  return compiled_grad(model)(PARAMS, batch)


def test_the_number():
  batch = batch_of()
  mean, metrics = run(batch)
  logits = jax.jit(MODEL.apply)(PARAMS, batch['tokens'], batch['position'], batch['segment'])[0]
  logp = np.asarray(jax.nn.log_softmax(logits))
  total = 0.0
  for b, t in zip(*np.nonzero(batch['mask']), strict=True):
    total -= logp[b, t - 1, batch['tokens'][b, t]]
  assert mean.count == batch['mask'].sum() and metrics == {}
  assert mean.total == pytest.approx(total, rel=1e-5)
  assert mean.value == pytest.approx(total / batch['mask'].sum(), rel=1e-5)


@pytest.mark.parametrize('options', [{}, dict(z_loss=0.1)], ids=str)
def test_halves_add_up(options):
  batch = batch_of()
  whole = run(batch, **options)
  first, second = (
    run({k: v[half] for k, v in batch.items()}, **options) for half in (slice(1), slice(1, None))
  )  # of different counts
  added = jax.tree.map(jnp.add, first, second)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), added, whole)


def test_z_loss_is_added_under_the_same_count():
  batch = batch_of()
  plain, _ = run(batch)
  mean, metrics = run(batch, z_loss=0.1)
  out = jax.jit(lambda b: scores(MODEL, PARAMS, b))(batch)
  penalty = (np.asarray(out.logsumexp) ** 2 * batch['mask']).sum()
  assert metrics['cross_entropy'].total == pytest.approx(float(plain.total), rel=1e-6)
  assert metrics['z_loss'].total == pytest.approx(penalty, rel=1e-5)
  assert mean.total == pytest.approx(float(plain.total) + 0.1 * penalty, rel=1e-5)
  assert mean.count == plain.count == metrics['z_loss'].count


def test_groups_count_as_rows():
  batch = batch_of(rows=6)
  grouped = {k: v.reshape(2, 3, -1) for k, v in batch.items()}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), run(grouped), run(batch))


def test_an_empty_mask_counts_nothing():
  batch = batch_of()
  batch['mask'] = np.zeros_like(batch['mask'])
  mean, _ = run(batch, z_loss=0.1)
  assert mean.total == mean.count == mean.value == 0
  assert not any(np.any(x) for x in jax.tree.leaves(grad_of(batch)))


@pytest.mark.parametrize('model', [MODEL, MASKED], ids=['causal', 'masked'])
def test_padding_tokens_cannot_be_seen(model):
  batch = batch_of()
  junk = dict(batch)
  junk['tokens'] = np.where(batch['segment'] == 0, (batch['tokens'] + 5) % VOCAB, batch['tokens'])
  junk['position'] = np.where(batch['segment'] == 0, 7, batch['position'])
  np.testing.assert_allclose(run(junk, model)[0].total, run(batch, model)[0].total, rtol=1e-6)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  jax.tree.map(close, grad_of(junk, model), grad_of(batch, model))


def test_a_target_that_is_masked_cannot_be_seen():
  # A masked token is still read as context; as the thing to be predicted it does not matter.
  batch = batch_of() | {'target': batch_of()['tokens']}
  junk = batch | {
    'target': np.where(batch['mask'] > 0, batch['target'], (batch['target'] + 5) % VOCAB)
  }
  for model in (MODEL, MASKED):
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
    jax.tree.map(close, run(junk, model), run(batch, model))
    jax.tree.map(close, grad_of(junk, model), grad_of(batch, model))


def test_a_trailing_token_outside_the_mask_cannot_be_seen():
  batch = batch_of()
  batch['mask'][:, 3] = batch['mask'][:, 6] = 0  # the last of each document
  junk = dict(batch, tokens=batch['tokens'].copy())
  junk['tokens'][:, [3, 6]] += 1
  junk['tokens'] %= VOCAB
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  jax.tree.map(close, run(junk), run(batch))
  jax.tree.map(close, grad_of(junk), grad_of(batch))


def test_documents_of_a_row_do_not_meet():
  batch = batch_of()
  other = dict(batch, tokens=batch['tokens'].copy(), mask=batch['mask'].copy())
  batch['mask'][:, :4] = other['mask'][:, :4] = 0  # the loss of the second document alone
  other['tokens'][:, :4] = (other['tokens'][:, :4] + 1) % VOCAB
  np.testing.assert_allclose(run(other)[0].total, run(batch)[0].total, rtol=1e-6)


def test_masked_language_model_predicts_target_in_place():
  batch = batch_of() | {'target': (batch_of()['tokens'] + 1) % VOCAB}
  mean, _ = run(batch, MASKED)
  logits = jax.jit(MASKED.apply)(PARAMS, batch['tokens'], batch['position'], batch['segment'])[0]
  logp = np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)), batch['target'][..., None], axis=-1
  )[..., 0]
  assert mean.total == pytest.approx(-(logp * batch['mask']).sum(), rel=1e-5)


def oracle(batch):
  """-log p of every token [B, L]."""
  return -np.asarray(jax.jit(lambda b: scores(MODEL, PARAMS, b).logp)(batch))


def test_their_numbers(evaluate, preferences, theirs):
  value = lambda **options: evaluate(loss_fn, **options)[0].value
  assert value() == pytest.approx(theirs['sft']['sft_token_mean'], rel=1e-5)
  assert value() == pytest.approx(theirs['sft']['sft_accum_correct'], rel=1e-5)
  assert value(average='sequence') == pytest.approx(theirs['sft']['sft_seq_mean'], rel=1e-5)
  assert value(dft=True) == pytest.approx(theirs['sft']['dft'], rel=1e-4)


def test_average_over_sequences_is_over_the_segments_of_packed_rows():
  batch = batch_of(rows=5)
  batch['mask'][1, :4] = 0  # a document without a target is not counted
  nll, mask, segment = oracle(batch), batch['mask'], batch['segment']
  means = []
  for row in range(5):
    for which in (1, 2):
      weight = mask[row] * (segment[row] == which)
      if weight.any():
        means.append((nll[row] * weight).sum() / weight.sum())
  mean, metrics = run(batch, average='sequence')
  assert mean.count == len(means) < 10
  assert mean.total == pytest.approx(sum(means), rel=1e-5)
  assert metrics['cross_entropy'].value == pytest.approx((nll * mask).sum() / mask.sum(), rel=1e-5)


def test_packing_does_not_matter_to_the_average_over_sequences():
  batch = batch_of(rows=3)
  documents = [np.s_[:, :4], np.s_[:, 4:7]]
  apart = [run({k: v[part] for k, v in batch.items()}, average='sequence')[0] for part in documents]
  whole, _ = run(batch, average='sequence')
  assert whole.count == apart[0].count + apart[1].count
  assert whole.total == pytest.approx(float(apart[0].total + apart[1].total), rel=1e-5)


def test_a_row_without_segments_is_one_sequence():
  batch = {k: v for k, v in batch_of(rows=3).items() if k in ('tokens', 'mask')}
  nll = oracle(batch)
  mean, _ = run(batch, average='sequence')
  wanted = ((nll * batch['mask']).sum(1) / batch['mask'].sum(1)).sum()
  assert mean.count == 3 and mean.total == pytest.approx(wanted, rel=1e-5)


def test_dft_weighs_by_a_probability_that_has_no_gradient():
  batch = batch_of()
  nll, mask = oracle(batch), batch['mask']
  mean, _ = run(batch, dft=True)
  assert mean.count == mask.sum()
  assert mean.total == pytest.approx((np.exp(-nll) * nll * mask).sum(), rel=1e-5)
  weighted = batch | {'mask': mask * np.exp(-nll)}  # the weights as constants
  total = lambda b, **options: lambda p: loss_fn(p, b, None, model=MODEL, **options)[0].total
  grads, wanted = (jax.jit(jax.grad(f))(PARAMS) for f in (total(batch, dft=True), total(weighted)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, wanted)


@pytest.mark.parametrize('average', ['token', 'sequence'])
def test_options_add_up(average):
  batch = batch_of()
  mean, metrics = run(batch, average=average, dft=True, z_loss=0.1)
  bare, _ = run(batch, average=average, dft=True)
  assert mean.count == bare.count == metrics['z_loss'].count
  wanted = float(bare.total) + 0.1 * float(metrics['z_loss'].total)
  assert mean.total == pytest.approx(wanted, rel=1e-5)
  first, second = (
    run({k: v[half] for k, v in batch.items()}, average=average, dft=True, z_loss=0.1)
    for half in (slice(1), slice(1, None))
  )
  added = jax.tree.map(jnp.add, first, second)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  jax.tree.map(close, added, (mean, metrics))


def test_diagnostics():
  batch = batch_of()
  mean, metrics = run(batch, diagnostics=True)
  out = jax.jit(lambda b: scores(MODEL, PARAMS, b))(batch)
  assert mean == run(batch)[0]
  entropy = (out.entropy * batch['mask']).sum() / batch['mask'].sum()
  assert metrics['entropy'].value == pytest.approx(float(entropy), rel=1e-5)
  assert metrics['trained_tokens'].total == batch['mask'].sum()
  assert metrics['trained_tokens'].count == 0  # a total
  assert metrics['response_length'].value == pytest.approx(batch['mask'].sum(1).mean())


def test_what_cannot_be(check):
  with pytest.raises(BadInput, match="average 'sequences'; did you mean 'sequence'"):
    check(loss_fn, average='sequences')
  with pytest.raises(BadInput, match='z_loss -1; choose a number from 0'):
    check(loss_fn, z_loss=-1)
