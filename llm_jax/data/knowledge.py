"""Questions that show where a model's knowledge ends: some it was taught, some nobody can answer.

A fact is a name and what is true of it; where there is nothing to know, the answer is ''. Classes:
  taught        subjects of `python_questions`, which SFT repeats
  unrehearsed   30 of these that the refusal stage never shows, so its effect on them is its effect
                on whatever else the model knows
  read          other names in the text of pretraining
  unread        names in the held-out text
  invented      a real module, and a name that it does not have
  lookalike     a taught name with one edit, or in a module that lacks it
  elsewhere     capitals and authors, of which that text says nothing
  given         questions of yours

Names are split before any model is asked. Names that end alike (`os.path.join`, `shlex.join`) and
lookalikes of these share a split, `unrehearsed`, `unread` and `elsewhere` are test only, and two
names with one description are left out, since a wrong answer would be right by luck. Taught names
are in every split, in words of its own: what is held out of these are phrasings.
"""

import functools
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.data import asked, builtin, python_questions
from llm_jax.data.families import SPLITS, dialogue
from llm_jax.data.python_questions import Subject
from llm_jax.options import suggest
from llm_jax.types import BadInput

CLASSES = (
  *('taught', 'unrehearsed', 'read', 'unread', 'invented', 'lookalike', 'elsewhere'),
  'given',
)
KNOWN = ('taught', 'unrehearsed')  # what the model was taught
_UNREHEARSED = 30
_INVENTED = 500
_LOOKALIKES = 3  # of each taught name
_MORE_INVENTED, _MORE_LOOKALIKES = 2400, 12
_SHARES = 0.5, 0.6  # train up to the first, validation up to the second, then test

_CAPITALS = (
  'Austria Vienna, Belgium Brussels, Bulgaria Sofia, Canada Ottawa, Chile Santiago, China Beijing, '
  'Croatia Zagreb, Cuba Havana, Denmark Copenhagen, Egypt Cairo, England London, Estonia Tallinn, '
  'Finland Helsinki, France Paris, Germany Berlin, Ghana Accra, Greece Athens, Hungary Budapest, '
  'Iceland Reykjavik, India Delhi, Iran Tehran, Iraq Baghdad, Ireland Dublin, Italy Rome, '
  'Japan Tokyo, Kenya Nairobi, Latvia Riga, Lebanon Beirut, Libya Tripoli, Mali Bamako, '
  'Morocco Rabat, Nepal Kathmandu, Norway Oslo, Peru Lima, Poland Warsaw, Portugal Lisbon, '
  'Romania Bucharest, Russia Moscow, Senegal Dakar, Serbia Belgrade, Spain Madrid, '
  'Sweden Stockholm, Turkey Ankara, Ukraine Kyiv, Uruguay Montevideo, Vietnam Hanoi'
)
_AUTHORS = (
  'Hamlet Shakespeare, Faust Goethe, Emma Austen, Ulysses Joyce, Walden Thoreau, Dracula Stoker, '
  'Candide Voltaire, Frankenstein Shelley, Lolita Nabokov, Middlemarch Eliot, Kim Kipling, '
  'Heidi Spyri, Ivanhoe Scott, Utopia More, Leviathan Hobbes, Macbeth Shakespeare, '
  'Siddhartha Hesse, Nostromo Conrad, Germinal Zola, Persuasion Austen'
)


class Fact(NamedTuple):
  """A name, what is true of it ('' for nothing), its class, and the names that it is split with.

  `also` is what the documentation says of a taught name, where SFT says it in words of its own.
  """

  name: str
  answer: str
  kind: str
  group: str
  also: str = ''

  @property
  def split(self) -> str:
    return 'test' if self.kind in ('unread', 'elsewhere', 'unrehearsed') else split_of(self.group)


def questions(
  split: str,
  *,
  classes: Sequence[str] = CLASSES,
  phrasings: int = 1,
  most: int | None = None,
) -> list[dict[str, Any]]:
  """Questions about Python's library: `prompt`, `answer`, and `name`, `class` and `split`.

  Some have `also`, a list of other right answers.

  Args:
    split: 'train', 'validation' or 'test'.
    classes: which of CLASSES.
    phrasings: questions about one name, at most as many as the split has.
    most: facts of each class; None for all.
  """
  check(classes)
  if split not in SPLITS:
    raise BadInput(f'knowledge: no split {split!r}; {suggest(split, SPLITS)}')
  taken: Counter[str] = Counter()
  found = []
  for fact in facts():
    if fact.kind not in classes or (fact.split != split and fact.kind != 'taught'):
      continue
    taken[fact.kind] += 1
    if most is not None and taken[fact.kind] > most:
      continue
    start = int(_hash(fact.name), 16)
    wordings = _wordings(fact, split)
    for i in range(min(phrasings, len(wordings))):
      text = wordings[(start + i) % len(wordings)].format(fact.name)
      one = _question(dialogue(text), fact.answer, fact.name, fact.kind, split)
      found.append({**one, 'also': [fact.also]} if fact.also else one)
  return found


