"""Picking a token: distributions exactly and by counting, and the log-probability that is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.sampling import pick
from llm_jax.types import BadInput

PROB = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
LOGP = jnp.log(jnp.asarray(PROB, jnp.float32))[None]


def kept(top_k, top_p, logp=LOGP):
  """The tokens that truncation leaves."""
  out = np.asarray(pick.truncate(logp, top_k, top_p))[0]
  stays = np.isfinite(out)
  np.testing.assert_array_equal(out[stays], np.asarray(logp)[0][stays])
  return set(np.flatnonzero(stays).tolist())


def test_top_k_keeps_the_k_most_likely():
  assert kept(1, None) == {1}
  assert kept(3, None) == {1, 3, 4}
  assert kept(5, None) == kept(50, None) == kept(None, None) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
  ('top_p', 'tokens'),
  [
    (0.01, {1}),
    (0.39, {1}),
    (0.41, {1, 3}),
    (0.64, {1, 3}),
    (0.66, {1, 3, 4}),
    (0.94, {0, 1, 3, 4}),
    (1.0, {0, 1, 2, 3, 4}),
  ],
)
def test_top_p_keeps_the_fewest_that_reach_p(top_p, tokens):
  assert kept(None, top_p) == tokens


def test_top_p_looks_at_what_top_k_left():
  # Of tokens 1 and 3 alone, the first has 0.4 / 0.65 = 0.615.
  assert kept(2, 0.6) == {1}
  assert kept(2, 0.63) == {1, 3}


def test_ties_at_the_border_stay():
  even = jnp.log(jnp.array([[0.25, 0.25, 0.25, 0.25]]))
  assert kept(2, None, even) == {0, 1, 2, 3}
  assert kept(None, 0.3, even) == {0, 1, 2, 3}


def test_rows_are_cut_one_by_one():
  logp = jnp.concatenate([LOGP, LOGP[:, ::-1]])
  out = np.isfinite(pick.truncate(logp, 3, 0.5))
  np.testing.assert_array_equal(out[1], out[0][::-1])


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def draw(logits=LOGP, count=40_000, seed=0, **how):
  rule = pick.make(**how)
  choose = jax.jit(lambda logits, keys: rule(logits, keys))
  token, logp, _ = choose(jnp.repeat(logits, count, axis=0), keys(count, seed))
  return np.asarray(token), np.asarray(logp)


@pytest.mark.parametrize(
  ('how', 'weight'),
  [
    ({}, PROB),
    (dict(temperature=0.5), PROB**2),
    (dict(temperature=2.0), PROB**0.5),
    (dict(top_k=2), PROB * [0, 1, 0, 1, 0]),
    (dict(top_p=0.66), PROB * [0, 1, 0, 1, 1]),
    (dict(temperature=0.5, top_k=3), PROB**2 * [0, 1, 0, 1, 1]),
  ],
  ids=str,
)
def test_samples_follow_the_distribution(how, weight):
  token, logp = draw(**how)
  found = np.bincount(token, minlength=5) / len(token)
  np.testing.assert_allclose(found, weight / weight.sum(), atol=0.012)  # 5 standard deviations
  assert not found[weight == 0].any()
  # What is told is the policy at this temperature, before truncation.
  full = PROB ** (1 / how.get('temperature', 1.0))
  np.testing.assert_allclose(logp, np.log(full / full.sum())[token], atol=1e-5)


def test_temperature_zero_is_argmax():
  logits = jax.random.normal(jax.random.key(1), (64, 11)) * 3
  token, logp, sampled = pick.make(temperature=0)(logits, keys(64))
  assert not sampled.any()
  np.testing.assert_array_equal(token, logits.argmax(-1))
  np.testing.assert_allclose(logp, jax.nn.log_softmax(logits).max(-1), atol=1e-6)


def test_top_1_is_argmax_too():
  logits = jax.random.normal(jax.random.key(1), (64, 11))
  token, _, sampled = pick.make(top_k=1)(logits, keys(64))
  np.testing.assert_allclose(sampled, 0, atol=1e-6)
  np.testing.assert_array_equal(token, logits.argmax(-1))


def test_one_seed_one_choice():
  first, second, other = (draw(count=200, seed=seed)[0] for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, second)
  assert (first != other).any()


def test_half_precision_logits_are_read_in_float32():
  _, logp, _ = pick.make()(LOGP.astype(jnp.bfloat16), keys(1))
  assert logp.dtype == jnp.float32


@pytest.mark.parametrize(
  ('how', 'message'),
  [
    (dict(temperature=-1.0), r'temperature -1\.0; choose a number from 0 upwards'),
    (dict(top_k=0), 'top_k 0; choose a whole number from 1 upwards'),
    (dict(top_p=0.0), r'top_p 0\.0; choose a number above 0, up to 1'),
    (dict(temperature=float('nan')), 'temperature nan; .* it has to be finite'),
    (dict(top_p=1.5), r'top_p 1\.5'),
  ],
)
def test_values_outside_their_range(how, message):
  with pytest.raises(BadInput, match=message):
    pick.make(**how)


SETTINGS = (
  dict(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.5),
  dict(temperature=0.0, top_k=5, top_p=1.0, min_p=0.0, repetition_penalty=1.0),
  dict(temperature=2.0, top_k=2, top_p=0.5, min_p=0.3, repetition_penalty=0.7),
)


def test_a_row_may_have_settings_of_its_own_and_others_compile_nothing():
  logits = jax.random.normal(jax.random.key(1), (3, 11)) * 2
  seen = jax.random.bernoulli(jax.random.key(2), 0.3, (3, 11))
  run = jax.jit(lambda rule, logits, keys, seen: rule(logits, keys, seen))
  each = {name: np.array([s[name] for s in SETTINGS]) for name in SETTINGS[0]}
  together = run(pick.Pick(**each), logits, keys(3), seen)
  for i, setting in enumerate(SETTINGS):
    alone = pick.make(**setting)(logits, keys(3), seen)
    for field in together._fields:
      found, wanted = (np.asarray(getattr(x, field))[i] for x in (together, alone))
      np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  run(
    pick.Pick(**{name: values[::-1].copy() for name, values in each.items()}), logits, keys(3), seen
  )
  assert run._cache_size() == 1


def test_what_was_sampled_from_is_the_policy_over_the_mass_that_was_kept():
  token, logp, sampled = jax.jit(pick.make(top_k=2))(jnp.repeat(LOGP, 50, axis=0), keys(50))
  np.testing.assert_allclose(sampled, logp - np.log(0.65), atol=1e-5)
  _, logp, sampled = pick.make()(LOGP, keys(1))
  np.testing.assert_array_equal(logp, sampled)


def test_min_p_keeps_what_is_likely_beside_the_best():
  assert np.isfinite(pick.truncate(LOGP, min_p=0.5))[0].tolist() == [False, True, False, True, True]


def test_ids_that_are_not_allowed_are_never_picked():
  allowed = np.array([True, False, True, True, True])
  found = draw(count=2000, allowed_V=allowed)[0]
  assert set(found.tolist()) == {0, 2, 3, 4}


@pytest.mark.parametrize('size', [1, 2, 7, 36, 50])
def test_inverting_the_distribution_draws_it(size):
  logp = np.random.default_rng(size).normal(0, 1.5, size).astype(np.float32)
  logp[size // 2 + 1 :: 3] = -np.inf
  wanted = np.exp(logp) / np.exp(logp).sum()
  token = jax.jit(pick.draw)(jnp.tile(logp, (20_000, 1)), keys(20_000))
  found = np.bincount(token, minlength=size) / 20_000
  np.testing.assert_allclose(found, wanted, atol=0.018)  # 5 standard deviations
  assert not found[wanted == 0].any()


def test_where_a_wide_sum_rounds_nothing_impossible_is_drawn():
  random = np.random.default_rng(0)
  weight = random.random(1000, np.float32) ** 4 * (random.random(1000) < 0.5)
  sums = np.asarray(jnp.cumsum(jnp.asarray(weight)))
  borders = sums / sums[-1]
  near = [borders]
  for side in np.float32([-1, 2]):
    near += [np.nextafter(borders, side), np.nextafter(np.nextafter(borders, side), side)]
  near = np.maximum(np.concatenate(near), np.float32(0))
  near = np.minimum(near, np.nextafter(np.float32(1), np.float32(0)))
  found = jax.jit(pick._first_above)(np.tile(weight, (len(near), 1)), near)
  assert (weight[found] > 0).all()
