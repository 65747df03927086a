"""Questions about Python's standard library, answered with what its docstrings say.

The subjects are functions and classes of well-known modules in the train split of `builtin`, which
pretraining has read. A subject is used if a few rules can turn its first sentence into an answer:
'Return the variance of data.' becomes 'It returns the variance of data.' Validation and test ask
about the same subjects in words that train never uses.
"""

import functools
import hashlib
import importlib
import itertools
import random
import re
from collections import Counter
from typing import NamedTuple

from llm_jax.data import builtin
from llm_jax.data.families import (
  BETTER,
  NEGLIGIBLY,
  SIGNIFICANTLY,
  SLIGHTLY,
  dialogue,
  idle,
  preference,
)

_MODULES = {
  'argparse', 'ast', 'asyncio', 'base64', 'binascii', 'bisect', 'builtins', 'bz2', 'calendar',
  'collections', 'contextlib', 'copy', 'csv', 'datetime', 'difflib', 'enum', 'fileinput',
  'fnmatch', 'fractions', 'functools', 'gc', 'getpass', 'glob', 'gzip', 'hashlib', 'heapq',
  'html', 'inspect', 'io', 'itertools', 'json', 'linecache', 'locale', 'logging', 'math', 'os',
  'os.path', 'pathlib', 'pickle', 'platform', 'pprint', 'queue', 'random', 're', 'secrets',
  'shelve', 'shlex', 'shutil', 'signal', 'socket', 'statistics', 'string', 'subprocess', 'sys',
  'tempfile', 'textwrap', 'threading', 'time', 'timeit', 'tokenize', 'traceback', 'types',
  'typing', 'urllib.parse', 'uuid', 'warnings', 'weakref', 'zipfile', 'zlib',
}  # fmt: skip
# Files inside of these modules, and the name under which everybody imports what they define.
_PUBLIC = {
  'asyncio.tasks': 'asyncio', 'genericpath': 'os.path', 'posixpath': 'os.path', '': 'builtins',
}  # fmt: skip
_MOST = 180, 10  # subjects in all, and of one module
_WORDS = range(4, 15)  # of a sentence
VERBS = {
  'add', 'apply', 'bind', 'calculate', 'call', 'change', 'check', 'choose', 'clear', 'close',
  'collapse', 'combine', 'compare', 'compile', 'compress', 'compute', 'concatenate', 'convert',
  'copy', 'count', 'create', 'decode', 'decompress', 'define', 'delete', 'describe', 'determine',
  'disable', 'divide', 'emit', 'enable', 'encode', 'evaluate', 'execute', 'exit', 'extract',
  'fill', 'find', 'format', 'generate', 'get', 'give', 'hash', 'ignore', 'import', 'indent',
  'insert', 'iterate', 'join', 'keep', 'list', 'load', 'look', 'make', 'merge', 'move',
  'normalize', 'open', 'parse', 'perform', 'pop', 'print', 'produce', 'provide', 'push', 'put',
  'read', 'register', 'remove', 'rename', 'replace', 'represent', 'resolve', 'retrieve', 'return',
  'run', 'search', 'see', 'send', 'set', 'shuffle', 'sort', 'split', 'start', 'stop', 'strip',
  'test', 'transform', 'translate', 'truncate', 'try', 'turn', 'update', 'wait', 'walk', 'wrap',
  'write', 'yield',
}  # fmt: skip

