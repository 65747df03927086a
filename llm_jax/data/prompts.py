"""Prompts for a model to answer, one a row, each with the gold answer that a verifier looks at.

A row ends where the answer begins, so prompts of any length start their answers side by side, as
`llm_jax.sampling.generate` wants them.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from llm_jax.data import formats, lengths, questions, records
from llm_jax.data.formats import BadRow
from llm_jax.data.mixture import Mixture
from llm_jax.options import Count, MinP, at_least, checked
from llm_jax.rewards.columns import ALWAYS, pack
from llm_jax.text import calls, chat
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

WRITES = lambda o: ('prompt', 'prompt_mask', 'gold', *(('record',) if o['columns'] else ()))
_BATCH = 4096  # prompts encoded at once


class Prompt(NamedTuple):
  """Ids up to the answer, the gold answer as UTF-8, the messages and what rewards ask for."""

  ids: list[int]
  gold: bytes
  messages: Sequence[Mapping[str, Any]] = ()
  record: bytes = b''


@checked(where='data')
def make(
  tokenizer: Tokenizer,
  *,
  sources: Mapping[str, str],
  split: str = 'train',
  length: Count = 64,
  template: str | None = 'llm_jax',
  date: str = '',
  overlong: Literal['drop', 'cut'] = 'drop',
  answer_bytes: Annotated[int, at_least(0)] = 64,
  columns: Sequence[str] = (),
  tools: Sequence[str] = (),
  weights: Mapping[str, float] | None = None,
  validation: Mapping[str, str] | None = None,
  validation_fraction: MinP = 0.01,
  map: str = '',
) -> Mixture:
  """Prompts and gold answers, as a random-access sequence; one line about them is printed.

  Args:
    tokenizer: with the control tokens of the template.
    sources: name -> 'builtin', 'builtin:<family>', files or a dataset, as in
      `llm_jax.data.records`; an empty text leaves the source out.
    split: 'train' or 'validation'; also another that the sources have, as builtin ones have 'test'.
    length: P, tokens of a prompt.
    template: one of `chat.TEMPLATES`, 'folder' for the one that came with the tokenizer, or a file
      in Jinja; None is 'plain', a text behind the begin of text.
    date: what a template in Jinja takes for today, such as 2026-01-31; see `chat.find_template`.
    overlong: what becomes of prompts of more than P tokens. 'drop' leaves them out, 'cut' keeps
      their first token and their end. They are counted.
    answer_bytes: A, bytes of an answer. A cut answer would be another one, so a prompt with a
      longer one is left out; 0 for losses that need no answers: all prompts, without theirs.
    columns: of the records, for rewards that name them (rewards/columns.py); the job adds what
      its rewards ask for.
    tools: what the model may call, listed in the system message; by default the job names those of
      the step that samples.
    weights: source -> share of the rows; see `llm_jax.data.mixture`.
    validation: source -> what to read for its validation split.
    validation_fraction: share of the prompts held out of sources without a validation split.
    map: a module or file of yours with a function `record(record)`, which makes of each record one
      in a format that is read, or None to leave it out.

  Returns:
    A sequence of dicts of arrays: `prompt` int32 [P], ids padded on the left with 0, as a sampler
    would see them; `prompt_mask` int32 [P], 1 on real ones; `gold` uint8 [A], padded with 0, that
    `gold_text` reads; with columns also `record`. A prompt that comes again, in another source too,
    is left out and counted.

  Raises:
    BadInput: an option, source or record that cannot be used, or no prompts.
  """
  written = chat.find_template(template or 'plain', tokenizer, date)
  header = chat.encode(tokenizer, chat.pieces([], template=written, answer=True))[0]
  if length <= len(header):
    raise BadInput(
      f'data.length {length} has no room for a prompt: before an answer, template {template} alone '
      f'writes {len(header)} tokens'
    )
  chosen = records.chosen(sources, validation, validation_fraction)
  counts: Counter[str] = Counter()
  missing = set(columns) - {*ALWAYS}  # until some record has them

  def parse(record: formats.Record) -> tuple[formats.Messages, str, bytes]:
    messages, gold = questions.question(record)
    missing.difference_update(record)
    return calls.led(messages, tools), gold, pack(record, messages, columns)

  seen: set[tuple[int, ...]] = set()
  rows, sizes = {}, []
  for name in chosen:
    found = records.read(
      name,
      chosen,
      parse,
      operator.itemgetter(0),
      kind='questions',
      split=split,
      counts=counts,
      validation=validation,
      validation_fraction=validation_fraction,
      map=map,
      columns=columns,
    )
    prompts = []
    for prompt in _encode(tokenizer, found, written, counts):
      fitted = fit(prompt, length, overlong, answer_bytes, header, counts)
      if not answer_bytes or len(prompt.gold) <= answer_bytes:
        sizes.append(len(prompt.ids))
      if fitted and tuple(fitted.ids) in seen:
        counts['asked before'] += 1
      elif fitted:
        seen.add(tuple(fitted.ids))
        prompts.append(fitted)
    if prompts:
      rows[name] = prompts
  _report(split, length, answer_bytes, rows, sizes, counts)
  if rows and missing:
    raise BadInput(
      f'data: a reward asks for the column {min(missing)!r}, which no record has; add it to them, '
      'or set it among the options of the reward'
    )
  if not rows:
    raise records.none_left('prompts', split, chosen, counts)
  weights = records.weights_left(weights, rows, sources)
  widest = max(len(prompt.record) for some in rows.values() for prompt in some)
  shape: Any = dict(length=length, answer_bytes=answer_bytes, record_bytes=widest)
  return Mixture({name: Prompts(some, **shape) for name, some in rows.items()}, weights)


def gold_text(gold_A: Any) -> str:
  """The gold answer in the field `gold` of a row, which is '' if there is none.

  >>> gold_text(np.frombuffer(b'42' + bytes(6), np.uint8))
  '42'
  """
  return np.asarray(gold_A, np.uint8).tobytes().rstrip(b'\0').decode('utf-8', 'surrogatepass')


def _encode(
  tokenizer: Tokenizer,
  found: Iterable[tuple[str, tuple[formats.Messages, str, bytes] | BadRow]],
  template: chat.ChatTemplate,
  counts: Counter[str],
) -> list[Prompt]:
  """Every question as the ids that a sampler would see, and its answer."""
  listed, rest = [], []
  for where, item in found:
    counts['records'] += 1
    if isinstance(item, BadRow):
      counts[item.reason] += 1
      continue
    messages, gold, record = item
    try:
      listed.append(chat.pieces(messages, template=template, answer=True))
    except BadInput as error:
      raise BadInput(f'{where}: {error}') from error
    rest.append((gold.encode('utf-8', 'surrogatepass'), messages, record))
  encoded = []
  for start in range(0, len(listed), _BATCH):
    encoded += chat.encode_all(tokenizer, listed[start : start + _BATCH])
  return [Prompt(ids, *others) for (ids, _), others in zip(encoded, rest, strict=True)]


def fit(
  prompt: Prompt,
  length: int,
  overlong: str,
  answer_bytes: int,
  header: Sequence[int],
  counts: Counter[str],
) -> Prompt | None:
  """The prompt in `length` tokens and `answer_bytes` bytes, or None if that cannot be.

  Args:
    prompt: what is asked.
    length: P, more than the header has.
    overlong: see `make`.
    answer_bytes: A.
    header: the shortest prompt there can be: what the template writes before an answer.
    counts: gets 'answer too long', or one of 'dropped' and 'cut'.
  """
  if not answer_bytes:
    prompt = prompt._replace(gold=b'')
  if len(prompt.gold) > answer_bytes:
    counts['answer too long'] += 1
    return None
  if len(prompt.ids) <= length:
    return prompt
  counts[{'drop': 'dropped'}.get(overlong, overlong)] += 1
  if overlong == 'drop':
    return None
  begin = 1 if header[:1] == prompt.ids[:1] else 0  # the first token opens every text
  tail = prompt.ids[len(prompt.ids) - (length - begin) :]
  return prompt._replace(ids=prompt.ids[:begin] + tail)


class Prompts:
  """Prompts in memory; `[i]` gives one as in `make`, and `repr` tells other content apart."""

  def __init__(
    self, prompts: Sequence[Prompt], *, length: int, answer_bytes: int, record_bytes: int = 0
  ):
    self.prompts = prompts
    self._length, self._bytes = length, {'gold': answer_bytes, 'record': record_bytes}

  def __len__(self) -> int:
    return len(self.prompts)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    prompt = self.prompts[index]
    begin = self._length - len(prompt.ids)
    row = {
      'prompt': np.zeros(self._length, np.int32),
      'prompt_mask': np.zeros(self._length, np.int32),
      'gold': np.frombuffer(prompt.gold.ljust(self._bytes['gold'], b'\0'), np.uint8),
    }
    row['prompt'][begin:] = prompt.ids
    row['prompt_mask'][begin:] = 1
    if width := self._bytes['record']:
      row['record'] = np.frombuffer(prompt.record.ljust(width, b'\0'), np.uint8)
    return row

  def messages(self, index: int) -> list[dict[str, Any]]:
    """The conversation that a row asks to go on."""
    return [dict(message) for message in self.prompts[index].messages]

  def __repr__(self) -> str:
    content = self._length, self._bytes, list(self.prompts)
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    return f'Prompts({len(self)}, sha256={digest[:12]!r})'


def _report(
  split: str,
  length: int,
  answer_bytes: int,
  rows: Mapping[str, Sequence[Prompt]],
  sizes: Sequence[int],
  counts: Counter[str],
) -> None:
  """One line: nothing is left out without a word."""
  prompts = [prompt for some in rows.values() for prompt in some]
  tokens = sum(len(prompt.ids) for prompt in prompts)
  answered = sum(bool(prompt.gold) for prompt in prompts)
  line = (
    f'prompts: {split}, {counts.pop("records", 0):,} records in {len(prompts):,} prompts of '
    f'{tokens / max(len(prompts), 1):.1f} tokens, {answered:,} with an answer'
  )
  words = {
    'dropped': f'longer than {length} and dropped' + lengths.advice(split, length, Counter(sizes)),
    'cut': f'longer than {length} and cut at their beginning',
    'answer too long': f'left out: answer of more than {answer_bytes} bytes',
  }
  for reason, count in counts.items():
    if count:
      line += f'; {count:,} ' + words.get(reason, f'left out: {reason}')
  say(line)
