"""Questions of a task as ids: examples, the context, and where what is scored begins."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from llm_jax.data.tasks.task import Item, Task, example
from llm_jax.evals.likelihood import Ids, Request, Text
from llm_jax.text import chat
from llm_jax.types import BadInput, Tokenizer

Draw = Literal['first', 'seeded', 'lm_eval']
TooLong = Literal['drop', 'cut']


class Asked(NamedTuple):
  """A question as ids.

  Attributes:
    requests: one; or several where choices have contexts of their own.
    places: of each choice, its request and its number there.
    prompt: the context as text.
    shots: examples that it holds.
    cut: tokens of the context that were left out, of the choice that lost most.
    spans: whether a token holds the end of the context and the begin of a choice.
    failed: why it cannot be asked; '' if it can.
  """

  requests: list[Request]
  places: list[tuple[int, int]]
  prompt: str
  shots: int = 0
  cut: int = 0
  spans: bool = False
  failed: str = ''


class _Context(NamedTuple):
  prompt: str
  ids: Ids
  texts: tuple[Text, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
  """How questions of a task are put to a model with this tokenizer.

  Attributes:
    tokenizer: of the model.
    task: it.
    room: most tokens that the model reads.
    pool: questions that examples are drawn from.
    shots: examples before each question.
    draw: the first of the pool; others for each question, from its key and the seed; or those that
      lm-eval draws, whose one generator runs on over all questions.
    too_long: whole examples are left out until a question fits, and only then its begin; or, as
      lm-eval does, the begin of what is too long is cut, and with it the begin of the document.
    template: questions and examples are turns of a conversation in it; None for plain text.
    seed: of drawing.
  """

  tokenizer: Tokenizer
  task: Task
  room: int
  pool: Sequence[Item] = ()
  shots: int = 0
  draw: Draw = 'seeded'
  too_long: TooLong = 'drop'
  template: chat.ChatTemplate | None = None
  seed: int = 0

  def __call__(self, items: Sequence[Item]) -> list[Asked]:
    """All questions, in their order."""
    examples = _drawn(items, self.pool, self.shots, self.draw, self.seed)
    asked: dict[int, Asked] = {}
    left = list(range(len(items)))
    while left:
      contexts = self._contexts([(items[i], examples[i]) for i in left])
      again = []
      for i, found in zip(left, contexts, strict=True):
        over = max(map(self._excess, found), default=0)
        if over > 0 and self.too_long == 'drop' and examples[i]:
          examples[i] = examples[i][:-1]
          again.append(i)
        else:
          asked[i] = self._asked(found, len(examples[i]))
      left = again
    return [asked[i] for i in range(len(items))]

  def _excess(self, context: _Context, text: Text | None = None) -> int:
    """Tokens that are too many, for a text or for the longest."""
    texts = (text,) if text else context.texts
    longest = max((len(text.ids) for text in texts), default=1)
    return len(context.ids) + longest - 1 - self.room

  def _asked(self, contexts: Sequence[_Context], shots: int) -> Asked:
    requests: dict[Ids, list[Text]] = {}
    places, most, failed = [], 0, ''
    for context in contexts:
      for text in context.texts or (None,):
        one = self.too_long == 'drop'  # one context for all choices
        over = max(0, self._excess(context, None if one else text))
        keep = 0 if self.too_long == 'cut' else len(self.tokenizer.begin)
        ids = context.ids[:keep] + context.ids[keep + over :] if over else context.ids
        if over and len(context.ids) - keep <= over:
          failed = f'does not fit into {self.room} tokens'
          ids = context.ids[:1]
        if (n := len(self.tokenizer.begin)) and ids[n : 2 * n] == tuple(self.tokenizer.begin):
          raise BadInput('a document would begin twice, since the tokenizer begins texts by itself')
        most = max(most, over)
        texts = requests.setdefault(ids, [])
        number = list(requests).index(ids)
        if text is not None:
          places.append((number, len(texts)))
          texts.append(text)
    spans = any(text.skip for context in contexts for text in context.texts)
    made = [Request(ids, tuple(texts)) for ids, texts in requests.items()]
    return Asked(made, places, contexts[0].prompt, shots, most, spans, failed)

  # --- text to ids ---------------------------------------------------------------------------

  def _contexts(self, asked: Sequence[tuple[Item, Sequence[Item]]]) -> list[list[_Context]]:
    """Of each question its contexts: one, or one for each choice."""
    if (template := self.template) is not None:
      return [self._chat(item, examples, template) for item, examples in asked]
    pairs: list[tuple[str, list[str]]] = []
    counts = []
    for item, examples in asked:
      before = self._before(item, examples)
      behind = [f'{self.task.delimiter}{choice}' for choice in item.choices]
      if item.contexts:
        choices = behind if len(behind) > 1 else behind * len(item.contexts)
        ends = zip(item.contexts, choices, strict=True)
        found = [_moved(before + context, [choice]) for context, choice in ends]
      elif behind:
        found = [_moved(before + item.context, behind)]
      else:
        found = [(before + item.context, [])]  # what is written goes on from every sign
      counts.append(len(found))
      pairs += found
    made = iter(self._encoded(pairs))
    return [[next(made) for _ in range(count)] for count in counts]

  def _before(self, item: Item, examples: Sequence[Item]) -> str:
    task = self.task
    shown = ''.join(f'{example(one, task)}{task.separator}' for one in examples)
    return f'{task.description(item.subject)}{shown}'

  def _encoded(self, pairs: Sequence[tuple[str, list[str]]]) -> list[_Context]:
    """Ids of contexts and of what follows them; the context ends where both tokenizations part."""
    texts = [
      text for context, behind in pairs for text in (context, *(context + x for x in behind))
    ]
    unique = list(dict.fromkeys(texts))
    both = zip(unique, self.tokenizer.encode_batch(unique), strict=True)
    ids_of = {text: tuple(ids) for text, ids in both}
    begin = self.tokenizer.begin or (() if all(c for c, _ in pairs) else (self.tokenizer.eos_id,))
    found = []
    for context, behind in pairs:
      alone, wholes = ids_of[context], [ids_of[context + text] for text in behind]
      ends = [_common(alone, whole) for whole in wholes]
      cut = min(ends, default=len(alone))
      parts = zip(wholes, ends, strict=True)
      texts = tuple(Text(whole[cut:], end - cut) for whole, end in parts)
      first = begin or (() if cut else (self.tokenizer.eos_id,))
      found.append(_Context(context, (*first, *alone[:cut]), texts))
    return found

  def _chat(
    self, item: Item, examples: Sequence[Item], template: chat.ChatTemplate
  ) -> list[_Context]:
    """A question as the last turn of a conversation; its description is the system's."""
    if item.contexts:
      raise BadInput('a task whose contexts differ by choice has no form as a conversation')
    turns = [
      (one.context, example(one, self.task)[len(one.context) :].lstrip()) for one in examples
    ]
    said = [
      message
      for question, answer in turns
      for message in (
        {'role': 'user', 'content': question},
        {'role': 'assistant', 'content': answer},
      )
    ]
    description = self.task.description(item.subject).strip()
    ask = f'{description}\n\n{item.context}' if description and not said else item.context
    if description and said:
      said[0] = {**said[0], 'content': f'{description}\n\n{said[0]["content"]}'}
    said.append({'role': 'user', 'content': ask})
    found = chat.pieces(said, template=template, answer=True)
    ids, _ = chat.encode(self.tokenizer, found)
    texts = tuple(Text(tuple(self.tokenizer.encode(choice.lstrip()))) for choice in item.choices)
    return [_Context(''.join(piece.text for piece in found), tuple(ids), texts)]


