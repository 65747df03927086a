"""Mean: adding sums and counts is exact where a mean of means is not. Peak: the largest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.types import BadInput, Counts, Mean, Peak

VALUES = np.array([1.0, 2.0, 4.0, 8.0, 16.0], np.float32)
WEIGHT = np.array([1.0, 0.0, 1.0, 2.0, 0.5], np.float32)


def test_of_is_the_weighted_mean():
  mean = Mean.of(VALUES, WEIGHT)
  assert (float(mean.total), float(mean.count)) == (29.0, 4.5)
  assert float(mean.value) == pytest.approx(np.average(VALUES, weights=WEIGHT))


def test_of_without_weight_counts_every_value():
  assert float(Mean.of(VALUES).count) == 5 and float(Mean.of(VALUES).value) == VALUES.mean()
  assert float(Mean.of(7.0).value) == 7 and float(Mean.of(7.0).count) == 1


def test_the_weight_broadcasts_and_is_counted_as_often():
  mean = Mean.of(np.ones((2, 3)), np.array([1.0, 0.0, 1.0]))
  assert (float(mean.total), float(mean.count)) == (4.0, 4.0)


def test_parts_add_up_to_the_whole():
  for cut in range(6):
    parts = Mean.of(VALUES[:cut], WEIGHT[:cut]) + Mean.of(VALUES[cut:], WEIGHT[cut:])
    whole = Mean.of(VALUES, WEIGHT)
    assert (float(parts.total), float(parts.count)) == (float(whole.total), float(whole.count))
  halves = [Mean.of(VALUES[:2], WEIGHT[:2]), Mean.of(VALUES[2:], WEIGHT[2:])]
  assert float(sum(float(h.value) for h in halves) / 2) != float(Mean.of(VALUES, WEIGHT).value)


def test_addition_commutes_associates_and_has_a_zero():
  a, b, c = (Mean.of(v) for v in ([1.0, 2.0], [4.0], [8.0, 16.0, 32.0]))
  key = lambda m: (float(m.total), float(m.count))
  assert key(a + b) == key(b + a) and key((a + b) + c) == key(a + (b + c))
  assert key(a + Mean.of([], [])) == key(a)


def test_the_value_of_nothing_is_zero():
  for nothing in (Mean.of([]), Mean.of(VALUES, 0.0)):
    assert float(nothing.count) == 0 and float(nothing.value) == 0


def test_nothing_has_a_gradient_of_zero():
  grad = jax.grad(lambda x: Mean.of(x * VALUES, 0.0).value)(2.0)
  assert float(grad) == 0


def test_sums_are_float32_whatever_comes_in():
  for dtype in (jnp.bfloat16, jnp.int32, jnp.bool_, jnp.float32):
    mean = Mean.of(jnp.ones(300, dtype), jnp.ones(300, dtype))
    assert mean.total.dtype == mean.count.dtype == jnp.float32
    assert float(mean.total) == 300  # bfloat16 would stop at 256


def test_it_passes_through_jit_grad_and_scan():
  def body(carry, x):
    return carry + Mean.of(x), None

  zero = Mean(jnp.zeros(()), jnp.zeros(()))
  total, _ = jax.jit(lambda: jax.lax.scan(body, zero, VALUES))()
  assert isinstance(total, Mean) and float(total.value) == pytest.approx(VALUES.mean())
  doubled = jax.tree.map(lambda x: 2 * x, total)
  assert float(doubled.value) == float(total.value) and float(doubled.count) == 10


def test_the_largest_of_parts_is_that_of_the_whole():
  assert float(Peak.of(VALUES).value) == 16
  for cut in range(6):
    parts = Peak.of(VALUES[:cut], WEIGHT[:cut] > 1) if cut else Peak(jnp.zeros(()))
    rest = Peak.of(VALUES[cut:], WEIGHT[cut:] > 1) if cut < 5 else Peak(jnp.zeros(()))
    assert float((parts + rest).value) == float((rest + parts).value) == 8


def test_the_largest_of_nothing_is_zero():
  assert float(Peak.of(VALUES, 0).value) == 0
  assert float((Peak.of(VALUES) + Peak.of(VALUES, 0)).value) == 16


def test_what_does_not_count_may_hold_anything():
  peak = Peak.of(np.array([1.0, np.nan, np.inf], np.float32), np.array([1, 0, 0]))
  assert float(peak.value) == 1


def test_a_weight_broadcasts_against_what_it_selects():
  rows_BG1, where_BGL = np.array([[[3.0]], [[5.0]]]), np.array([[[1, 0]], [[0, 0]]])
  assert float(Peak.of(rows_BG1, where_BGL).value) == 3


def test_the_largest_is_float32_and_passes_through_jit_and_scan():
  zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(Peak.of, VALUES))
  body = lambda carry, x: (carry + Peak.of(x), None)
  peak, _ = jax.jit(lambda: jax.lax.scan(body, zero, VALUES.astype(jnp.bfloat16)))()
  assert isinstance(peak, Peak) and peak.value.dtype == jnp.float32 and float(peak.value) == 16


def test_bad_input_is_a_value_error():
  assert issubclass(BadInput, ValueError)


def total(sums):
  return sums['a'] / sums['b']


def test_counts_add_by_name_and_pass_through_jit():
  one, two = (
    Counts({'a': jnp.float32(a), 'b': jnp.float32(b)}, total) for a, b in ((1, 2), (2, 6))
  )
  both = jax.jit(lambda x, y: x + y)(one, two)
  assert isinstance(both, Counts) and float(both.value) == 3 / 8
  assert float((one + two).value) == float((two + one).value) == 3 / 8
