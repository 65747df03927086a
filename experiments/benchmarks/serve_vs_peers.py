"""Job `serve` against other servers of OpenAI's interface, on one random model, in turns.

The peers are `transformers serve --continuous-batching`, which reads the model as a Hugging Face
folder, and llama.cpp's server (the wheel `xllamacpp`), which reads it as GGUF in float32. Each has
one thread for products, and llama.cpp as many slots as we have. Clients continue prompts of about
64 tokens by 128; an answer that has fewer events than tokens is counted as 128 all the same, since
no side may stop before. Prints one JSON table.

    pip install -e '.[serve,gguf,hf]'
    pip install torch==2.13.0 'transformers[serving]==5.24.0' accelerate xllamacpp  # in any venv
    python -m experiments.benchmarks.serve_vs_peers --peers-python peers/bin/python
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import serve, turns
from experiments.benchmarks.clients import events

NEW = serve.NEW
ONE_THREAD = {
  'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1',
  'OMP_NUM_THREADS': '1',
  'MKL_NUM_THREADS': '1',
}
# Asked of their Python: the program that serves, given the folder, the port and the slots.
LLAMA = """
import sys, time, xllamacpp
folder, port, slots = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = folder + '/model.gguf'
params.port, params.n_parallel, params.n_ctx = int(port), int(slots), 256 * int(slots)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cont_batching, params.warmup = True, True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(10**6)
"""


def exported(folder: str, artifact: str) -> None:
  """The model as a Hugging Face folder and as GGUF, beside each other."""
  from configs import convert as config
  from llm_jax.main import run

  for kind in ('huggingface', 'gguf'):
    c = config.get_config()
    c.artifact, c.format, c.workdir, c.dtype = artifact, kind, f'{folder}/{kind}', 'float32'
    run(c)


def command(name: str, folder: str, port: int, slots: int, python: str) -> list[str]:
  """What starts a peer."""
  if name == 'llama.cpp':
    return [python, '-c', LLAMA, f'{folder}/gguf', str(port), str(slots)]
  serving = str(Path(python).parent / 'transformers')
  more = ['--continuous-batching', '--device', 'cpu', '--dtype', 'float32', '--port', str(port)]
  return [serving, 'serve', *more, f'{folder}/huggingface']


@contextlib.contextmanager
def peer(name: str, folder: str, slots: int, python: str) -> Iterator[int]:
  """The port of a peer that is ready."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  quiet = subprocess.DEVNULL
  environment = {**os.environ, 'HF_HUB_OFFLINE': '1'}
  with subprocess.Popen(
    command(name, folder, port, slots, python), stdout=quiet, stderr=quiet, env=environment
  ) as process:
    try:
      for _ in range(300):
        if process.poll() is not None:
          raise RuntimeError(f'{name} ended with {process.returncode}')
        with contextlib.suppress(OSError, urllib.error.URLError):
          urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=1).close()
          break
        time.sleep(0.5)
      yield port
    finally:
      process.kill()


async def heard(port: int, body: dict[str, Any]) -> float:
  """Seconds to the first text of an answer, which is read to its end."""
  began, first = time.perf_counter(), None
  async with contextlib.aclosing(events(port, body)) as stream:
    async for payload in stream:
      if payload == '[DONE]':
        continue
      event = json.loads(payload)
      if 'error' in event:
        raise RuntimeError(payload)
      if first is None and any(choice.get('text') for choice in event.get('choices', ())):
        first = time.perf_counter() - began
  if first is None:
    raise RuntimeError('an answer without a text')
  return first


async def asked(port: int, bodies: Sequence[dict[str, Any]], clients: int) -> list[float]:
  """All bodies, by so many clients at a time."""
  waiting, found = list(bodies), []

  async def client() -> None:
    while waiting:
      found.append(await heard(port, waiting.pop()))

  await asyncio.gather(*(client() for _ in range(clients)))
  return found


def main() -> None:
  """Makes the model, starts the servers, lets them take turns, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=serve.SHAPES, default='a')
  parser.add_argument('--clients', default='1,8,32')
  parser.add_argument('--slots', type=int, default=8)
  parser.add_argument('--blocks', type=int, default=3, help='timed blocks of each side')
  parser.add_argument('--peers', default='llama.cpp,transformers')
  parser.add_argument('--peers-python', default=sys.executable)
  options = parser.parse_args()
  os.environ.update(ONE_THREAD)
  names = ['llm_jax', *filter(None, options.peers.split(','))]
  table: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
    artifact, folder = f'{place}/artifact', f'{place}/theirs'
    serve.make_artifact(artifact, options.shape)
    with contextlib.redirect_stdout(sys.stderr):
      exported(folder, artifact)
    model = {'llm_jax': 'artifact', 'llama.cpp': 'model', 'transformers': f'{folder}/huggingface'}
    ports = {'llm_jax': stack.enter_context(serve.served(artifact, options.slots))[0]}
    for name in names[1:]:
      ports[name] = stack.enter_context(peer(name, folder, options.slots, options.peers_python))
    from llm_jax.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(f'{artifact}/tokenizer')
    texts = [tokenizer.decode(ids) for ids in serve.prompts(64, 0)]
    body = lambda name, text: {
      'model': model[name], 'prompt': text, 'max_tokens': NEW, 'temperature': 0, 'stream': True,
      **({} if name == 'transformers' else {'ignore_eos': True}),  # an unknown field to it
    }  # fmt: skip
    run = lambda name, count, some: asyncio.run(
      asked(ports[name], [body(name, text) for text in some], count)
    )
    for count in map(int, options.clients.split(',')):
      rates: dict[str, list[float]] = {name: [] for name in names}
      firsts: dict[str, list[float]] = {name: [] for name in names}
      for name in names:
        run(name, count, texts[:count])
      for block in range(options.blocks):
        some = [texts[(block + i) % len(texts)] for i in range(max(4, 2 * count))]
        for name in names:
          began = time.perf_counter()
          firsts[name] += run(name, count, some)
          rates[name].append(len(some) * NEW / (time.perf_counter() - began))
      median = {name: statistics.median(values) for name, values in rates.items()}
      table[f'{count} clients'] = {
        'tokens_per_second': {name: round(value) for name, value in median.items()},
        'ratio': {name: round(median['llm_jax'] / median[name], 2) for name in names[1:]},
        'ratio_of_pairs': {
          name: [round(a / b, 2) for a, b in zip(rates['llm_jax'], rates[name], strict=True)]
          for name in names[1:]
        },
        'first_token_ms_p50': {name: serve.quantile(firsts[name], 0.5) for name in names},
      }
  print(json.dumps({**turns.where(), 'shape': options.shape, **table}, indent=2))


if __name__ == '__main__':
  main()
