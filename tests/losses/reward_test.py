"""Reward losses against TRL's numbers, where a score is read, and what K answers weigh."""

import functools
import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from llm_jax.losses import reward
from llm_jax.losses.reward import answer_scores, centre
from llm_jax.types import BadInput

# Rankings of four, best first, whose losses TRL's formulas gave; Ziegler's labels name the best.
RANKED = [[3.0, 2.0, 1.3, 0.0], [0.2, 0.7, 0.3, 0.0]]
BEST_FIRST = [[3.0, 2.0, 1.3, 0.0], [0.7, 0.2, 0.3, 0.0]]


class Given:
  """A reward model whose score is a field of the batch: tokens point into `scores`."""

  shape = SimpleNamespace(causal=True)

  def apply(self, params, x, *place, method):
    return x[..., 0] if method == 'unembed' else (params['scores'][x][..., None], None)


@functools.cache
def compiled(grad, **options):
  loss = lambda s, batch: reward.loss_fn({'scores': s}, batch, None, model=Given(), **options)
  return jax.jit(jax.grad(lambda s, batch: loss(s, batch)[0].total) if grad else loss)


def run(score_BG, given=None, *, grad=False, **options):
  """The loss of given scores, nan where there is no answer; `given` is the margin of the batch."""
  score_BG = np.array(score_BG, float)
  real = np.isfinite(score_BG)
  batch = {
    'tokens': jnp.arange(real.size).reshape(*real.shape, 1),
    'segment': jnp.asarray(real[..., None], jnp.int32),
  }
  if given is not None:
    batch['margin'] = jnp.asarray(given, jnp.float32)
  flat = jnp.asarray(np.where(real, score_BG, 0).ravel())
  return compiled(grad, **options)(flat, batch)


def log_sigmoid(x):
  return -math.log1p(math.exp(-x))


def test_scores_are_theirs(reward_model):
  found = jax.jit(functools.partial(answer_scores, reward_model.model))(
    reward_model.params, reward_model.batch
  )
  assert found.shape == (3, 2) and found.dtype == jnp.float32
  np.testing.assert_allclose(found, reward_model.scores, rtol=1e-4)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('bt', {}),
    ('bt_center.01', dict(centering=0.01)),
    ('bt_margin(3,1,0)', dict(margin='given')),
    ('bt_margin(3,1,0)', dict(margin='large')),
    ('bt_margin(3,1,0)', dict(margin=(0.0, 1.0, 2.0, 3.0))),
  ],
)
def test_their_numbers(reward_model, theirs, name, options):
  batch = reward_model.batch | {'margin': jnp.array([3.0, 1.0, 0.0])}
  loss = functools.partial(reward.loss_fn, model=reward_model.model, **options)
  mean, _ = jax.jit(loss)(reward_model.params, batch, jax.random.key(0))
  assert mean.count == 3
  assert mean.value == pytest.approx(theirs['reward'][name], rel=1e-4)


def test_rankings_of_four(theirs):
  for ranking, wanted in zip(RANKED, theirs['reward']['kwise_per_prompt'], strict=True):
    assert run([ranking])[0].value == pytest.approx(wanted, rel=1e-5)
  wanted = theirs['reward']['ziegler_best_of_4']
  assert run(BEST_FIRST, kind='best_of_k')[0].value == pytest.approx(wanted, rel=1e-5)


def test_openrlhf(theirs):
  mean, _ = run([[1.0, 0.2], [0.5, 0.0]], [1.0, 0.5], **reward.PRESETS['openrlhf'])
  assert mean.value == pytest.approx(theirs['openrlhf']['pairwise_margin'], rel=1e-5)


@pytest.mark.parametrize('count', [2, 3, 5, 9])
def test_a_ranking_is_the_mean_of_its_pairs_and_weighs_as_much(count):
  ranking = np.random.default_rng(count).normal(size=count)
  pairs = [list(pair) for pair in itertools.combinations(ranking, 2)]
  mean, metrics = run([ranking])
  apart, apart_metrics = run(pairs)
  assert mean.count == 1
  assert mean.value == pytest.approx(float(apart.value), rel=1e-5)
  for name, metric in metrics.items():
    assert metric.value == pytest.approx(float(apart_metrics[name].value), rel=1e-5), name
  padded = [[*ranking, *[np.nan] * (10 - count)], [1.0, 0.5, *[np.nan] * 8], [np.nan] * 10]
  both, _ = run(padded)
  assert both.count == 2
  wanted = (float(mean.value) - log_sigmoid(0.5)) / 2
  assert both.value == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize('kind', ['pairwise', 'best_of_k'])
def test_answers_that_are_not_there_have_no_gradient(kind):
  scores = [[0.3, np.nan, -0.2], [0.1, np.nan, np.nan], [np.nan] * 3]
  grad = run(scores, kind=kind, centering=0.1, grad=True).reshape(3, 3)
  assert np.isfinite(grad).all() and (grad[0, [0, 2]] != 0).all()
  assert grad[0, 1] == 0 and not grad[1:].any()  # one answer is no ranking
  assert run(scores, kind=kind)[0].count == 1


