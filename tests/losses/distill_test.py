"""Divergences from a teacher against TRL's numbers and float64, whole vocabularies and parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses import distill
from llm_jax.types import BadInput

V = 12
KINDS = (
  dict(divergence='forward'),
  dict(divergence='reverse'),
  dict(divergence='jsd'),
  dict(divergence='jsd', beta=0.1),
)


@functools.cache
def logits(seed, scale=2.0):
  draw = np.random.default_rng(seed)
  return (scale * draw.normal(size=(2, 5, V))).astype(np.float32)


@functools.cache
def compiled(table, vocab_size, grad, **options):
  model = table(vocab_size, causal=False)
  loss = lambda x, batch: distill.loss_fn({'logits': x}, batch, None, model=model, **options)
  return jax.jit(jax.grad(lambda x, batch: loss(x, batch)[0].total) if grad else loss)


def run(table, student, fields, mask=None, *, grad=False, **options):
  mask = np.ones(student.shape[:2]) if mask is None else mask
  batch = {'tokens': jnp.zeros(student.shape[:2], int), 'mask': jnp.asarray(mask)}
  batch |= {k: jnp.asarray(v) for k, v in fields.items()}
  return compiled(table, student.shape[-1], grad, **options)(jnp.asarray(student), batch)


def top(teacher, count, seed=0):
  """What the annotator writes: the `count` likeliest words, as log-probabilities, in any order."""
  logp = np.asarray(jax.nn.log_softmax(teacher))
  ids = np.argsort(-logp, axis=-1)[..., :count]
  ids = np.random.default_rng(seed).permuted(ids, axis=-1).astype(np.int32)
  return {'teacher_logits': np.take_along_axis(logp, ids, -1), 'teacher_ids': ids}


def softmax(x):
  x = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def oracle(teacher, student, divergence, beta=0.5):
  """Of probabilities [..., K], in float64."""
  kl = lambda p, q: (p * np.log(p / q)).sum(-1)
  mixture = beta * teacher + (1 - beta) * student
  return {
    'forward': lambda: kl(teacher, student),
    'reverse': lambda: kl(student, teacher),
    'jsd': lambda: beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture),
  }[divergence]()


@pytest.mark.parametrize('beta', ['0.0', '1e-06', '0.1', '0.5', '0.9', '1.0'])
def test_their_numbers(table, fixture_arrays, theirs, beta):
  z = fixture_arrays
  fields, mask = {'teacher_logits': z['teacher']}, z['kd_labels'] != -100
  options = distill.PRESETS['trl'] | {'beta': float(beta)}
  mean, _ = run(table, z['student'], fields, mask, **options)
  assert mean.count == mask.sum()
  wanted = theirs['offline'][f'gkd beta={beta}']
  assert mean.value == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_their_temperature(table, fixture_arrays, theirs):
  z = fixture_arrays
  fields, mask = {'teacher_logits': z['teacher']}, z['kd_labels'] != -100
  wanted = theirs['offline']['gkd fkl T=2 (no T^2 factor)']
  value = lambda **options: (
    run(table, z['student'], fields, mask, temperature=2.0, **options)[0].value
  )
  assert value() == pytest.approx(wanted, rel=1e-4)
  assert value(t_squared=True) == pytest.approx(4 * wanted, rel=1e-4)


@pytest.mark.parametrize('temperature', [1.0, 2.0])
@pytest.mark.parametrize('options', KINDS, ids=str)
def test_a_whole_vocabulary_with_ids_or_without(table, options, temperature):
  student, teacher = logits(0), logits(1)
  wanted = oracle(softmax(teacher / temperature), softmax(student / temperature), **options).mean()
  for fields in ({'teacher_logits': teacher}, top(teacher, V)):
    mean, metrics = run(table, student, fields, temperature=temperature, **options)
    assert mean.value == pytest.approx(wanted, rel=1e-4)
    assert metrics['teacher_kept'].value == 1


@pytest.mark.parametrize('count', [1, 4, V - 1])
@pytest.mark.parametrize('options', KINDS, ids=str)
def test_what_the_teacher_left_out_is_one_outcome(table, options, count):
  student, teacher = logits(0), logits(1)
  fields = top(teacher, count)

  def coarse(probability):
    kept = np.take_along_axis(probability, fields['teacher_ids'], -1)
    return np.concatenate([kept, 1 - kept.sum(-1, keepdims=True)], axis=-1)

  both = coarse(softmax(teacher)), coarse(softmax(student))
  mean, metrics = run(table, student, fields, **options)
  assert mean.value == pytest.approx(oracle(*both, **options).mean(), rel=1e-3)
  assert metrics['teacher_kept'].value == pytest.approx(1 - both[0][..., -1].mean(), rel=1e-5)
  tempered = [softmax(np.log(p) / 3) for p in both]
  mean, _ = run(table, student, fields, temperature=3.0, **options)
  assert mean.value == pytest.approx(oracle(*tempered, **options).mean(), rel=1e-3)


@pytest.mark.parametrize('count', [3, V])
@pytest.mark.parametrize('options', KINDS, ids=str)
def test_a_student_that_agrees_is_left_alone(table, options, count):
  teacher = logits(1)
  fields = top(teacher, count)
  assert run(table, teacher, fields, **options)[0].value == pytest.approx(0, abs=1e-6)
  grad = run(table, teacher, fields, grad=True, **options)
  np.testing.assert_allclose(grad, 0, atol=1e-5)
  assert run(table, logits(0), fields, **options)[0].value > 0.01


@pytest.mark.parametrize('options', KINDS, ids=str)
def test_sure_models_stay_finite(table, options):
  student, teacher = logits(0, scale=100.0), logits(1, scale=100.0)
  for count in (2, V):
    fields = top(teacher, count)
    assert np.isfinite(run(table, student, fields, **options)[0].value)
    assert np.isfinite(run(table, student, fields, grad=True, **options)).all()


def test_a_student_that_is_sure_hears_of_the_rest(table):
  # All of its probability is on the two words that the teacher kept, which gave half to the others.
  student = np.full((1, 1, V), -60.0, np.float32)
  student[..., :2] = 0
  fields = {'teacher_ids': np.array([[[0, 1]]]), 'teacher_logits': np.full((1, 1, 2), np.log(0.25))}
  grad = run(table, student, fields, grad=True)
  np.testing.assert_allclose(grad[0, 0], [0.25] * 2 + [-0.05] * 10, rtol=1e-4)


@pytest.mark.parametrize('count', [3, V])
@pytest.mark.parametrize('options', KINDS, ids=str)
def test_gradients(table, options, count):
  student, fields = logits(0, scale=1.0), top(logits(1), count)
  direction = np.random.default_rng(3).normal(size=student.shape).astype(np.float32)
  total = lambda eps: float(
    run(table, student + eps * direction, fields, temperature=1.5, **options)[0].total
  )
  slope = (run(table, student, fields, temperature=1.5, grad=True, **options) * direction).sum()
  assert slope == pytest.approx((total(0.02) - total(-0.02)) / 0.04, rel=5e-3)


def test_only_the_mask_counts_and_entry_t_is_about_token_t(table):
  teacher = logits(1)
  params = {'table': jnp.asarray(logits(0)[0, :1].repeat(V, 0))}  # every token predicts the same
  mask = np.zeros((2, 5))
  mask[0, 2] = mask[1, 4] = 1
  batch = {'tokens': jnp.zeros((2, 5), int), 'mask': jnp.asarray(mask)}
  batch |= {k: jnp.asarray(v) for k, v in top(teacher, 4).items()}
  loss = lambda b: distill.loss_fn(params, b, None, model=table(V))
  mean, metrics = loss(batch)
  picked = [jnp.asarray(v[[0, 1], [2, 4]][:, None]) for v in top(teacher, 4).values()]
  alone = {'tokens': jnp.zeros((2, 1), int), 'mask': jnp.ones((2, 1))}
  alone |= dict(zip(('teacher_logits', 'teacher_ids'), picked))
  wanted, _ = distill.loss_fn(params, alone, None, model=table(V, causal=False))
  assert mean.count == 2 and mean.total == pytest.approx(float(wanted.total), rel=1e-5)
  assert metrics['trained_tokens'].total == 2


def test_what_is_missing(table):
  teacher = logits(1)
  with pytest.raises(BadInput, match='no teacher_logits'):
    run(table, logits(0), {})
  with pytest.raises(BadInput, match='no teacher_ids'):
    run(table, logits(0), {'teacher_logits': teacher[..., :3]})


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(divergence='forwards'), "did you mean 'forward'"),
    (dict(beta=0.5), 'does not use beta'),
    (dict(divergence='jsd', beta=2.0), 'beta 2.0'),
    (dict(temperature=0.0), 'temperature 0.0'),
  ],
)
def test_what_does_not_go_together(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(distill.loss_fn, **options)
