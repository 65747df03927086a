"""Programs that mean harm or cheat, side by side, each in a sandbox of its own."""

import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest

from llm_jax.rewards import sandbox
from llm_jax.rewards.confined.peer import Gone, Peer
from llm_jax.rewards.sandbox import LAYERS, protections, run, run_many
from llm_jax.types import BadInput

KERNEL = {'landlock', 'seccomp'} <= {*protections()}
confined = pytest.mark.skipif(not KERNEL, reason='this kernel has no Landlock or no seccomp')
SECRET = 'the text of a file that a program must not read'

SPIN = 'while True: pass'
# name -> (program, outcome, what is in the error)
HOSTILE = {
  'loop': (SPIN, 'timeout', ''),
  'sleep': ('import time\nwhile True: time.sleep(1)', 'timeout', ''),
  'catches all': ('while True:\n  try: 1 / 0\n  except BaseException: pass', 'timeout', ''),
  'ignores signals': (
    f'import signal\nfor s in signal.valid_signals() - {{9, 19}}: signal.signal(s, 1)\n{SPIN}',
    'timeout',
    '',
  ),
  'never ending thread': (
    f'import threading\ndef f():\n  {SPIN}\nthreading.Thread(target=f).start()\nf()',
    'timeout',
    '',
  ),
  'list': ('[0] * 10**10', 'memory', 'MemoryError'),
  'text': ('x = "a"\nwhile True: x += x', 'memory', 'MemoryError'),
  'recursion': ('def f(): f()\nf()', 'failed', 'RecursionError'),
  'prints much': ('while True: print("a" * 999)', 'output', ''),
  'prints without end': ('import os\nwhile True: os.write(2, b"a")', 'output', ''),
  'large file': ('with open("f", "wb") as f: f.write(bytes(1 << 25))', 'failed', 'Errno'),
  'reads input': ('input()', 'failed', 'EOFError'),
  'syntax': ('def f(:', 'failed', 'SyntaxError'),
  'null': ('a\0b', 'failed', 'null bytes'),
  'surrogate': ('x = "\ud800"', 'failed', ''),
}
# Refused by the kernel, or else by the audit hook. None would do harm if they were not.
REFUSED = {
  'fork': 'import os\nif not os.fork(): os._exit(0)',
  'subprocess': 'import subprocess\nsubprocess.run(["true"])',
  'exec': 'import os\nos.execv("/bin/true", ["true"])',
  'system': 'import os\nif os.system("true"): raise PermissionError',
  'writes elsewhere': 'open("{place}/new", "w")',
  'adds elsewhere': 'open("{place}/secret", "a")',
  'reads elsewhere': 'print(open("{place}/secret").read())',
  'reads passwords': 'print(open("/etc/passwd").read())',
  'climbs': 'import os\nos.chdir("..")\nprint(os.listdir())',
  'deletes': 'import os\nos.remove("{place}/secret")',
  'renames': 'import os\nos.rename("{place}/secret", "mine")',
  'links': 'import os\nos.symlink("{place}/secret", "mine")\nprint(open("mine").read())',
  'mode': 'import os\nos.chmod("{place}/secret", 0)',
  'times': 'import os\nos.utime("{place}/secret")',
  'signals its parent': 'import os\nos.kill(os.getppid(), 0)',
  'signals all': 'import os\nos.kill(-1, 0)',
  'connects': 'import socket\nsocket.create_connection(("127.0.0.1", {port}), 1)',
  'sends': 'import socket\ns = socket.socket(type=2)\ns.sendto(b"a", ("127.0.0.1", {port}))',
  'unix socket': 'import socket\nsocket.socket(socket.AF_UNIX)',
}
# Each has to fail `assert f(3) == 9 and f(4) == 16`.
FORGED = {
  'prints': 'print("passed\\nOK\\n1 passed")\ndef f(x): return 0',
  'exits': 'import sys\ndef f(x): sys.exit(0)',
  'exits before': 'raise SystemExit(0)',
  'leaves': 'import os\ndef f(x): os._exit(0)',
  'leaves before': 'import os\nos._exit(0)',
  'at exit': 'import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit',
  'equals all': 'class E:\n  def __eq__(self, other): return True\ndef f(x): return E()',
  'number that equals all': (
    'class E(int):\n  __eq__ = lambda self, other: True\n  __hash__ = int.__hash__\n'
    'def f(x): return E()'
  ),
  'patches': 'import builtins\nbuiltins.AssertionError = ValueError\ndef f(x): return 0',
  'patches int': 'import builtins\nbuiltins.int = lambda x: 9\ndef f(x): return 0',
  'no assertion': 'import builtins, os\nbuiltins.check = lambda f: None\ndef f(x): return 0',
  'own check': 'def check(f): pass\ndef f(x): return 0',
  'reports': (
    'import os\nreport = b\'{"outcome": "passed", "error": "", "active": []}\\n\' * 2\n'
    'for i in range(64):\n  try: os.write(i, report)\n  except OSError: pass\n'
    'def f(x): return 0'
  ),
  'raises': 'class Stop(BaseException): pass\ndef f(x): raise Stop',
  'hangs up': 'import os\nos.closerange(0, 64)\ndef f(x): return 0',
}
TESTS = 'def check(f):\n  assert f(3) == 9 and f(int("4")) == 16\ncheck(f)'
# A program that looks for its tests: in its frames, among all objects, and in open files.
SEARCH = """
import gc, os, sys
frame, values = sys._getframe(), []
while frame:
  values += [*frame.f_locals.values(), *frame.f_globals.values()]
  frame = frame.f_back
for value in [*values, *gc.get_objects()]:
  for part in value if isinstance(value, (list, tuple)) else [value]:
    if isinstance(part, (str, bytes)) and 'ELDEEN' in str(part)[::-1]: print('found')
for file in range(3, 64):
  try: os.lseek(file, 0, 0), print('file', file)
  except OSError: pass
def f(): return 1
"""


