"""Processes that tests start and kill, each forked from one that has imported what they need.

Half of what a short command does is import JAX, Orbax and the rest. One process per test session
does that, and starts neither JAX nor a thread. What is forked from it is a process like any other,
with its own environment, devices, output and end.
"""

import atexit
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload([
  *('llm_jax.main', 'llm_jax.jobs.compare', 'llm_jax.jobs.pipeline', 'llm_jax.jobs.train'),
  *('matplotlib.figure', 'matplotlib.backends.backend_svg', 'orbax.checkpoint.type_handlers'),
  *('jax.experimental.multihost_utils', 'tensorboardX.event_file_writer', 'tokenizers'),
])  # fmt: skip


class Process:
  """A function at work in a process of its own.

  Attributes:
    pid: its number.
  """

  def __init__(self, function, *args, **environ):
    """Starts it in the root of the clone.

    Args:
      function: of a module, which the process imports.
      args: of the function.
      environ: changes to the environment. JAX has read those of its options already.
    """
    self._files = [*map(tempfile.NamedTemporaryFile, ('w+b', 'w+b'))]  # they go with this object
    at_work = ([file.name for file in self._files], {**os.environ, **environ}, function, args)
    self._process = _context.Process(target=_work, args=at_work)
    self._process.start()
    self.pid = self._process.pid

  def poll(self):
    """Its exit status, negative for a signal that ended it, or None while it is at work."""
    return self._process.exitcode

  def wait(self, timeout=300):
    """Its exit status, and all that it said."""
    self._process.join(timeout)
    if self.poll() is None:
      raise subprocess.TimeoutExpired(f'process {self.pid}', timeout, self.said())
    return self.poll(), self.said()

  def said(self):
    """What it has said so far, errors last."""
    return ''.join(Path(file.name).read_text() for file in self._files)

  def errors(self):
    """What it has written to standard error so far."""
    return Path(self._files[1].name).read_text()

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)


def command(words, **environ):
  """`python -m llm_jax.main` with these words, as a `Process`."""
  return Process(_command, words, **environ)


def _command(words):
  from llm_jax import main

  sys.argv = ['llm_jax.main', *words]
  main.command()


def seldom():
  """Looks for garbage seldom: what tracing leaves is soon free, and what is imported stays."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


def _work(said, environ, function, args):
  seldom()
  for number, name in enumerate(said, 1):
    with open(name, 'wb') as file:
      os.dup2(file.fileno(), number)
  os.environ.clear()
  os.environ.update(environ)
  os.chdir(ROOT)
  try:
    function(*args)
  finally:  # which a process that was forked leaves out
    atexit._run_exitfuncs()
