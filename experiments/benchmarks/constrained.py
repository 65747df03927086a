"""What a constrained answer costs its neighbours: seven others beside one, against eight plain.

All continue prompts of 64 random tokens; the others by 128 tokens, the constrained one, an array
without end by a JSON schema, as long as they do. The table has the tokens a second of the seven in
both cases. A neighbour gets four tokens where the constrained row gets one (`engine.BESIDE`).

    python -m experiments.benchmarks.constrained
"""

import argparse
import json
import pydoc

from experiments.benchmarks import turns
from experiments.benchmarks.train_vs_torch import SHAPES

PROMPT, NEW, ROWS = 64, 128, 8
SCHEMA = {
  'type': 'array',
  'minItems': 10**6,
  'items': {
    'type': 'object',
    'properties': {'name': {'type': 'string', 'maxLength': 20}, 'age': {'type': 'integer'}},
    'required': ['name', 'age'],
  },
}


def worker(name: str, shape: str) -> None:
  """Answers eight requests at a time; 'beside' constrains the first, 'plain' none."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import jax
  import numpy as np

  from llm_jax.models import transformer
  from llm_jax.sampling.engine import Engine, Request
  from llm_jax.text.grammar import Grammar
  from llm_jax.text.json_schema import value_of
  from llm_jax.text.token_mask import Held, Table, Vocabulary
  from llm_jax.text.tokenizer import Tokenizer

  dim, layers, heads, hidden, vocab, *_ = SHAPES[shape]
  model = transformer.make(
    vocab_size=vocab, dim=dim, num_layers=layers, num_heads=heads, hidden_dim=hidden,
    max_length=256, head='untied', compute=dict(scan_layers=False),
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
  tokenizer = Tokenizer.train([pydoc.plain(pydoc.render_doc(json))], vocab_size=700)
  vocabulary, grammar = Vocabulary(tokenizer, vocab), Grammar()
  grammar.start = value_of(SCHEMA, grammar)
  table = Table(grammar, vocabulary.longest)
  engine = Engine(model, params, tokenizer, slots=ROWS)
  engine.warm()
  number = iter(range(10**9))

  def one() -> float:
    draw = np.random.default_rng(next(number))
    prompts = draw.integers(0, tokenizer.vocab_size, (ROWS, PROMPT)).tolist()
    held = Held(table, vocabulary, []) if name == 'beside' else None
    first, *others = (
      engine.submit(Request(prompt=ids, max_new=NEW, seed=next(number), allow=allow))
      for ids, allow in zip(prompts, (held, *[None] * (ROWS - 1)), strict=True)
    )
    said, ended = dict.fromkeys((first, *others), 0), set()
    while not ended >= {*others}:
      for event in engine.step():
        said[event.id] += len(event.tokens)
        ended |= {event.id} if event.finish else set()
    engine.cancel(first)
    while engine.busy:
      engine.step()
    return said[first] / NEW

  turns.serve(one, lambda share: share)


def main() -> None:
  """Starts both workers, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=SHAPES, default='a')
  parser.add_argument('--steps', type=int, default=2, help='batches in a block')
  parser.add_argument('--blocks', type=int, default=5, help='timed blocks of each side')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    return worker(options.worker, options.shape)
  table = turns.take(
    'experiments.benchmarks.constrained',
    ['beside', 'plain'],
    ['--shape', options.shape],
    steps=options.steps,
    blocks=options.blocks,
    tokens=(ROWS - 1) * NEW,
  )
  print(json.dumps({**turns.where(), 'shape': options.shape, **table}, indent=2))


if __name__ == '__main__':
  main()