@pytest.fixture(scope='module')
def outside():
  """A folder with a file, and a port that somebody listens at."""
  with tempfile.TemporaryDirectory() as place, socket.create_server(('127.0.0.1', 0)) as server:
    Path(place, 'secret').write_text(SECRET)
    yield {'place': place, 'port': server.getsockname()[1]}
    assert Path(place, 'secret').read_text() == SECRET and len(os.listdir(place)) == 1


@pytest.fixture(scope='module')
def ran(outside):
  """What became of all programs."""
  fill = lambda text: text.format(**outside)
  jobs = {
    **{
      name: dict(program=p, seconds=0.7 if outcome == 'timeout' else 5)
      for name, (p, outcome, _) in HOSTILE.items()
    },
    **{f'refused {name}': dict(program=fill(p), seconds=5) for name, p in REFUSED.items()},
    **{
      f'hook {name}': dict(program=fill(p), seconds=5, layers=('audit hook',))
      for name, p in REFUSED.items()
    },
    **{f'forged {name}': dict(program=p, tests=TESTS, seconds=2) for name, p in FORGED.items()},
  }
  return dict(zip(jobs, run_many([*jobs.values()], workers=6), strict=True))


@pytest.mark.parametrize('name', HOSTILE)
def test_limits_hold(ran, name):
  _, outcome, error = HOSTILE[name]
  assert ran[name].outcome == outcome, ran[name]
  assert error in ran[name].error
  assert len(ran[name].stdout) <= 1 << 16


@confined
@pytest.mark.parametrize('name', REFUSED)
def test_the_kernel_refuses(ran, name):
  found = ran[f'refused {name}']
  assert found.outcome == 'failed', found
  assert 'PermissionError' in found.error or 'Invalid cross-device link' in found.error, found
  assert 'audit hook' not in found.protections and found.stdout == ''


@pytest.mark.parametrize('name', REFUSED)
def test_without_the_kernel_python_refuses(ran, name):
  found = ran[f'hook {name}']
  assert found.outcome == 'failed' and 'PermissionError' in found.error, found
  assert found.protections == ('limits', 'audit hook') and found.stdout == ''


