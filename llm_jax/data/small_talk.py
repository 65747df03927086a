"""What people say to an assistant first: greetings, who it is, thanks, small sums, the wide world.

Each topic has one reply, so that a small model can learn it. Test asks `KEPT`: ten natural prompts
that no training knows, with what a sensible answer mentions. The other splits ask with words of
their own, and larger sums are split by their numbers as well.
"""

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

from llm_jax.data import python_questions
from llm_jax.data.families import BETTER, SIGNIFICANTLY, SPLITS, dialogue, idle, preference
from llm_jax.data.word_problems import by_digits

_TALKS = {'train': 1200, 'validation': 40, 'test': 40}  # of several turns
_SUMS = {'train': 1200, 'validation': 60, 'test': 60}

HELLO = 'Hello! I can explain functions of Python and work out small sums. What shall we do?'
NAME = 'I am a small language model, trained with llm_jax.'
SKILLS = 'I can explain functions of Python, spell words and work out small sums.'
WELCOME = 'You are welcome.'
UNKNOWN = 'I do not know that. I know functions of Python and small sums.'

# The ten, and what an answer must mention, for `llm_jax.rewards.mentions`. They were chosen before
# any answer was seen. Two, which ask for an example and for an explanation, failed at first; then
# train got more ways to ask for these, in other words.
KEPT = (
  ('Hi there, who am I talking to?', 'language model'),
  ('Hello! What can you do?', 'functions|sums'),
  ('Could you tell me what `len` does?', 'number of items'),
  ('How do I use `str.split`? Show me an example.', "'a', 'b', 'c'"),
  ('I do not understand `range`. Can you explain it?', 'numbers from a start up to a stop'),
  ('Thanks a lot, that helped me!', 'welcome'),
  ('Quick question: what is 8 + 5?', '13'),
  ('Who won the football match yesterday?', "do not know|don't know"),
  ('Kim has $30 and buys 4 books at $7 each. How much money is left?', 'is $2'),
  ('Okay, bye for now!', 'bye|goodbye'),
)

