"""A thousand labels over HTTP, with the label server killed every fifty: which are lost, or twice?

python -m experiments.reliability.labels

The client does what the page does: it sends a label again, with the same id, until the server says
that it has it. The server dies by SIGKILL while a label is sent, and starts again on the same file.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from llm_jax.jobs.label_server import tokens
from llm_jax.labels import candidates
from llm_jax.labels.log import Log

SERVER = """
import sys, time
from pathlib import Path
from llm_jax.jobs.label_server import Server, tokens
from llm_jax.labels.log import Log

folder, port = sys.argv[1:]
folder = Path(folder)
log = Log(folder / 'labels.sqlite')
made = Server(log, tokens(folder / 'tokens.json', ['ann']), port=int(port))
made.start()
print('ready', flush=True)
time.sleep(1e6)
"""


class Killed:
  """A label server that is started again whenever it is gone.

  Args:
    folder: of its file.
    port: that it listens on.
  """

  def __init__(self, folder: Path, port: int) -> None:
    self.folder, self.port, self.deaths = folder, port, 0
    self.start()

  def start(self) -> None:
    command = [sys.executable, '-c', SERVER, str(self.folder), str(self.port)]
    self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
    if not self.process.stdout or self.process.stdout.readline() != b'ready\n':
      raise SystemExit('the server did not start')

  def kill(self) -> None:
    os.kill(self.process.pid, signal.SIGKILL)
    self.process.wait()
    self.deaths += 1


def post(port: int, path: str, body: dict[str, Any], token: str) -> dict[str, Any] | None:
  """What is answered; None if nobody does."""
  link = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
  headers = {'content-type': 'application/json', 'authorization': f'Bearer {token}'}
  try:
    link.request('POST', path, json.dumps(body), headers)
    answer = link.getresponse()
    return json.loads(answer.read()) if answer.status == 200 else None
  except (OSError, http.client.HTTPException, ValueError):
    return None
  finally:
    link.close()


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
  parser.add_argument('--labels', type=int, default=1000)
  parser.add_argument('--every', type=int, default=50, help='labels between two kills')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  draw = random.Random(args.seed)
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    records = [{'prompt': f'q{i}', 'responses': ['one', 'two']} for i in range(args.labels)]
    log = Log(folder / 'labels.sqlite')
    log.put(candidates.items((str(i), one) for i, one in enumerate(records))[0])
    names = log.names()
    token = tokens(folder / 'tokens.json', ['ann'])['ann']
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    server, again, known, began = Killed(folder, port), 0, 0, time.perf_counter()
    for number, item in enumerate(names):
      event = {'item': item, 'kind': 'compare', 'shown': ['r0', 'r1'], 'client': f'c{number}'}
      event |= {'value': {'grade': 1, 'better': 'r1'}, 'seconds': 3}
      dies = number % args.every == args.every - 1
      if dies:
        killer = threading.Timer(draw.uniform(0, 0.01), server.kill)
        killer.start()
      while (told := post(port, '/event', event, token)) is None:
        again += 1
        if dies:
          killer.join()
          server.start()
          dies = False
      if dies:  # it was acknowledged before the server died
        killer.join()
        server.start()
      known += not told['new']
    passed = time.perf_counter() - began
    server.kill()
    kept = Counter(one['client'] for one in log.events())
    whole = log._open.execute('pragma integrity_check').fetchone() == ('ok',)
    log.close()
    lost = sum(f'c{number}' not in kept for number in range(args.labels))
    twice = sum(count > 1 for count in kept.values())
    print(
      f'{args.labels} labels, {server.deaths - 1} kills in {passed:.0f} s: {lost} lost, {twice} '
      f'twice; {again} sent again, {known} of these were on the disk already; file whole: {whole}'
    )


if __name__ == '__main__':
  main()
