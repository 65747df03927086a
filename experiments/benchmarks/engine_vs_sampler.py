"""The engine of `sampling/engine.py` against `generate` at the same batch, in float32.

Both continue prompts of 64 random tokens by 128 sampled ones with one model, in alternating blocks
of one process each. The engine is warm and has slots of its own number; each batch brings prompts
that it has not seen. With `--uneven` lengths are geometric with a mean of a quarter of the room,
and `generate` is given all rows at once, which is what a rollout does. Prints one JSON table.

    python -m experiments.benchmarks.engine_vs_sampler --batch 8
"""

import argparse
import json

from experiments.benchmarks import turns
from experiments.benchmarks.train_vs_torch import SHAPES

PROMPT = 64


def worker(name: str, options: argparse.Namespace) -> None:
  """Answers a batch on request."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import functools

  import jax
  import numpy as np

  from llm_jax.models import transformer
  from llm_jax.sampling import pick
  from llm_jax.sampling.engine import Engine, Request
  from llm_jax.sampling.generate import generate
  from llm_jax.sampling.request import STOPS
  from llm_jax.text.tokenizer import Tokenizer

  dim, layers, heads, hidden, vocab, *_ = SHAPES[options.shape]
  # A random model stops nowhere, so that the share of ids that stop is the mean of the lengths.
  vocab = STOPS * options.new // 4 if options.uneven else vocab
  stop = tuple(range(STOPS)) if options.uneven else ()
  model = transformer.make(
    vocab_size=vocab, dim=dim, num_layers=layers, num_heads=heads, hidden_dim=hidden,
    max_length=options.length, head='untied', compute=dict(scan_layers=False),
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
  number = iter(range(10**9))

  def prompts() -> np.ndarray:
    shape = (options.batch, PROMPT)
    return np.random.default_rng(next(number)).integers(0, vocab, shape, np.int32)

  if name == 'sampler':
    how = dict(model=model, max_new=options.new, stop=stop, pick=pick.make(temperature=1.0))
    run = jax.jit(functools.partial(generate, **how))

    def one() -> float:
      ids = prompts()
      out = run(params, ids, np.ones_like(ids), jax.random.key(next(number)))
      return float(out['mask'].sum())

  else:
    tokenizer = Tokenizer.train(['the cat sat on the mat'], vocab_size=280)
    tokenizer.vocab_size = vocab  # all ids of the model may be said
    engine = Engine(
      model, params, tokenizer, slots=options.slots, columns=options.columns, chunk=options.chunk
    )
    engine.warm()

    def one() -> float:
      how = dict(max_new=options.new, stop=stop)
      asked = [Request(prompt=p.tolist(), seed=next(number), **how) for p in prompts()]
      return float(sum(len(event.tokens) for event in engine.answers(asked)))

  turns.serve(one, lambda out: out)


def main() -> None:
  """Starts both workers, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=SHAPES, default='a')
  parser.add_argument('--length', type=int, default=256)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--new', type=int, default=128)
  parser.add_argument('--slots', type=int, default=32)
  parser.add_argument('--columns', type=int, default=8)
  parser.add_argument('--chunk', type=int, default=64)
  parser.add_argument('--uneven', action='store_true')
  parser.add_argument('--steps', type=int, default=2, help='batches in a block')
  parser.add_argument('--blocks', type=int, default=5, help='timed blocks of each side')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    return worker(options.worker, options)
  names = ('shape', 'length', 'batch', 'new', 'slots', 'columns', 'chunk')
  passed = [word for name in names for word in (f'--{name}', str(getattr(options, name)))]
  table = turns.take(
    'experiments.benchmarks.engine_vs_sampler',
    ['engine', 'sampler'],
    passed + ['--uneven'] * options.uneven,
    steps=options.steps, blocks=options.blocks, tokens=options.batch * options.new,
  )  # fmt: skip
  about = {**turns.where(), **{name: getattr(options, name) for name in names}}
  print(json.dumps({**about, 'uneven': options.uneven, **table}, indent=2))


if __name__ == '__main__':
  main()