# reply -> what is said in train, validation and test.
_TOPICS = {
  HELLO: (
    (
      'Hello', 'Hello!', 'Hi', 'Hi!', 'hi', 'hello', 'Hey', 'Hey!', 'hey there', 'Hi there!',
      'Good morning', 'Good morning!', 'Good evening.', 'Good afternoon!', 'Hello there.',
      'Hello, how are you?', 'Hi, how are you doing?', 'How are you?', 'How are you today?',
      'Greetings!', 'Hello, nice to meet you.', 'Is anybody there?', 'Hello, assistant!',
      'Can we talk?', 'I am new here.', 'I have a question.', 'Can I ask you something?',
    ),
    ('Hello, are you there?', 'Good day!', 'Hey, how is it going?'),
    ('Hi, good to see you!', 'Hello again.', 'May I ask a question?'),
  ),
  NAME: (
    (
      'Who are you?', 'What are you?', 'What is your name?', 'who are you', 'Tell me who you are.',
      'Are you a person?', 'Are you human?', 'Are you a robot?', 'Do you have a name?',
      'Who made you?', 'Who trained you?', 'How were you made?', 'Where do you come from?',
      'Hello, who are you?', 'Hi! What are you?', 'Hello! Who am I speaking with?',
      'Introduce yourself.', 'Tell me about yourself.', 'What should I call you?', 'Who is this?',
      'With whom do I talk?', 'Are you ChatGPT?', 'What model are you?',
    ),
    ('What do people call you?', 'Say who you are.', 'Are you a computer?'),
    ('Please introduce yourself.', 'What kind of model are you?', 'Are you a machine?'),
  ),
  SKILLS: (
    (
      'What can you do?', 'What can you do for me?', 'How can you help me?', 'Can you help me?',
      'What do you know?', 'What are you good at?', 'What can I ask you?', 'what can you do',
      'Help', 'Help me.', 'I need help.', 'What are your skills?', 'What do you do?',
      'Hi, what can you do?', 'Hello, can you help me?', 'What questions can you answer?',
      'Tell me what you can do.', 'How do you work?', 'What should I ask you?',
      'Show me what you can.',
    ),
    ('What are you able to do?', 'In what can you help?', 'What may I ask?'),
    ('What is it that you can do?', 'Which questions can I ask you?', 'Could you help me?'),
  ),
  WELCOME: (
    (
      'Thanks!', 'Thanks', 'Thank you.', 'Thank you!', 'thank you', 'thanks',
      'Thank you very much.', 'Thanks a lot!', 'Many thanks.', 'Great, thanks!',
      'Perfect, thank you.', 'That was helpful.', 'That helps, thank you.',
      'Thank you for your help.', 'Thanks for the answer.', 'Good answer!', 'Well done!', 'Great!',
      'Nice!', 'Very good.', 'You are great.', 'I understand now, thanks.',
    ),
    ('Thank you, that is all.', 'Thanks so much!', 'Nice work!'),
    ('Wonderful, thanks!', 'Thank you so much.', 'That was a good answer.'),
  ),
  'Goodbye!': (
    (
      'Bye', 'Bye!', 'Goodbye', 'Goodbye!', 'bye', 'See you.', 'See you later!', 'Bye bye!',
      'I have to go.', 'That is all for today.', 'Good night.', 'Farewell!', 'Thanks, bye!',
      'Until next time.', 'I am leaving now.', 'Talk to you later.',
    ),
    ('Bye, see you tomorrow.', 'Good night!'),
    ('Goodbye for today.', 'See you soon!'),
  ),
  'I am sorry. I am a small model and make mistakes, so please check what I say.': (
    (
      'That is wrong.', 'This is wrong!', 'You are wrong.', 'Wrong.', 'No, that is not right.',
      'I think that is a mistake.', 'Are you sure?', 'Really?', 'That does not help.',
      'Bad answer.', 'You made a mistake.', 'Is that true?', 'Can I trust you?',
      'That is nonsense.',
    ),
    ('I do not think that is right.', 'Is this correct?'),
    ('That cannot be right.', 'Are you certain?'),
  ),
  UNKNOWN: (
    (
      'What is the weather today?', 'Will it rain tomorrow?', 'What time is it?', 'What day is it?',
      'What is in the news?', 'How old are you?', 'How old am I?', 'What is my name?',
      'Where am I?', 'Where do you live?', 'What is the meaning of life?', 'Who is the president?',
      'Who is the king?', 'Who won the election?', 'Who won the game last night?',
      'Which team is the best?', 'How tall is Mount Everest?', 'How far away is the moon?',
      'How many people live on Earth?', 'What is the largest animal?', 'Why is the sky blue?',
      'Why do cats purr?', 'How do birds fly?', 'Who invented the telephone?',
      'Who painted the Mona Lisa?', 'Who discovered America?', 'When did the war end?',
      'When was the telephone invented?', 'How do I cook rice?', 'What should I eat tonight?',
      'Give me a recipe for bread.', 'Tell me a joke.', 'Sing a song.', 'Write a poem.',
      'Write a poem about the sea.', 'Tell me a story.', 'Do you love me?', 'What is love?',
      'What is the price of gold?', 'Which stocks should I buy?', 'Do you like music?',
      'What is your favourite colour?', 'Which film should I watch?', 'Where can I buy shoes?',
      'How do I get to the station?', 'Translate this into French.',
      'How do you say dog in Spanish?', 'What is the fastest car?', 'Who is the richest person?',
      'Is there life on Mars?', 'Who wrote the national anthem?', 'What happened yesterday?',
      'Who scored the most goals?', 'What is the capital of Spain?', 'Where is London?',
      'What is the capital of Japan?', 'Which city is the capital of Brazil?',
      'Which country is the largest?',
    ),
    ('Is it cold outside?', 'Who sang this song?', 'How deep is the ocean?'),
    ('Will it snow on Monday?', 'Who won the race?', 'How long do dogs live?'),
  ),
}  # fmt: skip

_ASK_SUM = {
  'train': (
    'What is {}?', 'How much is {}?', 'Calculate {}.', '{} = ?', '{}', 'What does {} make?',
    'Can you work out {}?', 'Hello! What is {}?', 'what is {}',
  ),
  'validation': ('Compute {}.', 'Tell me what {} is.'),
  'test': ('Please work out {}.', 'I want to know what {} is.'),
}  # fmt: skip
# What may stand before a question.
_BEFORE = {
  'train': (
    'Hi! ', 'Hello! ', 'Hello. ', 'Please tell me: ', 'Hey, ', 'One more thing: ', 'Sorry, ',
  ),
  'validation': ('Good day! ',),
  'test': ('I wonder: ',),
}  # fmt: skip
_TYPED = (  # in train
  'what is {}', 'what does {} do', 'what is {} for?', 'Explain {}.', 'what is {}?',
  'My teacher talks about `{}`. What is that?', 'I have never heard of `{}`. What does it do?',
  'Help me with `{}`, please.', 'When would I use `{}`?', 'I read about `{}`. What does it mean?',
)  # fmt: skip
_SIGNS = {
  '+': ('+', 'plus'),
  '-': ('-', 'minus'),
  '*': ('*', 'times', 'x'),
}


class Exchange(NamedTuple):
  """A message of the user and its reply."""

  said: str
  reply: str


def conversations(split: str) -> list[dict]:
  """Single exchanges, and talks of up to four that go on to sums and to functions of Python.

  Args:
    split: 'train', 'validation' or 'test'.
  """
  rng = random.Random(f'small_talk tools {split}')
  alone = [dialogue(*one) for one in (*_exchanges(split), *_sums(split))]
  return [{'messages': idle(talk, rng, 0.1)} for talk in (*alone, *_talks(split))]


def questions(split: str) -> list[dict]:
  """What is said and what a sensible answer mentions; in test those of KEPT."""
  asked = KEPT if split == 'test' else _exchanges(split)
  return [
    {'prompt': dialogue(said), 'answer': gold, 'family': 'small_talk'} for said, gold in asked
  ]