def _moved(context: str, behind: Sequence[str]) -> tuple[str, list[str]]:
  """Blanks at the end of a context belong to what follows it.

  >>> _moved('Answer: ', ['yes', 'no'])
  ('Answer:', [' yes', ' no'])
  """
  bare = context.rstrip()
  return bare, [context[len(bare) :] + text for text in behind]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
  both = enumerate(zip(a, b, strict=False))
  return next((i for i, (x, y) in both if x != y), min(len(a), len(b)))


def _drawn(
  items: Sequence[Item], pool: Sequence[Item], shots: int, draw: Draw, seed: int
) -> list[list[Item]]:
  """The examples of each question; none of them is the question itself."""
  if not shots:
    return [[] for _ in items]
  by_subject: dict[str, list[Item]] = {}
  for one in pool:
    by_subject.setdefault(one.subject, []).append(one)
  asked = {_question(one) for one in pool}
  running = random.Random(1234)
  found = []
  for item in items:
    there = by_subject.get(item.subject, [])
    itself = _question(item)
    others = [one for one in there if _question(one) != itself] if itself in asked else there
    if len(others) < shots:
      of = f' of {item.subject}' if item.subject else ''
      raise BadInput(f'{len(others)} examples{of} are there besides the question, not {shots}')
    if draw == 'first':
      found.append(others[:shots])
    elif draw == 'seeded':
      found.append(random.Random(f'{seed}:{item.key}').sample(others, shots))
    else:
      drawn = running.sample(there, shots)
      if any(_question(one) == itself for one in drawn):
        raise BadInput('lm-eval would show a question among its own examples; choose another draw')
      found.append(drawn)
  return found


