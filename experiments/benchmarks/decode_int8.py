"""Tokens a second of one answer: float32 against weights of int8, of a random model.

python -m experiments.benchmarks.decode_int8 [LAYERS]

Weights are int8 by output, embedding included; activations are rounded to int8 for products
(`compute.products='int8'`), or not. Runs take turns, and the median of five counts.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.compress import effect, walk
from llm_jax.compress import round as rounding
from llm_jax.models import transformer
from llm_jax.models.compressed import Compressed
from llm_jax.sampling import pick
from llm_jax.sampling.generate import generate

SHAPE = dict(vocab_size=32768, dim=768, num_heads=12, max_length=512)
PROMPT, NEW, TURNS = 16, 64, 5


def main(layers: str = '12') -> None:
  """Prints a table."""
  make = lambda products: transformer.make(
    **SHAPE, num_layers=int(layers), compute=dict(scan_layers=False, products=products)
  )
  base = make('float')
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32768, (1, PROMPT)), jnp.int32)
  params = jax.jit(base.init)(jax.random.key(0), tokens)
  method = rounding.make()
  forms = walk.planned(base, method.form, tables=('embedding',))
  made, few = walk.compress(base, params, method, forms)
  runs = {
    'float32': (base, params),
    'int8, activations as they are': (made, few),
    'int8, activations too': (Compressed(make('int8'), made.forms), few),
  }
  print(f'{base.num_params() / 1e6:.0f}M parameters, {NEW} tokens after {PROMPT}, batch 1')
  programs = {name: program(model) for name, (model, _) in runs.items()}
  seconds = {name: [] for name in runs}
  for turn in range(TURNS + 1):
    for name, (_, weights) in runs.items():
      began = time.perf_counter()
      jax.block_until_ready(programs[name](weights, tokens))
      if turn:
        seconds[name].append(time.perf_counter() - began)
  print('| weights | megabytes | tokens a second | of float32 |\n| --- | --- | --- | --- |')
  first = statistics.median(seconds['float32'])
  for name, (_, weights) in runs.items():
    one = statistics.median(seconds[name])
    print(f'| {name} | {effect.size(weights) / 1e6:.0f} | {NEW / one:.1f} | {first / one:.2f}x |')


def program(model):
  """Greedy answers of `NEW` tokens."""
  greedy = pick.make(temperature=0.0)

  def run(params, tokens):
    mask, key = jnp.ones_like(tokens), jax.random.key(0)
    return generate(params, tokens, mask, key, model=model, max_new=NEW, stop=(), pick=greedy)

  return jax.jit(lambda params, tokens: run(params, tokens)['tokens'])


if __name__ == '__main__':
  main(*sys.argv[1:])