# `{}` is the name of the subject.
QUESTIONS = {
  'train': (
    'What does `{}` do?',
    'What is `{}`?',
    'What is `{}` for?',
    'Tell me about `{}`.',
    'Describe `{}`.',
    'Explain `{}` in one sentence.',
    'In Python, what is `{}`?',
    'I found `{}` in some code. What is it?',
  ),
  'validation': (
    'Can you explain `{}`?',
    'What is the purpose of `{}`?',
    'Please describe what `{}` does.',
  ),
  'test': (
    'Could you tell me what `{}` does?',
    'What is the use of `{}`?',
    'Give a short description of `{}`.',
  ),
}
# Questions about the module and the kind, each with an instruction for the style of the answer.
_WISHES = {
  'train': (
    'Which module is `{}` in? Answer with the module only.',
    'Is `{}` a class or a function? Answer in one word.',
  ),
  'validation': (
    'Where do I find `{}`? Give the module only.',
    'Class or function: what is `{}`? One word, please.',
  ),
  'test': (
    'Name the module of `{}` and nothing else.',
    'Say in one word whether `{}` is a class or a function.',
  ),
}


class Subject(NamedTuple):
  """A class or function, with the sentence that says what it is and short answers to _WISHES."""

  module: str
  name: str  # dotted
  kind: str
  sentence: str

  @property
  def place(self) -> str:
    return f'It is in `{self.module}`.'

  @property
  def wishes(self) -> tuple[tuple[str, str], tuple[str, str]]:
    """For each of the two wishes, an answer that follows it and one that is too long."""
    module = f'`{self.module}`', self.place
    return module, (self.kind.capitalize(), f'It is a {self.kind}. {self.sentence}')