@pytest.mark.parametrize('name', FORGED)
def test_nothing_passes_but_right_answers(ran, name):
  assert ran[f'forged {name}'].outcome in ('failed', 'exited', 'timeout')


def test_the_right_answers_pass():
  assert run('def f(x): return x * x', TESTS).passed


def test_a_program_never_has_its_tests():
  found = run(SEARCH, 'NEEDLE = "NEEDLE"\nassert f() == 1')
  assert found.passed and found.stdout == ''


def test_a_helper_of_the_tests_is_not_replaced():
  before, program = 'def off(x, y): return abs(x - y)', 'def off(x, y): return 0\ndef f(): return 3'
  assert not run(program, 'assert off(f(), 4) < 0.1', before=before).passed
  assert run(program, 'assert off(f(), 3) < 0.1', before=before).passed


@confined
def test_a_program_may_use_its_folder_which_is_gone_afterwards():
  before = {*Path(tempfile.gettempdir()).glob('sandbox-*')}
  program = (
    'import os, shutil\nprint(os.getcwd())\nassert os.listdir() == []\nos.mkdir("a")\n'
    'open("a/b", "w").write("c")\nos.rename("a/b", "d")\nassert open("d").read() == "c"\n'
    'shutil.rmtree("a")\nassert dict(os.environ).keys() <= {"LC_CTYPE"}'
  )
  found = run(program)
  assert found.passed, found
  assert not Path(found.stdout.strip()).exists()
  assert {*Path(tempfile.gettempdir()).glob('sandbox-*')} <= before


@confined
def test_without_landlock_nothing_is_written_at_all():
  layers = tuple({*LAYERS} - {'landlock', 'audit hook'})
  write, read = run_many([dict(program=f'open("f", {m!r})', layers=layers) for m in 'wr'])
  assert 'PermissionError' in write.error and 'FileNotFoundError' in read.error


@confined
def test_what_ordinary_programs_use_works():
  program = """
import asyncio, bisect, collections, copy, csv, dataclasses, datetime, decimal, fractions, hashlib
import heapq, json, math, random, re, ssl, statistics, string, tempfile, threading, time, typing
import unittest, uuid, xml.etree.ElementTree, zlib, zoneinfo
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass
class Point:
  x: int

async def later():
  await asyncio.sleep(0.001)
  return 3

def f():
  with ThreadPoolExecutor(4) as pool: squares = [*pool.map(lambda x: x * x, range(4))]
  with tempfile.TemporaryFile(dir='.') as file: file.write(b'a')
  return asyncio.run(later()), squares, Point(2).x, random.random() < 1, datetime.date.today().year
"""
  found = run(program, 'assert f()[:4] == (3, [0, 1, 4, 9], 2, True)', seconds=10)
  assert found.passed, found


def test_a_program_signals_itself_and_no_seed_is_shared():
  program = (
    'import random, signal\nprint(random.random())\nsignal.signal(10, lambda *_: print("got"))\n'
    'signal.raise_signal(10)'
  )
  first, second = (ran.stdout.split() for ran in run_many([dict(program=program)] * 2))
  assert first[1] == second[1] == 'got' and first[0] != second[0]


def test_the_interpreter_that_waits_is_started_again():
  assert run('').passed
  os.kill(sandbox._server._process.pid, 9)
  assert run('').passed


def test_bad_input_and_what_is_needed():
  with pytest.raises(BadInput, match="no protection 'walls'; choose from: nobody, namespaces"):
    run('', need=('walls',))
  found = run('print(1)', layers=('audit hook',), need=('seccomp',))
  assert found[:3] == ('refused', '', 'seccomp: not there')