def check(classes: Sequence[str]) -> None:
  """Raises BadInput for a class that does not exist, or where there is none."""
  if not classes:
    raise BadInput(f'knowledge: no classes; choose from: {", ".join(CLASSES)}')
  for kind in classes:
    if kind not in CLASSES:
      raise BadInput(f'knowledge: no class {kind!r}; {suggest(kind, CLASSES)}')


def given(sources: Mapping[str, str], split: str | None = None) -> list[dict[str, Any]]:
  """Questions of yours as `questions` has them: records with `question`, `answer` and `passage`.

  A record may say its `name`, by which it is split and which a refusal mentions, and its `class`.

  Args:
    sources: as in `llm_jax.data.asked`.
    split: those of one split; None for all.

  Raises:
    BadInput: a source that cannot be read.
  """
  found = []
  for record in asked.read(sources=sources, max_prompts=None):
    name = str(record.get('name') or '')
    part = split_of(subject_of({**record, 'name': name}))
    if split in (None, part):
      kind = str(record.get('class') or 'given')
      one = _question(record['prompt'], record['answer'], name, kind, part)
      found.append({**one, 'passage': str(record.get('passage') or '')})
  return found


def subject_of(question: Mapping[str, Any]) -> str:
  """What a question is about: its name, or where it has none its own text."""
  return question['name'] or str(question['prompt'][-1].get('content'))


def record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """For `data.map`: conversations about what is `unrehearsed` are left out."""
  names = [f'`{name}`' for name in _unrehearsed()]
  texts = [str(message.get('content')) for message in record.get('messages', ())]
  return None if any(name in text for text in texts for name in names) else record


def split_of(group: str) -> str:
  """The split of all facts of a group.

  >>> {split_of(name) for name in ('join', 'join')} <= {'train', 'validation', 'test'}
  True
  """
  place = int(_hash(group)[:8], 16) / 2**32
  return SPLITS[sum(place >= share for share in _SHARES)]


@functools.cache
def facts() -> tuple[Fact, ...]:
  """All facts about Python's library and the world beyond, in a mixed order that never changes."""
  taught = python_questions.subjects()
  apart = _unrehearsed()
  known = {s.name for s in taught}
  sentences = Counter(s.sentence for s in taught)
  parts = {part: [*_described(part)] for part in builtin.SPLITS}
  new = {part: [s for s in found if s.name not in known] for part, found in parts.items()}
  sentences += Counter(s.sentence for found in new.values() for s in found)
  only = lambda found: (s for s in found if sentences[s.sentence] == 1)
  there = Counter(s.name for found in new.values() for s in found)
  kinds = lambda s: 'unrehearsed' if s.name in apart else 'taught'
  also = {s.name: python_questions.documented(s.name) for s in taught}
  often = Counter(also.values())  # who quotes what is said of two names may mean the other one
  also = {name: text for name, text in also.items() if often[text] == 1 and text not in sentences}
  found = [Fact(s.name, s.sentence, kinds(s), _last(s.name), also.get(s.name, '')) for s in taught]
  for part, kind in (('train', 'read'), ('validation', 'unread')):
    found += [Fact(s.name, s.sentence, kind, _last(s.name)) for s in only(new[part])
              if there[s.name] == 1]  # fmt: skip
  names = _names()
  found += _lookalikes(taught, names)
  found += _invented(taught, names | {fact.name for fact in found})
  for what, text in (('the capital of', _CAPITALS), ('the author of', _AUTHORS)):
    pairs = [pair.split() for pair in text.split(', ')]
    found += [Fact(f'{what} {name}', answer, 'elsewhere', name) for name, answer in pairs]
  return tuple(sorted(found, key=lambda fact: _hash(f'{fact.kind} {fact.name}')))


def nobody_has(split: str) -> list[dict[str, Any]]:
  """Questions about more names with nothing to know, of which `questions` asks none."""
  found = []
  for fact in _more(split):
    text = random.Random(fact.name).choice(_wordings(fact, split)).format(fact.name)
    found.append(_question(dialogue(text), '', fact.name, fact.kind, split))
  return found


