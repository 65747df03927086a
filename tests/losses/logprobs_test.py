"""Log-probabilities against plain numpy, and in blocks as in one piece."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses import logprobs
from llm_jax.losses.logprobs import score, scores
from llm_jax.models.transformer import make

SMALL = dict(vocab_size=13, dim=16, num_layers=1, num_heads=2, hidden_dim=16)


def build(**options):
  model = make(**(SMALL | options))
  token = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  draw = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: jnp.asarray(draw.normal(0.3, 0.5, x.shape), x.dtype), shapes)


def tokens_of(*shape):
  return np.random.default_rng(1).integers(0, SMALL['vocab_size'], shape, np.int32)


def oracle(logits_LV, target_L):
  """(logp, logsumexp, entropy) of one row in float64."""
  logits_LV = np.asarray(logits_LV, np.float64)
  logsumexp_L = np.log(np.exp(logits_LV).sum(-1))
  logp_LV = logits_LV - logsumexp_L[:, None]
  entropy_L = -(np.exp(logp_LV) * logp_LV).sum(-1)
  return logp_LV[np.arange(len(target_L)), target_L], logsumexp_L, entropy_L


@functools.cache
def compiled(model, **options):
  return jax.jit(lambda p, b: scores(model, p, b, **options))


def run(model, params, batch, **options):
  return compiled(model, **options)(params, batch)


@pytest.mark.parametrize('temperature', [1.0, 0.5, 3.0])
def test_scores_against_numpy(temperature):
  (model, params), tokens_BL = build(), tokens_of(3, 7)
  out = run(model, params, {'tokens': tokens_BL}, temperature=temperature)
  logits = jax.jit(model.apply)(params, tokens_BL)[0] / temperature
  for b in range(3):
    for found, wanted in zip(out, oracle(logits[b, :-1], tokens_BL[b, 1:]), strict=True):
      assert found.shape == (3, 7) and found.dtype == jnp.float32
      np.testing.assert_allclose(found[b, 1:], wanted, atol=1e-5)
      assert found[b, 0] == 0  # nothing comes before the first token
  assert (out.entropy[:, 1:] > 0).all() and (out.entropy <= np.log(13) + 1e-6).all()


def test_score_is_the_first_of_scores():
  (model, params), tokens_BL = build(), tokens_of(2, 4)
  batch = {'tokens': tokens_BL}
  logp = jax.jit(lambda p, b: score(model, p, b))(params, batch)
  np.testing.assert_allclose(logp, run(model, params, batch).logp, atol=1e-6)


def test_groups_are_rows():
  (model, params), tokens_BGL = build(), tokens_of(2, 3, 6)
  segment = np.ones((2, 3, 6), np.int32)
  segment[:, 1, 4:] = 0
  position = np.where(segment, np.arange(6), 0)
  batch = {'tokens': tokens_BGL, 'segment': segment, 'position': position}
  grouped = run(model, params, batch)
  flat = run(model, params, {k: v.reshape(6, 6) for k, v in batch.items()})
  for a, b in zip(grouped, flat, strict=True):
    assert a.shape == (2, 3, 6)
    np.testing.assert_allclose(a.reshape(6, 6), b, atol=1e-6)


def test_a_masked_model_is_not_shifted():
  (model, params), tokens_BL = build(causal=False), tokens_of(2, 6)
  target_BL = (tokens_BL + 1) % 13
  out = run(model, params, {'tokens': tokens_BL, 'target': target_BL})
  logits = jax.jit(model.apply)(params, tokens_BL)[0]
  for b in range(2):
    for found, wanted in zip(out, oracle(logits[b], target_BL[b]), strict=True):
      np.testing.assert_allclose(found[b], wanted, atol=1e-5)
  own = run(model, params, {'tokens': tokens_BL})  # without a target, the tokens themselves
  np.testing.assert_allclose(own.logp[0], oracle(logits[0], tokens_BL[0])[0], atol=1e-5)


def test_a_target_of_a_causal_model_is_shifted_as_tokens_are():
  (model, params), tokens_BL = build(), tokens_of(1, 6)
  target_BL = (tokens_BL + 1) % 13
  out = run(model, params, {'tokens': tokens_BL, 'target': target_BL})
  logits = jax.jit(model.apply)(params, tokens_BL)[0]
  wanted = oracle(logits[0, :-1], target_BL[0, 1:])[0]
  np.testing.assert_allclose(out.logp[0, 1:], wanted, atol=1e-5)


@pytest.mark.parametrize(
  ('width', 'causal', 'columns'),  # any two of their values meet in some case
  [(1, True, 7), (1, False, 2), (3, True, 2), (3, False, 7), (6, True, 7), (6, False, 2)],
)
def test_a_prompt_has_no_logits(monkeypatch, width, causal, columns):
  """The same numbers and gradients from the first token behind it on, and 0 before."""
  (model, params), tokens_BGL = build(causal=causal), tokens_of(2, 2, 7)
  monkeypatch.setattr(logprobs, 'BLOCK_ELEMENTS', 4 * 13 * columns)

  def total(params, batch):
    out = scores(model, params, batch)
    return sum(jnp.sin(x[..., width:]).sum() for x in out), out

  fn = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, whole), wanted = fn(params, {'tokens': tokens_BGL})
  (_, out), found = fn(params, {'tokens': tokens_BGL, 'prompt': tokens_BGL[:, 0, :width]})
  for x, y in zip(out, whole, strict=True):
    np.testing.assert_allclose(x[..., width:], y[..., width:], atol=1e-5)
    assert not x[..., :width].any() and x.shape == y.shape
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, wanted)


HEADS = {
  'tied': {},
  'masked': dict(causal=False),
  'untied': dict(head='untied', logit_softcap=2.0),
}


def value_and_grad(head):
  """Scores of rows of 11 tokens and a gradient, compiled anew."""
  (model, params), tokens_BL = build(**HEADS[head]), tokens_of(2, 11)
  weight = np.random.default_rng(2).normal(size=(3, 2, 11)).astype(np.float32)

  def loss(params):
    out = scores(model, params, {'tokens': jnp.asarray(tokens_BL)}, temperature=0.8)
    return sum((w * x).sum() for w, x in zip(weight, out, strict=True)), out

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope='module')
def in_one_piece():
  return functools.cache(value_and_grad)


@pytest.mark.parametrize(
  ('columns', 'head'),  # of the 10 or, masked, 11 columns that are read
  [*((n, 'tied') for n in (1, 3, 4, 10, 11)), (3, 'masked'), (11, 'masked'), (4, 'untied')],
)
def test_blocks_are_one_piece(in_one_piece, monkeypatch, columns, head):
  (_, dense), dense_grad = in_one_piece(head)
  monkeypatch.setattr(logprobs, 'BLOCK_ELEMENTS', columns * 2 * 13)
  seen = []
  read = logprobs.read_scores
  monkeypatch.setattr(
    logprobs,
    'read_scores',
    lambda logits, target: seen.append(logits.shape) or read(logits, target),
  )
  (_, blocked), blocked_grad = value_and_grad(head)
  assert all(shape[:-1] == (2, 11) if columns == 11 else shape[1] <= columns for shape in seen)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
  jax.tree.map(close, blocked, dense)
  jax.tree.map(close, blocked_grad, dense_grad)


def test_no_array_of_all_logits_is_made(monkeypatch):
  (model, params), tokens_BL = build(), tokens_of(4, 32)
  monkeypatch.setattr(logprobs, 'BLOCK_ELEMENTS', 4 * 8 * 13)
  loss = lambda p: score(model, p, {'tokens': jnp.asarray(tokens_BL)}).sum()
  text = str(jax.make_jaxpr(jax.grad(loss))(params))
  assert 'f32[4,8,13]' in text
  assert 'f32[4,32,13]' not in text and 'f32[128,13]' not in text


def test_tiny_probabilities_stay_finite():
  logits = jnp.array([[0.0, 200.0, -200.0]])
  unembed = lambda params, x, method: x
  model = types.SimpleNamespace(apply=unembed, shape=types.SimpleNamespace(vocab_size=3))
  out = logprobs.read_hidden(
    model, {}, logits[None], (jnp.array([[2]]),), 1.0, logprobs.read_scores
  )
  np.testing.assert_allclose([x[0, 0] for x in out], [-400.0, 200.0, 0.0], atol=1e-6)
