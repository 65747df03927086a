"""Golden numbers of quantization, in tests/fixtures/quant_*: a layer, and a tiny trained Llama.

They come from NumPy, compressed-tensors and the package gguf. The layer has W [24, 256], inputs X
[288, 256] with a few large channels, and one channel that is 0. The model reads bytes.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.models import huggingface, transformer

FIXTURES = Path(__file__).parents[1] / 'fixtures'


def _arrays(name):
  with np.load(FIXTURES / name) as file:
    return dict(file)


LAYER, MODEL = _arrays('quant_layer.npz'), _arrays('quant_model.npz')
ERRORS = json.loads((FIXTURES / 'quant_layer.json').read_text())['errors']
NATS = json.loads((FIXTURES / 'quant_model.json').read_text())
X = LAYER['X'].astype(np.float32)
HESSIAN = 2 * X.T.astype(np.float64) @ X / len(X)


def product_error(made):
  """Of the products of X with weights, against those with W."""
  wanted = X @ LAYER['W'].T
  return np.linalg.norm(X @ made.T - wanted) / np.linalg.norm(wanted)


@functools.cache
def model():
  """The trained model and its parameters."""
  made = transformer.make(**huggingface.shape_of(json.loads(str(MODEL['config']))))
  weights = {name[2:]: array for name, array in MODEL.items() if name.startswith('p.')}
  return made, huggingface.from_hf(weights, made.shape)


def batch(name):
  """The rows of text `calib` or `evals` as a batch."""
  tokens = jnp.asarray(MODEL[name].astype(np.int32))
  position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return {'tokens': tokens, 'position': position, 'segment': jnp.ones_like(tokens)}


@functools.partial(jax.jit, static_argnums=0)
def _nats(one, params, tokens):
  logp = jax.nn.log_softmax(one.apply(params, tokens)[0])[:, :-1]
  return -jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()


def nats(one, params):
  """Nats a byte of held-out text."""
  return float(_nats(one, params, batch('evals')['tokens']))
