"""An interpreter that has started and waits: each program runs in a fork of it.

It reads neither programs nor tests, so a fork holds nothing of those before. A fork shares with the
others what an interpreter draws when it starts, such as the seed of `hash`.
"""

import atexit
import contextlib
import copy
import datetime
import gc
import heapq
import json
import os
import random
import signal
import socket
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

# What programs import most is there when they start; `random` draws a new seed after each fork.
PRELOADED = (copy, datetime, heapq, random, string)
_FLAGS = ('-I', '-S', '-B', '-X', 'utf8', '-c')
_ROOT = str(Path(__file__).parents[3])
_CODE = f"""
import sys
sys.path.append({_ROOT!r})
from llm_jax.rewards.confined import child, server
sys.path.remove({_ROOT!r})
child.readable_files()
server.serve(child.main)
"""
_LARGEST = 1 << 16  # bytes of a job
FILES = 5  # that come with it


class Server:
  """The caller's side: a server that starts when it is first needed, and ends with this process."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._socket: socket.socket | None = None
    self._process: subprocess.Popen | None = None
    self._owner = 0  # the process that started it, in which it is of use
    atexit.register(self._close)

  def start(self, job: dict, files: Sequence[int]) -> None:
    """Starts `serve`'s function in a fork.

    Args:
      job: its arguments.
      files: numbers of open files: of the output, of the end (child.py:main), and more.

    Raises:
      OSError: there is no server, and none can be started.
    """
    with self._lock:
      if self._owner == os.getpid() and self._asked(job, files):
        return
      self._close()
      self._begin()
      if not self._asked(job, files):
        raise OSError('the interpreter for programs does not start')

  def _asked(self, job: dict, files: Sequence[int]) -> bool:
    assert self._socket
    try:
      socket.send_fds(self._socket, [json.dumps(job).encode()], files)
      return self._socket.recv(1) == b'.'
    except OSError:
      return False

  def _close(self) -> None:
    if self._socket and self._process and self._owner == os.getpid():
      self._socket.close()
      self._process.kill()
      self._process.wait()

  def _begin(self) -> None:
    ours, theirs = socket.socketpair()
    command: list[str] = [sys.executable, *_FLAGS, _CODE]
    with theirs:
      self._process = subprocess.Popen(
        command,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={},
        cwd='/',
      )
    self._socket, self._owner = ours, os.getpid()


def serve(main: Callable[[dict, int, Sequence[int]], None]) -> None:
  """The server's side.

  Args:
    main: gets a job, the number of `end`, and those of the other files.
  """
  gc.freeze()  # what is there now is not copied for each fork to be looked through
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
  with socket.socket(fileno=os.dup(0)) as asked:
    while True:
      text, files, *_ = socket.recv_fds(asked, _LARGEST, FILES)
      if not text:
        return
      if not os.fork():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
          asked.close()
          output, end, *others = files
          os.setsid()
          with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
          os.dup2(output, 1)
          os.dup2(output, 2)
          os.close(output)
          main(json.loads(text), end, others)
        finally:
          os._exit(0)
      for file in files:
        os.close(file)
      with contextlib.suppress(OSError):
        asked.sendall(b'.')
