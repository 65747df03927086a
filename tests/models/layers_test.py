"""Norms, rotary positions, MLPs and the flattened product, against plain numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import layers
from llm_jax.models.layers import MLP, Norm, product, rotary, rotate

draw = np.random.default_rng(0)


def normal(*shape):
  return draw.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('kind', ['rms', 'layer'])
def test_norm(kind):
  x, scale, bias = normal(3, 8) * 5 + 2, normal(8), normal(8)
  params = {'scale': scale} if kind == 'rms' else {'scale': scale, 'bias': bias}
  out = Norm(kind, 1e-3).apply({'params': params}, x)
  if kind == 'rms':
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale
  else:
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    wanted = wanted * scale + bias
  np.testing.assert_allclose(out, wanted, atol=1e-5)
  half = Norm(kind, 1e-3).apply({'params': params}, jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize('kind', ['swiglu', 'gelu'])
def test_mlp(kind):
  x, up, gate, down = normal(2, 3, 8), normal(8, 12), normal(8, 12), normal(12, 8)
  up_bias, down_bias = normal(12), normal(8)
  params = {'up': up, 'down': down, 'up_bias': up_bias, 'down_bias': down_bias}
  hidden = x @ up + up_bias
  if kind == 'swiglu':
    params['gate'] = gate
    hidden *= x @ gate / (1 + np.exp(-(x @ gate)))
  else:
    hidden = hidden / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
  out = MLP(12, kind, True, 1.0).apply({'params': params}, x)
  np.testing.assert_allclose(out, hidden @ down + down_bias, atol=1e-4, rtol=1e-4)


def test_product_contracts_the_last_axes_with_the_first():
  x, weight = normal(2, 3, 4, 5), normal(4, 5, 6, 7)
  wanted = np.einsum('abij,ijkl->abkl', x, weight)
  np.testing.assert_allclose(product(x, weight, axes=2), wanted, atol=1e-4)
  half = product(jnp.asarray(x, jnp.bfloat16), weight, axes=2, dtype=jnp.float32)
  assert half.dtype == jnp.float32
  one = product(x[0, 0, 0], weight[0].reshape(5, -1))
  np.testing.assert_allclose(one, x[0, 0, 0] @ weight[0].reshape(5, -1), atol=1e-5)


def test_rotation_turns_pairs_by_position_times_frequency():
  position, x = np.array([[0, 1, 5]]), normal(1, 3, 2, 8)
  out = np.asarray(rotate(x, *rotary(position, 8, 100.0)))
  for t, p in enumerate(position[0]):
    for i in range(4):
      z = (x[0, t, :, i] + 1j * x[0, t, :, i + 4]) * np.exp(1j * p * 100.0 ** (-2 * i / 8))
      np.testing.assert_allclose(out[0, t, :, i], z.real, atol=1e-5)
      np.testing.assert_allclose(out[0, t, :, i + 4], z.imag, atol=1e-5)
  np.testing.assert_array_equal(out[0, 0], x[0, 0])


def test_long_wavelengths_are_stretched():
  scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=64)
  theta, size = 1e4, 16
  cos, sin = rotary(jnp.ones((1, 1)), size, theta, scaling)
  angles = np.arctan2(sin, cos)[0, 0]  # at position 1, the frequencies themselves
  for i, angle in enumerate(angles):
    frequency = theta ** (-2 * i / size)
    wavelength = 2 * math.pi / frequency
    if wavelength < 64 / 4:
      wanted = frequency
    elif wavelength > 64 / 1:
      wanted = frequency / 8
    else:
      smooth = (64 / wavelength - 1) / (4 - 1)
      wanted = (1 - smooth) * frequency / 8 + smooth * frequency
    assert angle == pytest.approx(wanted, rel=1e-5)


def test_rotation_keeps_the_type_and_works_under_jit():
  x = jnp.asarray(normal(1, 2, 1, 4), jnp.bfloat16)
  turn = jax.jit(lambda x: rotate(x, *rotary(jnp.arange(2)[None], 4, 1e4)))
  assert turn(x).dtype == jnp.bfloat16


@pytest.mark.parametrize('turned', [8, 4])
def test_rotation_on_a_tpu_gives_the_same_bits(monkeypatch, turned):
  x, grad = (jnp.asarray(normal(2, 5, 3, 8), jnp.bfloat16) for _ in range(2))
  angles = rotary(jnp.asarray(draw.integers(0, 99, (2, 5))), turned, 1e4)
  there_and_back = lambda: jax.vjp(lambda x: rotate(x, *angles), x)
  out, back = there_and_back()
  monkeypatch.setattr(layers, 'platform', lambda: 'tpu')
  out_tpu, back_tpu = there_and_back()
  np.testing.assert_array_equal(out, out_tpu)
  np.testing.assert_array_equal(back(grad)[0], back_tpu(grad)[0])