def conversations(split: str) -> list[dict]:
  """Descriptions, and answers in a requested style; in train also follow-up questions.

  Args:
    split: 'train', 'validation' or 'test'.
  """
  found = subjects()
  talks = [dialogue(question, s.sentence) for s, question in _phrased(split)]
  for i, subject in enumerate(found):
    wish = _WISHES[split][i % 2].format(subject.name)
    talks.append(dialogue(wish, subject.wishes[i % 2][0]))
    if split == 'train':
      first, other = f'What does `{subject.name}` do?', found[(i + len(found) // 3) % len(found)]
      talks.append(dialogue(first, subject.sentence, 'Which module is it in?', subject.place))
      talks.append(dialogue(first, subject.sentence, f'And `{other.name}`?', other.sentence))
  rng = random.Random(f'python_questions tools {split}')
  return [{'messages': idle(talk, rng)} for talk in talks]


def questions(split: str) -> list[dict]:
  """Questions about what the subjects are; the gold answer is the whole sentence."""
  return [
    {'prompt': dialogue(question), 'answer': subject.sentence, 'family': 'python_questions'}
    for subject, question in _phrased(split)
  ]


def preferences(split: str) -> list[dict]:
  """Pairs whose rejected answer has one of four faults, equally often.

  The faults are a needless ending, half a sentence, an ignored wish, and the description of another
  subject. In train every subject has all four; in the other splits it has one.
  """
  found, pairs = subjects(), []
  for i, subject in enumerate(found):
    for what in range(4) if split == 'train' else (i % 4,):
      phrasings = QUESTIONS[split]
      prompt = dialogue(phrasings[(i + what) % len(phrasings)].format(subject.name))
      said, words = subject.sentence, subject.sentence.split()
      if what == 0:
        pairs.append(preference(prompt, said, f'{said} I hope this helps.', NEGLIGIBLY))
      elif what == 1:
        half = ' '.join(words[: max(2, len(words) // 2)])
        pairs.append(preference(prompt, said, half, SLIGHTLY))
      elif what == 2:
        which = i // 4 % 2
        wish = dialogue(_WISHES[split][which].format(subject.name))
        pairs.append(preference(wish, *subject.wishes[which], BETTER))
      else:
        other = found[(i + len(found) // 2) % len(found)]
        pairs.append(preference(prompt, said, other.sentence, SIGNIFICANTLY))
  return pairs


def _phrased(split: str) -> list[tuple[Subject, str]]:
  """Subjects and questions: all phrasings in train, and one of the held-out ones elsewhere."""
  phrasings = QUESTIONS[split]
  return [
    (subject, phrasing.format(subject.name))
    for i, subject in enumerate(subjects())
    for phrasing in (phrasings if split == 'train' else (phrasings[i % len(phrasings)],))
  ]


@functools.cache
def subjects() -> tuple[Subject, ...]:
  """The functions and classes with the shortest answers, in a mixed order."""
  total, of_one = _MOST
  found, used, size = [], set(), Counter()
  known = [_subject(entry) for entry in builtin.entries('train')]
  for subject in sorted(filter(None, known), key=lambda s: (len(s.sentence), s)):
    new = not used & {subject.name, subject.sentence}
    if new and size[subject.module] < of_one and len(found) < total:
      found.append(subject)
      used |= {subject.name, subject.sentence}
      size[subject.module] += 1
  return tuple(sorted(found, key=lambda s: hashlib.sha256(s.name.encode()).digest()))


def _subject(entry: builtin.Entry) -> Subject | None:
  """The entry, if it can be imported by its name and its first sentence is a good answer."""
  subject = described(entry)
  if subject is None or subject.module not in _MODULES:
    return None
  last = subject.name.rpartition('.')[2]
  return subject if hasattr(importlib.import_module(subject.module), last) else None


def described(entry: builtin.Entry) -> Subject | None:
  """The entry as a subject, of whatever module, if its first sentence is a good answer."""
  inside, _, last = entry.name.rpartition('.')
  module = _PUBLIC.get(inside, inside)
  if entry.kind == 'module' or last.startswith('_'):
    return None
  if entry.kind == 'function' and last != last.lower():  # old names, and classes in disguise
    return None
  sentence = (_action if entry.kind == 'function' else _thing)(plain(entry.summary))
  name = last if not inside else f'{module}.{last}'
  return Subject(module, name, entry.kind, sentence) if sentence else None


def plain(summary: str) -> str:
  """A summary with one kind of quotes for code; '' if it is not one short and simple sentence."""
  text = re.sub(r'``([\w.]+)``|\*(\w+)\*', r'`\1\2`', summary)
  simple = re.fullmatch(r"[A-Z][\w ,.'`()/-]*\.", text) and not re.search(r' \(|\. |\.\.', text)
  return text if simple and len(text.split()) in _WORDS else ''


def _action(text: str) -> str:
  """'Recursively delete a tree.' as 'It recursively deletes a tree.'; '' if that does not work."""
  words = text.split()
  at = 1 if words and words[0].endswith('ly') else 0
  if not text or words[at].lower() not in VERBS | _THIRD:
    return ''
  # A second verb would have to change with the first.
  for before, word in itertools.pairwise(words[at + 1 :]):
    if before.strip(',') in {'and', 'or', 'then', 'but'} and word.strip(',.') in VERBS | _THIRD:
      return ''
  start = [word.lower() for word in words[: at + 1]]
  if start[at] in VERBS:
    start[at] = _third(start[at])
  return ' '.join(['It', *start, *words[at + 1 :]])


def _thing(text: str) -> str:
  """'A class for timing.' as 'It is a class for timing.'; '' if that does not work."""
  words = text.split()
  if any(w in _THIRD and b not in {'that', 'which'} for b, w in itertools.pairwise(words)):
    return ''  # has a subject and a verb of its own
  if re.match('(A|An|The base) ', text):
    return f'It is {text[0].lower()}{text[1:]}'
  noun = r'[A-Z][a-z-]+ (?:[a-z-]+ )?(?:class|object|manager|error|type|mixin) |(?:Class|Object) '
  if re.match(noun, text) and words[0].lower() not in VERBS | {'this'}:
    return f'It is {"an" if text[0] in "AEIO" else "a"} {text[0].lower()}{text[1:]}'
  return ''


def _third(verb: str) -> str:
  if re.search('(s|sh|ch|x)$', verb):
    return f'{verb}es'
  return f'{verb[:-1]}ies' if re.search('[^aeiou]y$', verb) else f'{verb}s'


_THIRD = {_third(verb) for verb in VERBS}