def preferences(split: str) -> list[dict]:
  """Pairs of the reply, and that to something else or one with a needless ending."""
  rng = random.Random(f'small_talk pairs {split}')
  pairs = []
  for one in (*_exchanges(split), *_sums(split)[: len(_exchanges(split))]):
    others = sorted({other.reply for other in _exchanges(split)} - {one.reply})
    if rng.random() < 0.7:
      pairs.append(preference(dialogue(one.said), one.reply, rng.choice(others), SIGNIFICANTLY))
    else:
      longer = f'{one.reply} {rng.choice(others)}'
      pairs.append(preference(dialogue(one.said), one.reply, longer, BETTER))
  return pairs


def _exchanges(split: str) -> list[Exchange]:
  """Each as it is written and, in train, as it is typed in a hurry."""
  which, found = SPLITS.index(split), {}
  for reply, ways in _TOPICS.items():
    for said in ways[which]:
      found.setdefault(said, Exchange(said, reply))
      if split == 'train':
        typed = said.lower().rstrip('.!?')
        found.setdefault(typed, Exchange(typed, reply))
  return [*found.values()]


@functools.cache
def _sums(split: str) -> list[Exchange]:
  """Questions for one small sum. Those of two digits belong to one split by their numbers."""
  rng = random.Random(f'small_talk sums {split}')
  kinds = [_of_one_digit(), *([c for c in k if _split_of(*c) == split] for k in _of_two_digits())]
  found: dict[str, Exchange] = {}
  while len(found) < _SUMS[split]:
    sign, x, y = rng.choice(kinds[len(found) % len(kinds)])
    said = rng.choice(_ASK_SUM[split]).format(f'{x} {rng.choice(_SIGNS[sign])} {y}')
    found.setdefault(said, Exchange(said, _worked_out(sign, x, y)))
  return [*found.values()]


def _worked_out(sign: str, x: int, y: int) -> str:
  """A sum with its steps.

  >>> _worked_out('*', 12, 3)
  '10 * 3 = 30, 2 * 3 = 6, so 12 * 3 = 36.'
  """
  if sign == '*' and x > 9 and x % 10:
    tens, ones = x - x % 10, x % 10
    return f'{tens} * {y} = {tens * y}, {ones} * {y} = {ones * y}, so {x} * {y} = {x * y}.'
  return by_digits(f'{x} {sign} {y} = {dict(zip("+-*", (x + y, x - y, x * y)))[sign]}.')


def _of_one_digit() -> list[tuple[str, int, int]]:
  """(sign, x, y) of two digits in 1 to 9, and what takes such a sum apart again."""
  pairs = list(itertools.product(range(1, 10), range(1, 10)))
  return [c for x, y in pairs for c in (('+', x, y), ('-', x + y, y), ('*', x, y))]


def _of_two_digits() -> tuple[list[tuple[str, int, int]], ...]:
  """Sums and differences below 100, and products of one digit with numbers up to 30."""
  pairs = [(x, y) for x, y in itertools.product(range(10, 90), range(10, 90)) if x + y < 100]
  added = [c for x, y in pairs for c in (('+', x, y), ('-', x + y, y))]
  return added, [('*', x, y) for x, y in itertools.product(range(10, 31), range(2, 10))]


def _talks(split: str) -> Iterator[list[dict]]:
  rng = random.Random(f'small_talk talks {split}')
  exchanges, sums = _exchanges(split), _sums(split)
  openings = [one for one in exchanges if one.reply in (HELLO, NAME, SKILLS)]
  endings = [one for one in exchanges if one.reply in (WELCOME, 'Goodbye!')]
  wordings = python_questions.QUESTIONS[split]
  if split == 'train':
    wordings = (*wordings, *_TYPED)
  explained = [
    Exchange(wording.format(s.name), s.sentence)
    for s in python_questions.subjects()
    for wording in wordings
  ]
  seen = set()
  while len(seen) < _TALKS[split]:
    kinds = rng.choice(
      (
        (explained,), (sums,), (openings, explained), (openings, sums), (explained, endings),
        (sums, endings),
        (openings, exchanges), (openings, explained, endings), (sums, sums, endings),
        (openings, sums, explained), (openings, explained, explained, endings),
      )
    )  # fmt: skip
    talk = tuple(rng.choice(kind) for kind in kinds)
    if len(kinds) == 1 or (kinds[0] is not openings and rng.random() < 0.5):
      before = rng.choice(_BEFORE[split])
      talk = (talk[0]._replace(said=before + talk[0].said), *talk[1:])
    if talk not in seen:
      seen.add(talk)
      yield dialogue(*itertools.chain(*talk))


def _split_of(sign: str, *numbers: int) -> str:
  """8 parts train, 1 validation, 1 test."""
  number = hashlib.sha256(f'{sign} {numbers}'.encode()).digest()[0] % 10
  return SPLITS[number + 1] if number < 2 else 'train'
