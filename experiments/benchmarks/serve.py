"""Job `serve` under load, against the sampler that answers as many prompts at once, in turns.

Clients continue prompts of 64 random tokens by 128, by a model of random weights. The sampler does
the same in a process of its own, as one batch of as many prompts as there are clients. Prints one
JSON table: tokens a second of both and their ratio, seconds to the first token, whatever a stream
did that it must not, and how many answers differ from the same request alone.

    pip install -e '.[serve]' && python -m experiments.benchmarks.serve
    ... --clients 64 --seconds 600 --abort 0.2   memory over time, and answers lost or wrong
    ... --shared 48                              prompts that begin alike, known or not
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import turns
from experiments.benchmarks.clients import Heard, load
from experiments.benchmarks.train_vs_torch import SHAPES

PROMPT, NEW = 64, 128
WORDS = 1000  # of the tokenizer; the model has more rows
FIRST_WORD = 300  # before it are control tokens and bytes


def make_artifact(folder: str, shape: str) -> None:
  """Writes a model of random weights."""
  import pydoc
  import re as some_module

  import jax
  import jax.numpy as jnp

  from llm_jax import artifact
  from llm_jax.text.tokenizer import Tokenizer

  dim, layers, heads, hidden, vocab, *_ = SHAPES[shape]
  group = dict(
    name='transformer', vocab_size=vocab, dim=dim, num_layers=layers, num_heads=heads,
    hidden_dim=hidden, max_length=256, head='untied',
  )  # fmt: skip
  text = ''.join(pydoc.plain(pydoc.render_doc(module)) for module in (json, some_module, os))
  model = artifact.build(group)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  # Only whole words are ever the likeliest: there are servers that end at half a character.
  words_V = (jnp.arange(vocab) >= FIRST_WORD) & (jnp.arange(vocab) < WORDS)
  head = params['head']
  head['kernel'] = jnp.where(words_V, head['kernel'], 0)
  tokenizer = Tokenizer.train([text], vocab_size=WORDS)
  config = {'model': group, 'data': {'template': 'llm_jax'}}
  artifact.save(folder, artifact.Artifact(model, params, tokenizer, config))


def sampler(folder: str, batch: int) -> None:
  """A worker that answers `batch` prompts on request, as one batch."""
  from llm_jax.parallel.flags import tune_cpu

  tune_cpu()
  import functools

  import jax
  import numpy as np

  from llm_jax import artifact
  from llm_jax.parallel.mesh import make_mesh
  from llm_jax.sampling import complete, pick
  from llm_jax.sampling.generate import generate

  made = artifact.load(folder, make_mesh(data=1), dict(scan_layers=False))
  choose = pick.make(temperature=0.0, allowed_V=complete.spoken(made.model, made.tokenizer))
  prompt_BP = np.array(prompts(batch, 0), np.int32)
  run = jax.jit(functools.partial(generate, model=made.model, max_new=NEW, stop=(), pick=choose))
  turns.serve(
    lambda: run(made.params, prompt_BP, np.ones_like(prompt_BP), jax.random.key(0)),
    lambda out: float(out['old_logp'].mean()),
  )


def prompts(count: int, shared: int, seed: int = 0) -> list[list[int]]:
  """Random ids, none of them a control token, of which the first ones are the same in all."""
  import random

  draw = random.Random(seed)
  some = lambda size: [draw.randrange(FIRST_WORD, WORDS) for _ in range(size)]
  begin = some(shared)
  return [[*begin, *some(PROMPT - shared)] for _ in range(count)]


@contextlib.contextmanager
def served(folder: str, slots: int, *more: str) -> Iterator[tuple[int, int]]:
  """The port and the process of a server."""
  command = [
    sys.executable, '-m', 'llm_jax.main', '--config=configs/serve.py', '--config.port=0',
    f'--config.artifact={folder}', f'--config.engine.slots={slots}', '--config.log=False', *more,
  ]  # fmt: skip
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    try:
      ready = next(line for line in process.stdout if line.startswith('ready'))
      found = re.search(r':(\d+)/v1', ready)
      assert found is not None
      yield int(found[1]), process.pid
    finally:
      process.terminate()
      if process.wait(60):
        raise RuntimeError(f'the server ended with {process.returncode}')


def metric(port: int, name: str) -> float:
  """A number of the server."""
  with urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics') as reply:
    found = re.search(rf'^{name} (\S+)$', reply.read().decode(), re.MULTILINE)
  assert found is not None
  return float(found[1])


def quantile(values: Sequence[float], share: float) -> float | None:
  """In milliseconds."""
  ordered = sorted(values)
  return (
    round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if values else None
  )


def told(heard: Sequence[Heard], alone: dict[int, str] | None) -> dict[str, Any]:
  """What clients heard, in numbers."""
  whole = [one for one in heard if not one.left and not one.wrong]
  firsts = [one.first for one in whole if one.first is not None]
  gaps = [gap for one in whole for gap in one.gaps]
  wrong: dict[str, int] = {}
  for one in heard:
    for what in one.wrong:
      wrong[what[:80]] = wrong.get(what[:80], 0) + 1
  found: dict[str, Any] = {
    'requests': len(heard),
    'whole': len(whole),
    'left': sum(one.left for one in heard),
    'wrong': wrong,
    'first_token_ms': {'p50': quantile(firsts, 0.5), 'p95': quantile(firsts, 0.95)},
    'gap_ms': {'p50': quantile(gaps, 0.5), 'p95': quantile(gaps, 0.95)},
  }
  if alone is not None:
    found['differ_from_alone'] = sum(one.text != alone[one.prompt] for one in whole)
  return found


class Sampler:
  """The worker, which is asked for seconds."""

  def __init__(self, folder: str, batch: int) -> None:
    command = [sys.executable, '-m', 'experiments.benchmarks.serve', '--sampler', str(batch)]
    pipe = subprocess.PIPE
    self._worker = subprocess.Popen([*command, folder], stdin=pipe, stdout=pipe, text=True)

  def seconds(self, times: int) -> float:
    """Of so many batches."""
    assert self._worker.stdin is not None and self._worker.stdout is not None
    self._worker.stdin.write(f'{times}\n')
    self._worker.stdin.flush()
    line = next(line for line in self._worker.stdout if line.startswith('{"seconds"'))
    return json.loads(line)['seconds']

  def end(self) -> None:
    """Ends the worker."""
    self._worker.communicate()


FIELDS = {'max_tokens': NEW, 'temperature': 0, 'ignore_eos': True}


def compare(folder: str, clients: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
  """Rates of the server and of the sampler, in turns."""
  asked = prompts(32, 0)
  run = lambda port, count, **how: asyncio.run(load(port, asked, FIELDS, clients=count, **how))
  table = {}
  for count in clients:
    with served(folder, options.slots or count) as (port, process):
      alone = {one.prompt: one.text for one in run(port, 1, requests=len(asked))[0]}
      compiled = metric(port, 'llm_jax_compilations_total')
      worker = Sampler(folder, count)
      worker.seconds(1)  # compiles
      batches = max(2, 8 // count)
      rates: dict[str, list[float]] = {'server': [], 'sampler': []}
      heard: list[Heard] = []
      run(port, count, requests=count)
      for block in range(options.blocks):
        found, seconds = run(port, count, requests=count * batches, abort=options.abort, seed=block)
        heard += found
        rates['server'].append(sum(one.tokens for one in found) / seconds)
        rates['sampler'].append(count * NEW * batches / worker.seconds(batches))
      worker.end()
      median = {name: round(statistics.median(values)) for name, values in rates.items()}
      table[f'{count} clients'] = {
        'tokens_per_second': median,
        'ratio': round(median['server'] / median['sampler'], 3),
        'ratio_of_pairs': [round(a / b, 2) for a, b in zip(*rates.values(), strict=True)],
        **told(heard, alone),
        'compiled_after_ready': metric(port, 'llm_jax_compilations_total') - compiled,
        'megabytes': _held(process),
      }
  return {'levels': table}


def _held(process: int) -> int:
  status = Path(f'/proc/{process}/status').read_text()
  return round(int(status.partition('VmRSS:')[2].split()[0]) / 1024)


async def _watched(process: int, every: float, seen: list[tuple[float, int]]) -> None:
  began = time.perf_counter()
  while True:
    seen.append((round(time.perf_counter() - began, 1), _held(process)))
    await asyncio.sleep(every)


def soak(folder: str, clients: int, options: argparse.Namespace) -> dict[str, Any]:
  """Many clients for long: what is lost or wrong, and how memory grows after the first minute."""
  asked, seen = prompts(64, 0), []

  async def run(port: int, process: int) -> tuple[list[Heard], float]:
    watch = asyncio.create_task(_watched(process, max(1.0, options.seconds / 60), seen))
    how: Any = dict(clients=clients, seconds=options.seconds, abort=options.abort)
    try:
      return await load(port, asked, FIELDS, **how)
    finally:
      watch.cancel()

  with served(folder, options.slots or 32) as (port, process):
    first, _ = asyncio.run(load(port, asked, FIELDS, clients=1, requests=len(asked)))
    alone = {one.prompt: one.text for one in first}
    heard, seconds = asyncio.run(run(port, process))
    time.sleep(1)
    open_after = metric(port, 'llm_jax_requests_running') + metric(port, 'llm_jax_requests_waiting')
    warm = next((held for at, held in seen if at >= min(60, options.seconds / 4)), seen[-1][1])
    return {
      'clients': clients,
      'seconds': round(seconds),
      'tokens_per_second': round(sum(one.tokens for one in heard) / seconds),
      **told(heard, alone),
      'open_one_second_after': open_after,
      'megabytes': [held for _, held in seen][:: max(1, len(seen) // 12)],
      'growth_after_a_minute': round(seen[-1][1] / warm - 1, 4),
    }


def prefix(folder: str, options: argparse.Namespace) -> dict[str, Any]:
  """Milliseconds to the first token of one client, with a beginning that is known and without."""
  firsts: dict[str, list[float]] = {'unknown': [], 'known': []}
  fields = {**FIELDS, 'max_tokens': 2}
  with served(folder, 1, '--config.engine.chunk=16') as (port, _):
    for block in range(max(8, options.blocks)):
      for name, shared in (('unknown', 0), ('known', options.shared)):
        asked = prompts(3, shared, seed=1000 + block)
        found, _ = asyncio.run(load(port, asked, fields, clients=1, requests=3))
        firsts[name] += [one.first for one in found[1:] if one.first is not None]
        if shared:
          assert all(one.cached >= shared // 16 * 16 for one in found[1:]), found[1:]
  p50 = {name: quantile(values, 0.5) for name, values in firsts.items()}
  ratio = statistics.median(firsts['known']) / statistics.median(firsts['unknown'])
  return {'first_token_ms': p50, 'ratio': round(ratio, 3)}


def main() -> None:
  """Makes the model, measures, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=SHAPES, default='a')
  parser.add_argument('--clients', default='1,8,32', help='at a time, divided by commas')
  parser.add_argument('--slots', type=int, default=0, help='of the engine; by default one a client')
  parser.add_argument('--blocks', type=int, default=5, help='timed blocks of each side')
  parser.add_argument('--abort', type=float, default=0.0, help='share of clients who go away')
  parser.add_argument('--seconds', type=float, default=0.0, help='of a soak')
  parser.add_argument('--shared', type=int, default=0, help='tokens with which all prompts begin')
  parser.add_argument('--sampler', type=int, default=0, help=argparse.SUPPRESS)
  parser.add_argument(
    'folder', nargs='?', default='', help='an artifact, in place of random weights'
  )
  options = parser.parse_args()
  if options.sampler:
    return sampler(options.folder, options.sampler)
  clients = [int(word) for word in options.clients.split(',')]
  with tempfile.TemporaryDirectory() as made:
    folder = options.folder or made
    if not options.folder:
      make_artifact(folder, options.shape)
    if options.seconds:
      table = soak(folder, clients[-1], options)
    elif options.shared:
      table = prefix(folder, options)
    else:
      table = compare(folder, clients, options)
  print(json.dumps({**turns.where(), 'shape': options.shape, **table}, indent=2))


if __name__ == '__main__':
  main()