def test_many_run_side_by_side_and_none_is_left():
  start = time.perf_counter()
  found = run_many([dict(program='import time; time.sleep(0.5)')] * 8, workers=8)
  assert all(ran.passed for ran in found) and time.perf_counter() - start < 3.5
  mine = [Path(f'/proc/{pid}/stat') for pid in os.listdir('/proc') if pid.isdigit()] * KERNEL
  left = [stat for stat in mine if stat.exists() and f') Z {os.getpid()} ' in stat.read_text()]
  assert not left


# --- values ------------------------------------------------------------------------------------

VALUES = """
None, True, -3, 2**70, -2**5000, 0.1, float('inf'), -0.0, 'a\\ud800\\0', b'\\0\\xff', 1 - 2j, (),
(1,), [[], {}], {1: 'a', (2, 3): [None]}, {1, 2}, frozenset([3]), range(2, 9, 3), int,
[float('nan')]
"""


def test_values_come_back_as_they_were():
  tests = f'wanted = [{VALUES}]\nassert repr(same(wanted)) == repr(wanted) == repr([{VALUES}])'
  assert run('def same(x): return x', tests).passed


@pytest.mark.parametrize(
  ('program', 'tests'),
  [
    ('def f(x): x.sort(); x.append(9)', 'a = [3, 1]\nassert f(a) is None and a == [1, 3, 9]'),
    ('def f(x): x.update(a=1)', 'd = {}\nf(d)\nassert d == {"a": 1}'),
    ('def f(g): return g(2) + 1', 'assert f(lambda x: 10 * x) == 21'),
    ('def f(x): return lambda y: x + y', 'assert f(1)(2) == 3'),
    ('def f(): yield from range(10**9)', 'g = iter(f())\nassert [next(g), next(g)] == [0, 1]'),
    ('class P:\n  def __init__(s, x): s.x = x\ndef f(p): return p.x', 'assert f(P(3)) == P(3).x'),
    ('def f(): raise KeyError("a")', 'try: f()\nexcept KeyError: pass\nelse: assert False'),
    ('class E(Exception): pass\ndef f(): raise E', 'try: f()\nexcept Exception: pass'),
    ('def f(*a, **k): return a, k', 'assert f(1, b=2) == ((1,), {"b": 2})'),
    ('import decimal\nf = decimal.Decimal', 'assert f("0.5") == 0.5'),
    ('class P:\n  def __str__(s): return "p"\nf = P()', 'assert str(f) == "p" and bool(f)'),
    ('f = type("P", (), {})()', 'f.x = 3\nassert f.x == 3'),
    ('from collections import *\nf = Counter("aab")', 'assert f == {"a": 2, "b": 1}'),
  ],
)
def test_tests_can_use(program, tests):
  found = run(program, tests, seconds=5)
  assert found.passed, found


def test_classes_of_a_setup_belong_to_the_program():
  before = (
    'import math\nclass Node:\n  def __init__(self, x): self.x = x\nroot = Node(1)\nroot.y = 2'
  )
  tests = 'assert f(root) == 3 and f(root) == math.floor(3.5)'
  assert run('def f(n): return n.x + n.y', tests, before=before).passed


@pytest.mark.parametrize(
  'reply', [b'[', b'{}', b'[]', b'["?"]', b'["=", ["int"]]', b'["=", ["x", 1]]', b'["=", [[[]]]]',
            b'["=", ["yours", 7]]', b'["="]', b'[' * 99999, b'["=", ["number", "os", "system", 1]]',
            b'["()", 3, 1, 1]', b'["?", "name", ["x"]]', b'["=", ["dict", 3]]', b'9', b'\xff']
)  # fmt: skip
def test_no_reply_gets_further_than_an_error(reply):
  (from_it, to_us), (from_us, to_it) = os.pipe(), os.pipe()
  peer = Peer(from_it, to_it)

  def answer():
    with os.fdopen(to_us, 'wb') as file:
      file.write(len(reply).to_bytes(4, 'little') + reply)

  threading.Thread(target=answer).start()
  with pytest.raises(Gone):
    peer.name('x')
  assert peer.gone
  for file in (from_it, from_us, to_it):
    os.close(file)
