"""1 where the program of an answer passes the tests of its record: HumanEval, arXiv:2107.03374.

A record has the columns of HumanEval (`test`, `entry_point`, and the beginning of the function in
its prompt), those of MBPP, arXiv:2108.07732 (`test_list`, `test_setup_code`, `test_imports`), or
`tests`, one text of Python or several.
"""

import ast
import re
from collections.abc import Sequence

from llm_jax.options import Count, Seconds
from llm_jax.rewards import sandbox
from llm_jax.rewards.thoughts import said
from llm_jax.types import BadInput

# Where what a model writes after the body of a function begins; the first five are HumanEval's.
STOP = ('\nclass ', '\ndef ', '\n#', '\nif ', '\nprint', '\n@', '\nassert ', '\n```')
_BLOCK = re.compile(r'^ {0,3}```[ \t]*(\w*)[^\n]*\n(.*?)(?:^ {0,3}```[ \t]*$|\Z)', re.DOTALL | re.M)
_PYTHON = ('', 'python', 'py', 'python3')


def reward(
  answer: str,
  gold: str = '',
  *,
  test: str | None,
  entry_point: str | None,
  test_list: Sequence[str] | None,
  test_setup_code: str | None,
  test_imports: Sequence[str] | None,
  tests: str | Sequence[str] | None,
  prompt: str = '',
  seconds: Seconds = 2.0,
  megabytes: Count = 512,
  stop: Sequence[str] = STOP,
  need: Sequence[str] = ('seccomp',),
) -> float:
  """1.0 if all tests pass within the limits, else 0.0; `gold` does not matter.

  The program runs in rewards/sandbox.py, and its tests in another process there. The columns that
  the record does not have are None.

  Args:
    answer: a text whose last block of Python is the program, or a program, or, where its first line
      is indented, what follows the function's head in the prompt.
    gold: not read.
    test: defines `check(candidate)`.
    entry_point: the name of what is checked.
    test_list: assertions.
    test_setup_code: what comes before the program.
    test_imports: more of it.
    tests: assertions, or a program with some.
    prompt: the question. If it is Python, or has a block of it, that comes before the program.
    seconds: of real time for an answer.
    megabytes: of address space, 2^20 bytes each.
    stop: texts that end a body.
    need: protections without which nothing is run (rewards/sandbox.py). With () programs are held
      by limits and an audit hook alone where the system has no more, which stops accidents only.

  Raises:
    BadInput: the record has no tests, or the machine lacks what is needed.
  """
  del gold
  checks = [test, f'check({entry_point})'] if test and entry_point else []
  checks += [*(test_list or ()), *([tests] if isinstance(tests, str) else tests or ())]
  if not any(map(str.strip, checks)):
    raise BadInput('code_tests: a record has neither test and entry_point, nor test_list or tests')
  before = [test_setup_code or '', *(test_imports or ()), beginning(prompt)]
  ran = sandbox.run(
    program(said(answer).answer, stop),
    '\n'.join(map(str, checks)),
    before='\n'.join(filter(None, before)),
    names=[entry_point] if entry_point else [],
    seconds=seconds,
    megabytes=megabytes,
    need=need,
  )
  if ran.outcome == 'refused':
    raise BadInput(
      f'code_tests: programs cannot be confined here ({ran.error}); run on Linux with seccomp, or '
      'set need=() to rely on limits and an audit hook, which a hostile program gets around'
    )
  return float(ran.passed)


def program(answer: str, stop: Sequence[str] = STOP) -> str:
  r"""The program of an answer.

  >>> program('Here it is:\n```python\nprint(1)\n```\nDone.')
  'print(1)\n'
  >>> program('  return x\n\ndef another():\n  pass')
  '  return x\n'

  Args:
    answer: in Markdown, or Python.
    stop: texts that end the body of a function, if the answer is one.
  """
  found = _block(answer)
  text = answer if found is None else found
  first = text.lstrip('\r\n')
  if first[:1] not in (' ', '\t'):
    return text
  ends = [at for at in map(first.find, stop) if at >= 0]
  return first[: min(ends, default=len(first))]


def beginning(prompt: str) -> str:
  """What a prompt has of the program: its last block of Python, or all of it if that is Python."""
  found = _block(prompt)
  text = prompt if found is None else found
  try:
    ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return ''
  return text


def _block(text: str) -> str | None:
  blocks = [match[2] for match in _BLOCK.finditer(text) if match[1].lower() in _PYTHON]
  return blocks[-1] if blocks else None