@functools.cache
def _more(split: str) -> tuple[Fact, ...]:
  taught = python_questions.subjects()
  names = _names() | {fact.name for fact in facts()}
  ours = [s for s in taught if s.name not in _unrehearsed() and split_of(_last(s.name)) == split]
  found = _lookalikes(ours, names, _MORE_LOOKALIKES, 'more ')
  found += _invented(taught, names | {fact.name for fact in found}, _MORE_INVENTED, ' more')
  return tuple(sorted((f for f in found if f.split == split), key=lambda f: _hash(f.name)))


@functools.cache
def _unrehearsed() -> frozenset[str]:
  names = [s.name for s in python_questions.subjects() if split_of(_last(s.name)) == 'test']
  return frozenset(sorted(names, key=_hash)[:_UNREHEARSED])


def _described(part: str) -> Iterator[Subject]:
  """What the text of a split says of public names, one sentence each."""
  for entry in builtin.entries(part):
    subject = python_questions.described(entry)
    if subject and not any(word.startswith('_') for word in subject.name.split('.')):
      yield subject


@functools.cache
def _names() -> frozenset[str]:
  """Every name that the text has a document about, as it spells it and as it is imported."""
  entries = [entry for part in builtin.SPLITS for entry in builtin.entries(part)]
  subjects = [s for part in builtin.SPLITS for s in _described(part)]
  taught = python_questions.subjects()
  return frozenset([e.name for e in entries] + [s.name for s in (*subjects, *taught)])


def _exists(name: str, names: frozenset[str]) -> bool:
  """Whether the text, or Python itself, has such a name."""
  return name in names or python_questions.find(name) is not None


def _lookalikes(
  taught: Sequence[Subject], names: frozenset[str], most: int = _LOOKALIKES, what: str = ''
) -> list[Fact]:
  """Of each taught name some with one edit, and one of three in another module."""
  found: dict[str, Fact] = {}
  modules = sorted({s.module for s in taught})
  for subject in taught:
    rng = random.Random(f'lookalike {what}{subject.name}')
    module, _, last = subject.name.rpartition('.')
    made = 0
    while made < most:
      if made % 3:
        name = f'{module}.{_edited(last, rng)}' if module else _edited(last, rng)
      else:
        name = f'{rng.choice(modules)}.{last}'
      if name not in found and not _exists(name, names):
        found[name] = Fact(name, '', 'lookalike', _last(subject.name))
        made += 1
  return [*found.values()]


def _edited(word: str, rng: random.Random) -> str:
  """The word with one letter doubled, dropped, changed, or exchanged with its neighbour."""
  i = rng.randrange(1, len(word)) if len(word) > 1 else 0
  before, letter, after = word[:i], word[i], word[i + 1 :]
  edits = [before + 2 * letter + after, before + rng.choice('abcdefghilmnoprstu') + after]
  if len(word) > 3:
    edits += [before + after, before[:-1] + letter + before[-1:] + after]
  return rng.choice(edits)


def _invented(
  taught: Sequence[Subject], names: frozenset[str], most: int = _INVENTED, what: str = ''
) -> list[Fact]:
  """Names of parts of real ones, or with two edits, in modules that do not have them."""
  rng = random.Random(f'invented{what}')
  modules = sorted({s.module for s in taught})
  real = sorted({_last(name) for name in names if not _last(name).startswith('_')})
  halves = [name.split('_', 1) for name in real if '_' in name]
  found: dict[str, Fact] = {}
  while len(found) < most:
    if rng.random() < 0.7:
      last = f'{rng.choice(halves)[0]}_{rng.choice(halves)[1]}'
    else:
      last = _edited(_edited(rng.choice(real), rng), rng)
    name = f'{rng.choice(modules)}.{last}'
    if last.isidentifier() and last not in real and not _exists(name, names):
      found.setdefault(name, Fact(name, '', 'invented', last))
  return [*found.values()]


def _wordings(fact: Fact, split: str) -> tuple[str, ...]:
  """Questions with `{}` for the name."""
  if fact.kind != 'elsewhere':
    return python_questions.QUESTIONS[split]
  who = 'Who' if 'author' in fact.name else 'What'
  return (f'{who} is {{}}?', 'Tell me {}.', 'Do you know {}?')


def _question(
  prompt: Sequence[Mapping[str, Any]], answer: str, name: str, kind: str, split: str
) -> dict[str, Any]:
  return {
    'prompt': [dict(message) for message in prompt],
    'answer': answer,
    'name': name,
    'class': kind,
    'split': split,
    'family': 'knowledge',
  }


def _last(name: str) -> str:
  return name.rpartition('.')[2]


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()