@pytest.mark.parametrize(
  'options', [{}, dict(margin='small'), dict(centering=0.2), dict(kind='best_of_k')], ids=str
)
def test_gradients(options):
  real = jnp.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
  batch = {'tokens': jnp.arange(12).reshape(3, 4, 1), 'segment': real[..., None]}
  batch['margin'] = jnp.array([3.0, 0.0, 2.0])
  loss = lambda s: reward.loss_fn({'scores': s}, batch, None, model=Given(), **options)[0].total
  scores = jnp.asarray(np.random.default_rng(0).normal(size=12), jnp.float32)
  check_grads(loss, (scores,), order=1, modes=['rev'], rtol=1e-2, atol=1e-3, eps=1e-2)


def test_margins_by_grade():
  gap, small = 0.4, (0, 1 / 3, 2 / 3, 1)
  for grade in range(4):
    for margin, wanted in (
      ('small', small[grade]),
      ('large', grade),
      ((7.0, 8.0), 7 + (grade > 0)),
    ):
      mean, _ = run([[gap, 0.0]], [grade], margin=margin)
      assert mean.value == pytest.approx(-log_sigmoid(gap - wanted), rel=1e-5)


def test_metrics_by_hand():
  _, metrics = run([[1.0, 2.0], [0.5, -1.0]])
  wanted = dict(accuracy=0.5, margin=0.25, chosen_score=0.75, rejected_score=0.5)
  assert {k: float(v.value) for k, v in metrics.items()} == pytest.approx(wanted)


@pytest.mark.parametrize('left', [False, True], ids=['right', 'left'])
@pytest.mark.parametrize('width', [1, 7])
def test_padding_and_its_side_do_not_matter(reward_model, width, left):
  scored = jax.jit(functools.partial(answer_scores, reward_model.model))
  batch = {k: np.asarray(v) for k, v in reward_model.batch.items()}
  padded = {k: np.pad(v, ((0, 0), (0, 0), (0, width))) for k, v in batch.items()}
  padded['tokens'] = np.where(padded['segment'] > 0, padded['tokens'], 2)  # eos, which is real too
  if left:
    length = padded['segment'].sum(-1)
    columns = padded['tokens'].shape[-1]
    shift = (np.arange(columns) + length[..., None]) % columns
    padded = {k: np.take_along_axis(v, shift, -1) for k, v in padded.items()}
    assert padded['segment'][..., -1].all() and not padded['segment'][..., 0].any()
  found = scored(reward_model.params, padded)
  np.testing.assert_allclose(found, scored(reward_model.params, batch), atol=1e-5)


def test_a_row_without_tokens_scores_0_and_hurts_nobody(reward_model):
  batch = jax.tree.map(lambda x: x.at[1].set(0), reward_model.batch)
  value = lambda p: reward.loss_fn(p, batch, None, model=reward_model.model)[0].total
  scores = jax.jit(functools.partial(answer_scores, reward_model.model))(reward_model.params, batch)
  assert not scores[1].any() and scores[0].all()
  grads = jax.jit(jax.grad(value))(reward_model.params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_centred_scores(reward_model):
  scored = jax.jit(functools.partial(answer_scores, reward_model.model))
  batch, params = reward_model.batch, reward_model.params
  before = scored(params, batch)
  after = scored(centre(params, before), batch)
  np.testing.assert_allclose(after, before - before.mean(), atol=1e-5)
  twice = scored(centre(centre(params, before), after, scale=True), batch)
  assert twice.mean() == pytest.approx(0, abs=1e-5) and twice.std() == pytest.approx(1, rel=1e-5)
  np.testing.assert_allclose(twice, after / before.std(), atol=1e-5)


def test_what_cannot_be_centred(reward_model, preferences):
  with pytest.raises(BadInput, match='no scalar head'):
    centre(preferences.params, jnp.ones(3))
  with pytest.raises(BadInput, match='no scores'):
    centre(reward_model.params, jnp.ones(0))
  with pytest.raises(BadInput, match='not all equal'):
    centre(reward_model.params, jnp.ones(3), scale=True)
  with pytest.raises(BadInput, match='mean nan'):
    centre(reward_model.params, jnp.array([1.0, jnp.nan]))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(kind='pair'), "did you mean 'pairwise'"),
    (dict(margin='smal'), "did you mean 'small'"),
    (dict(margin=()), 'empty'),
    (dict(kind='best_of_k', margin='none'), 'does not use margin'),
    (dict(centering=-1.0), 'centering -1.0; choose a number from 0'),
  ],
)
def test_what_does_not_go_together(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(reward.loss_fn, **options)


def test_a_margin_that_is_not_there():
  with pytest.raises(BadInput, match='needs data with a margin'):
    run(RANKED, margin='large')
