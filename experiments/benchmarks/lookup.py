"""Tokens a second of one answer at a time, by prompt look-up against the plain loop.

Two engines of one slot take turns at the same requests, and their answers have to be the same bits.
'Repeating' requests begin with a text that is there three times and are answered greedily; the
others are sampled after a short prompt. A random model repeats itself when it is greedy, so it
shows the most that there is to gain, and sampled the least. Prints one JSON table.

    python -m experiments.benchmarks.lookup [--artifact FOLDER] [--lookup 7]
"""

import argparse
import json
import statistics
import time

from experiments.benchmarks import turns

PROMPT, NEW = 16, 96


def main() -> None:
  """Makes the engines, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--artifact', default='', help='a model; else a random one')
  parser.add_argument('--layers', type=int, default=12, help='of the random one')
  parser.add_argument('--lookup', type=int, default=7, help='tokens that are proposed')
  parser.add_argument('--requests', type=int, default=4, help='of each kind')
  parser.add_argument('--turns', type=int, default=3)
  options = parser.parse_args()
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import jax
  import numpy as np

  from llm_jax import artifact
  from llm_jax.models import transformer
  from llm_jax.parallel.mesh import make_mesh
  from llm_jax.sampling.engine import Engine, Request
  from llm_jax.text.tokenizer import Tokenizer

  compute = dict(scan_layers=False)
  if options.artifact:
    made = artifact.load(options.artifact, make_mesh(data=1), compute)
    model, params, tokenizer = made.model, made.params, made.tokenizer
  else:
    shape = dict(vocab_size=32768, dim=768, num_heads=12, max_length=256, head='untied')
    model = transformer.make(**shape, num_layers=options.layers, compute=compute)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
    tokenizer = Tokenizer.train(['the cat sat on the mat'], vocab_size=280)
    tokenizer.vocab_size = 32768  # all ids of the model may be said
  engines = {}
  for name, ahead in (('plain', 0), ('lookup', options.lookup)):
    engines[name] = Engine(model, params, tokenizer, slots=1, length=256, lookup=ahead)
    engines[name].warm()
  assert engines['lookup'].looks, 'the programs do not give the same bits'
  draw = np.random.default_rng(0)
  some = lambda: draw.integers(260, tokenizer.vocab_size, PROMPT).tolist()
  sampled = [
    Request(prompt=some(), max_new=NEW, temperature=0.8, seed=i) for i in range(options.requests)
  ]
  texts = [list(event.tokens[:32]) for event in engines['plain'].answers(sampled)]
  greedy = [Request(prompt=text * 3, max_new=NEW, temperature=0.0) for text in texts]
  table = {}
  for kind, asked in (('repeating', greedy), ('sampled', sampled)):
    rates = {name: [] for name in engines}
    for turn in range(options.turns + 1):
      said = {}
      for name, engine in engines.items():
        began = time.perf_counter()
        said[name] = [engine.answers([request])[0] for request in asked]
        if turn:
          count = sum(len(event.tokens) for event in said[name])
          rates[name].append(count / (time.perf_counter() - began))
      bits = lambda events: [(e.tokens, e.logprobs, e.sampled, e.finish) for e in events]
      assert bits(said['plain']) == bits(said['lookup'])
    median = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    table[kind] = {**median, 'ratio': round(median['lookup'] / median['plain'], 2)}
  about = {'parameters': model.num_params(), 'lookup': options.lookup}
  print(json.dumps({**turns.where(), **about, **table}, indent=2))


if __name__ == '__main__':
  main()
