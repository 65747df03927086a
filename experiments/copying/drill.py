"""How soon the tiny model copies: trained on nothing but random strings that repeat.

Each row is a string of 4 to 40 random tokens, again and again; only repetitions are targets. After
so many updates two copies of 30 tokens are scored, and the loss on the second one is printed: a
guess among all tokens is 8.3 nats, a model that copies comes near 0.

    python -m experiments.copying.drill --seeds 0,1,2

With --artifacts nothing is trained: finished models are scored on the same copies, and on two
copies of sentences of held-out text.

    python -m experiments.copying.drill --artifacts runs/gpt/pretrain runs/gpt/sft
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

VARIANTS: dict[str, tuple[dict[str, Any], float]] = {  # fields of the model, and `embedding_rate`
  'as usual': (dict(embedding_std=0.02, induction_heads=0), 1.0),
  'large embeddings': (dict(induction_heads=0), 6.0),
  'induction heads': (dict(embedding_std=0.02), 1.0),
  'both': ({}, 6.0),
}
BATCH, LENGTH, MEASURED = 16, 256, 30


def rows(seed: int) -> Iterator[dict[str, Any]]:
  """Batches of drills."""
  import numpy as np

  draw = np.random.default_rng(seed)
  while True:
    periods = draw.integers(4, 41, BATCH)
    strings = [draw.integers(300, 4096, period) for period in periods]
    tokens = np.stack([np.resize(string, LENGTH) for string in strings]).astype(np.int32)
    mask = (np.arange(LENGTH) >= periods[:, None]).astype(np.float32)
    position = np.tile(np.arange(LENGTH, dtype=np.int32), (BATCH, 1))
    yield dict(tokens=tokens, mask=mask, position=position, segment=np.ones_like(position))


def second_copy(model: Any) -> Callable[[Any, int], float]:
  """(params, seed) -> the loss on the second of two copies of random tokens, nats a token."""
  import jax
  import numpy as np

  from llm_jax.losses.logprobs import score

  scored = jax.jit(functools.partial(score, model))

  def loss(params: Any, seed: int) -> float:
    draw = np.random.default_rng(1000 + seed)
    twice = np.tile(draw.integers(300, 4096, (BATCH, MEASURED)), 2).astype(np.int32)
    position = np.tile(np.arange(2 * MEASURED, dtype=np.int32), (BATCH, 1))
    held_out = dict(tokens=twice, position=position, segment=np.ones_like(position))
    held_out['mask'] = (position >= MEASURED).astype(np.float32)
    return -float(np.asarray(scored(params, held_out))[:, -MEASURED + 1 :].mean())

  return loss


def second_sentence(made: Any) -> float:
  """The loss of an artifact on the second of two copies of a sentence, nats a token."""
  import jax
  import numpy as np

  from llm_jax.data import knowledge
  from llm_jax.losses.logprobs import score

  asked = knowledge.questions('test', classes=('unread',))
  sentences = dict.fromkeys(question['answer'] for question in asked)
  ids = [made.tokenizer.encode(f'{text}\n') for text in sentences]
  ids = [some for some in ids if MEASURED // 4 <= len(some) <= MEASURED]
  shape = len(ids), 2 * MEASURED
  batch = {name: np.zeros(shape, np.int32) for name in ('tokens', 'segment')}
  mask = np.zeros(shape, np.float32)
  for row, some in enumerate(ids):
    batch['tokens'][row, : 2 * len(some)] = [*some, *some]
    batch['segment'][row, : 2 * len(some)] = 1
    mask[row, len(some) + 1 : 2 * len(some)] = 1  # the first token of a copy is any
  position = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
  scored = jax.jit(functools.partial(score, made.model))
  logp = np.asarray(scored(made.params, dict(batch, position=position, mask=mask)))
  mask = mask[:, -logp.shape[1] :]
  return -float((logp * mask).sum() / mask.sum())


def of_artifact(path: str, seeds: list[int]) -> tuple[list[float], float]:
  """The losses of a finished model on a second copy, by seeds of the tokens, and of sentences."""
  import jax

  from configs import sizes
  from llm_jax import artifact
  from llm_jax.parallel.mesh import make_mesh

  mesh = make_mesh(fsdp=-1)
  with jax.set_mesh(mesh):
    made = artifact.load(path, mesh, sizes.compute('tiny').to_dict())
    loss = second_copy(made.model)
    return [loss(made.params, seed) for seed in seeds], second_sentence(made)


def losses(name: str, seed: int, steps: int, every: int) -> list[float]:
  """The loss on a second copy, at the start and after every so many updates."""
  import jax
  import jax.numpy as jnp

  from configs import pretrain, sizes
  from llm_jax.find import bind
  from llm_jax.losses import cross_entropy
  from llm_jax.models import transformer
  from llm_jax.parallel.mesh import make_mesh, shard_batch
  from llm_jax.training import optimizer
  from llm_jax.training.step import compile_step, make_state

  changes, rate = VARIANTS[name]
  shape = sizes.model('tiny').to_dict() | changes
  del shape['name']
  model = transformer.make(compute=sizes.compute('tiny').to_dict(), **shape)
  mesh, group = make_mesh(fsdp=-1), pretrain.get_config().optimizer.to_dict()
  with jax.set_mesh(mesh):
    tx, _ = optimizer.make(total_steps=steps, **group | dict(embedding_rate=rate))
    init = lambda: model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
    state = make_state(init, tx, mesh)
    loss_fn = bind(cross_entropy.loss_fn, {}, where='loss', model=model)
    step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=seed, accumulate=4)
    measured = second_copy(model)
    loss = lambda: measured(state.params, seed)
    found = [loss()]
    for number, batch in zip(range(1, steps + 1), rows(seed)):
      state, _ = step(state, shard_batch(batch, mesh))
      if number % every == 0:
        found.append(loss())
  return found


def main() -> None:
  from llm_jax.parallel.flags import tune_cpu
  from llm_jax.text.terminal import say

  tune_cpu()
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--every', type=int, default=20)
  parser.add_argument('--artifacts', nargs='+', default=[])
  args = parser.parse_args()
  seeds = [int(seed) for seed in args.seeds.split(',')]
  if args.artifacts:
    say('| model | second copy | of sentences |\n| --- | ---: | ---: |')
    for path in args.artifacts:
      found, sentences = of_artifact(path, seeds)
      spread = f'{sum(found) / len(found):.2f} ({min(found):.2f} to {max(found):.2f})'
      say(f'| {path} | {spread} | {sentences:.2f} |')
    return
  say(f'| model | {" | ".join(str(n) for n in range(0, args.steps + 1, args.every))} |')
  say('| --- |' + ' ---: |' * (args.steps // args.every + 1))
  began = time.perf_counter()
  for name in VARIANTS:
    found = [losses(name, seed, args.steps, args.every) for seed in seeds]
    cells = (f'{sum(x) / len(x):.2f} ({min(x):.2f} to {max(x):.2f})' for x in zip(*found))
    say(f'| {name} | {" | ".join(cells)} |')
  say(f'{len(seeds)} seeds, lowest to highest; {(time.perf_counter() - began) / 60:.0f} minutes')


if __name__ == '__main__':
  main()