def _question(item: Item) -> tuple[str, ...]:
  """What tells questions apart; those with no context, such as BLiMP's, by their choices."""
  return (item.context, *item.contexts, *(() if item.context or item.contexts else item.choices))


def formed(item: Item, form: str) -> Item:
  """A question that has its stem in another form: `letters` of the answers, or the `full` ones.

  >>> item = Item('', ('B',), 0, stem='2 + 2?', options=('3', '4'))
  >>> formed(item._replace(gold=1), 'letters').context
  '2 + 2?\\nA. 3\\nB. 4\\nAnswer:'
  >>> formed(item._replace(gold=1), 'full').choices
  ('3', '4')
  """
  if not (item.stem and item.options):
    raise BadInput(f'this task has no form {form!r}; leave config.form out')
  if form == 'full':
    return item._replace(context=f'Question: {item.stem}\nAnswer:', choices=item.options, answer='')
  letters = tuple(chr(ord('A') + i) for i in range(len(item.options)))
  lines = '\n'.join(f'{letter}. {text}' for letter, text in zip(letters, item.options, strict=True))
  return item._replace(context=f'{item.stem}\n{lines}\nAnswer:', choices=letters, answer='')


def swapped(items: Sequence[Item], seed: int) -> list[Item]:
  """Every question with the context of another one: a model that reads does worse.

  >>> [item.context for item in swapped([Item('a'), Item('b')], 0)]
  ['b', 'a']
  """
  order = list(range(len(items)))
  random.Random(seed).shuffle(order)
  other = dict(zip(order, order[1:] + order[:1], strict=True))
  return [
    item._replace(context=items[other[i]].context, contexts=items[other[i]].contexts)
    for i, item in enumerate(items)
  ]


def rolling(
  ids: Sequence[int], begin: Ids, room: int, make: Callable[..., Request] = Request
) -> list[Request]:
  """A document as windows of `room` tokens, each token scored once.

  The first window stands behind the begin of a document, and a later one behind one token; the last
  one is filled up with what stands before it, as lm-eval does.

  >>> for context, texts in rolling(range(10, 17), (1,), 3):
  ...   print(context, texts[0].ids, texts[0].skip)
  (1,) (10, 11, 12) 0
  (12,) (13, 14, 15) 0
  (13,) (14, 15, 16) 2
  """
  ids = tuple(ids)
  found, done = [], 0
  while done < len(ids):
    if done == 0:
      end = min(room, len(ids))
      found.append(make((begin[-1],), (Text(ids[:end]),)))
    else:
      end = min(done + room, len(ids))
      start = end - room
      found.append(make((ids[start - 1],), (Text(ids[start:end], done - start),)))
    done = end
  return found
