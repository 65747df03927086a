"""Questions about Python's standard library, answered with what its docstrings say.

The subjects are the functions, classes and methods that the train split of `builtin`, which
pretraining has read, names most. A subject is used if a few rules can turn its first sentence into
an answer: 'Return the variance of data.' becomes 'It returns the variance of data.' Some come with
an example, with what Python says to it. Validation and test ask about the same subjects in
words that train never uses; names that were never taught are those of `llm_jax.data.knowledge`.
"""

import builtins
import functools
import hashlib
import inspect
import itertools
import pkgutil
import random
import re
import sys
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
from llm_jax.data.python_names import EXAMPLES, SENTENCES, TASKS, example

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
_PUBLIC = {**builtin.USED_AS, '': 'builtins'}
_CLASSES = {'bytes', 'dict', 'float', 'int', 'list', 'set', 'str', 'tuple'}  # methods are asked of
_MOST, _MOST_OF_ONE, _MOST_BUILT_IN = 180, 8, 80  # subjects in all, of a module, and of `builtins`
_WORDS = range(4, 17)  # of a sentence
VERBS = {
  'add', 'append', 'apply', 'bind', 'calculate', 'call', 'change', 'check', 'choose', 'clear',
  'close', 'collapse', 'combine', 'compare', 'compile', 'compress', 'compute', 'concatenate',
  'convert', 'copy', 'count', 'create', 'decode', 'decompress', 'define', 'delete', 'describe',
  'deserialize', 'determine', 'disable', 'divide', 'emit', 'enable', 'encode', 'evaluate',
  'execute', 'exit', 'extend', 'extract', 'fill', 'find', 'format', 'generate', 'get', 'give',
  'hash', 'ignore', 'import', 'indent', 'insert', 'iterate', 'join', 'keep', 'list', 'load', 'look',
  'make', 'merge', 'move', 'normalize', 'open', 'pad', 'parse', 'partition', 'perform', 'pop',
  'print', 'produce', 'provide', 'push', 'put', 'read', 'rearrange', 'register', 'remove', 'rename',
  'repeat', 'replace', 'represent', 'resolve', 'retrieve', 'return', 'run', 'search', 'see', 'send',
  'serialize', 'set', 'shuffle', 'sort', 'split', 'start', 'stop', 'strip', 'test', 'transform',
  'translate', 'truncate', 'try', 'turn', 'update', 'wait', 'walk', 'wrap', 'write', 'yield',
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
# Questions for an example, where there is one.
_FOR_EXAMPLE = {
  'train': (
    'Give an example of `{}`.',
    'Show me how to use `{}`.',
    'Explain `{}` with an example.',
    'What does `{}` do? Give an example.',
    'Show me an example of `{}`, please.',
    'I need an example of `{}`.',
    'How does `{}` work? Show it to me.',
  ),
  'validation': ('Can I see an example of `{}`?',),
  'test': ('What is `{}`, and how do I use it?',),
}
# Questions for what does something.
_HOW = {
  'train': ('How do I {}?', 'How can I {} in Python?', 'I want to {}.', 'how to {}'),
  'validation': ('Which function can {}?',),
  'test': ('What should I use to {}?',),
}
# Questions about the module and the kind, each with an instruction for the style of the answer.
_WISHES = {
  'train': (
    'Which module is `{}` in? Answer with the module only.',
    'Is `{}` a class, a function or a method? Answer in one word.',
  ),
  'validation': (
    'Where do I find `{}`? Give the module only.',
    'Class, function or method: what is `{}`? One word, please.',
  ),
  'test': (
    'Name the module of `{}` and nothing else.',
    'Say in one word whether `{}` is a class, a function or a method.',
  ),
}


class Subject(NamedTuple):
  """A class, function or method: the sentence that says what it is, and answers to _WISHES."""

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
  """Descriptions, examples and answers in a requested style; in train also follow-up questions.

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
    for asked in _HOW[split] if subject.name in TASKS else ():
      talks.append(
        dialogue(asked.format(TASKS[subject.name]), f'Use `{subject.name}`. {subject.sentence}')
      )
    for asked in _FOR_EXAMPLE[split] if subject.name in EXAMPLES else ():
      shown = f'{subject.sentence} {example(subject.name)}'
      talks.append(dialogue(asked.format(subject.name), shown))
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
  """What the documentation names most, in a mixed order."""
  entries, listed = builtin.entries('train'), builtin.listed('train')
  alone = {entry.name for entry in entries}
  listed = [entry for entry in listed if entry.name not in alone]
  known = [*map(_ours, SENTENCES), *filter(None, map(_subject, (*entries, *listed)))]
  mentions = _mentions()
  of_module = Counter()
  for name, count in mentions.items():
    of_module[name.partition('.')[0]] += count
  first = {*SENTENCES, *EXAMPLES, *TASKS}
  rank = lambda s: (
    s.name not in first,
    -mentions[s.name],
    -of_module[s.module],
    len(s.sentence),
    s.name,
  )
  found, used, size = [], set(), Counter()
  for subject in sorted(known, key=rank):
    new = not used & {subject.name, subject.sentence}
    most = _MOST_BUILT_IN if subject.module == 'builtins' else _MOST_OF_ONE
    if new and size[subject.module] < most and len(found) < _MOST:
      found.append(subject)
      used |= {subject.name, subject.sentence}
      size[subject.module] += 1
  return tuple(sorted(found, key=lambda s: hashlib.sha256(s.name.encode()).digest()))


def _mentions() -> Counter[str]:
  """How often the documentation names what; a function without a dot where it is called or quoted.

  Nobody can tell whose method is called. So those of all built-in classes share these calls.
  """
  text = '\n'.join(builtin.documents('train'))
  found = Counter(re.findall(r'\b[a-z]\w*(?:\.\w+)+', text))
  found += Counter(re.findall(r'(?<![\w.])[a-z]\w*(?=\()|(?<=`)[a-z]\w*(?=`)', text))
  called = Counter(re.findall(r'(?<=\.)[a-z]\w*(?=\()', text))
  for name in _CLASSES:
    for method in vars(vars(builtins)[name]):
      found[f'{name}.{method}'] += called[method]
  return found


def _ours(name: str) -> Subject:
  """A subject whose sentence was written for this package."""
  first, _, last = name.rpartition('.')
  sentence = SENTENCES[name]
  kind = 'class' if inspect.isclass(find(name)) else 'method' if first in _CLASSES else 'function'
  return Subject('builtins' if kind == 'method' or not first else first, name, kind, sentence)


def _subject(entry: builtin.Entry) -> Subject | None:
  """The entry, if it can be imported by its name and its first sentence is a good answer."""
  subject = described(entry)
  if subject is None or subject.module not in _MODULES or (what := find(subject.name)) is None:
    return None
  # A list of contents does not say that `reversed` is a class.
  return subject._replace(kind='class') if inspect.isclass(what) else subject


def find(name: str) -> object | None:
  """What Python has by a dotted name, in the built-in names or in a module of its library.

  >>> find('len') is len, find('str.split') is str.split, find('os.path.jion')
  (True, True, None)
  """
  first, *others = name.split('.')
  known = first in sys.stdlib_module_names and others
  try:
    return pkgutil.resolve_name(name if known else f'builtins.{name}')
  except (ImportError, AttributeError, ValueError):
    return None


def described(entry: builtin.Entry) -> Subject | None:
  """The entry as a subject, of whatever module, if its first sentence is a good answer."""
  inside, _, last = entry.name.rpartition('.')
  is_method = entry.kind == 'method'
  module = 'builtins' if is_method else _PUBLIC.get(inside, inside)
  if entry.kind == 'module' or last.startswith('_') or (is_method and inside not in _CLASSES):
    return None
  if entry.kind == 'function' and last != last.lower():  # old names, and classes in disguise
    return None
  sentence = sentence_of(entry.kind, entry.summary)
  name = f'{inside if is_method else module}.{last}' if inside else last
  return Subject(module, name, entry.kind, sentence) if sentence else None


def documented(name: str) -> str:
  """The first sentence that the documentation has about a name, as it stands there; '' if none.

  It judges answers, and no row is made of it, so text that is held out counts as well.
  """
  return _first_sentences().get(name, '')


@functools.cache
def _first_sentences() -> dict[str, str]:
  found: dict[str, str] = {}
  splits = builtin.SPLITS
  entries = [entry for split in splits for entry in builtin.entries(split)]
  lines = [entry for split in splits for entry in builtin.listed(split)]
  for entry in (*entries, *builtin.left_out(), *lines):
    inside, _, last = entry.name.rpartition('.')
    name = f'{_PUBLIC.get(inside, inside)}.{last}'.removeprefix('builtins.')
    if entry.kind != 'module':
      paragraph = builtin.told(entry.doc).partition('\n\n')[0]
      found.setdefault(name, builtin.first_sentence(paragraph))
  return found


def sentence_of(kind: str, summary: str) -> str:
  """What a summary says of its subject, as an answer; '' if no rule makes one of it.

  >>> sentence_of('function', 'Return the variance of data.'), sentence_of('class', 'To be done.')
  ('It returns the variance of data.', '')
  """
  return (_thing if kind == 'class' else _action)(plain(summary))


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
