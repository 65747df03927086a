"""Rows to practise on, made of texts without labels: which words are wrong, or were not there.

A `data` of a config: `config.data.name = 'experiments/classify/made.py'`. Half of its sentences are
`real`; the others get one change (two neighbours swapped, a word lost, moved or doubled, a function
word or an ending exchanged), and are `broken` from there on. In a pair, words of the second text
are `found` in the first or are `other`, and at its end it is `found` if all its words are. Every
token is a target, so that little text teaches much; a task is then read at the end alone.
"""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from llm_jax.data import packed
from llm_jax.data.labelled import Rows
from llm_jax.options import Count
from llm_jax.types import Tokenizer

WRITES = ('tokens', 'mask', 'position', 'segment', 'target')
CLASSES = ('broken', 'real', 'found', 'other')
GROUPS = (
  *('a an the this that these those some any every each no', 'is are was were be been being am'),
  *('he him his', 'she her hers', 'they them their', 'i me my', 'who whom whose which that what'),
  *('in on at to of for with by from about into over', 'do does did done', 'has have had having'),
  *('can could will would may might must should', 'and or but because although if while that'),
  *('himself herself itself themselves myself him her it them', 'much many more most few little'),
)
GROUP = {word: group.split() for group in GROUPS for word in group.split()}
ENDINGS = ('s', 'ed', 'ing', '')


def _swap(words: list[str], draw: random.Random) -> list[str]:
  i = draw.randrange(len(words) - 1)
  return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]


def _lose(words: list[str], draw: random.Random) -> list[str]:
  i = draw.randrange(len(words))
  return words[:i] + words[i + 1 :]


def _move(words: list[str], draw: random.Random) -> list[str]:
  word, rest = words[i := draw.randrange(len(words))], words[:i] + words[i + 1 :]
  j = draw.randrange(len(rest) + 1)
  return [*rest[:j], word, *rest[j:]]


def _double(words: list[str], draw: random.Random) -> list[str]:
  i, j = draw.randrange(len(words)), draw.randrange(len(words))
  return [*words[:i], words[j], *words[i:]]


def _exchange(words: list[str], draw: random.Random) -> list[str]:
  places = [i for i, word in enumerate(words) if word in GROUP]
  if not places:
    return words
  i = draw.choice(places)
  other = draw.choice([word for word in GROUP[words[i]] if word != words[i]])
  return [*words[:i], other, *words[i + 1 :]]


def _ending(words: list[str], draw: random.Random) -> list[str]:
  places = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w.islower()]
  if not places:
    return words
  i = draw.choice(places)
  stem = re.sub(r'(ing|ed|s)$', '', words[i])
  return [*words[:i], stem + draw.choice(ENDINGS), *words[i + 1 :]]


CHANGES: tuple[Callable[[list[str], random.Random], list[str]], ...] = (
  _swap, _lose, _move, _double, _exchange, _exchange, _ending,
)  # fmt: skip


def broken(sentence: str, draw: random.Random) -> tuple[str, int] | None:
  """A sentence with one change, and at which character; None where that changes nothing."""
  words = sentence[:-1].split()
  words[0] = words[0][0].lower() + words[0][1:]
  changed = draw.choice(CHANGES)(words, draw)
  if changed == words or not changed:
    return None
  first = next((i for i, (a, b) in enumerate(zip(words, changed, strict=False)) if a != b), None)
  first = min(len(words), len(changed)) if first is None else first
  at = len(' '.join(changed[:first]))
  changed[0] = changed[0][:1].upper() + changed[0][1:]
  return ' '.join(changed) + sentence[-1], at


def pair(
  sentences: Sequence[str], elsewhere: str, draw: random.Random
) -> tuple[str, list[str], list[bool]]:
  """A passage, words said of it, and which of these it has."""
  chosen = draw.choice(sentences).rstrip('.!?').split()
  size = min(len(chosen), draw.randint(5, 12))
  start = draw.randrange(len(chosen) - size + 1)
  words = [word for word in chosen[start : start + size] if draw.random() > 0.15]
  if draw.random() < 0.5:
    others = elsewhere.rstrip('.!?').split()
    if draw.random() < 0.3:
      words = others[: draw.randint(5, 12)]
    else:
      long = [i for i, word in enumerate(words) if len(word) > 3] or [*range(len(words))]
      candidates = [word for word in others if len(word) > 3] or others
      for i in draw.sample(long, min(len(long), draw.randint(1, 3))):
        words[i] = draw.choice(candidates)
  passage = ' '.join(sentences)
  there = {*re.findall(r'\w+', passage.lower())}
  return passage, words, [{*re.findall(r'\w+', word.lower())} <= there for word in words]


def _sentences(text: str) -> list[str]:
  """Sentences of 4 to 40 words, with blanks as in print."""
  text = re.sub(r' @(.)@ ', r'\1', text.replace('<unk>', 'it'))
  text = re.sub(r" ([,.;:!?)'%]|n't\b)", r'\1', re.sub(r'([($]) ', r'\1', text))
  found = re.split(r'(?<=[.!?])["\']? +(?=["A-Z])', text.replace('\n', ' '))
  kept = (one.strip().strip('"').strip() for one in found)
  return [one for one in kept if re.match(r'[A-Z].*[.!?]$', one) and 4 <= one.count(' ') < 40]


def make(
  tokenizer: Tokenizer,
  *,
  path: str,
  split: str = 'train',
  length: Count = 128,
  sentences: Count = 40_000,
  pairs: Count = 16_000,
  every: bool = False,
  seed: int = 0,
) -> Rows:
  """Rows of `sentences` and `pairs`; a fiftieth of them for validation, which is made of the same.

  Args:
    tokenizer: of the model.
    path: JSON lines with a `text`.
    split: 'train' or 'validation'.
    length: L, tokens of a row.
    sentences: how many.
    pairs: how many.
    every: of a pair every token is a target, and `found` if its id came before; else each word of
      the second text is one, and `found` if the first has it.
    seed: of what is made.
  """
  with open(path, encoding='utf-8') as file:
    passages = [some for line in file if (some := _sentences(json.loads(line)['text']))]
  share = 1 if split == 'train' else 50
  draw = random.Random(f'{seed} {split}')
  made = [*_single(tokenizer, passages, sentences // share, draw)]
  made += _pairs(tokenizer, passages, pairs // share, every, draw)
  made = [one for one in made if len(one[0]) <= length]
  sizes_D = np.array([len(ids) for ids, _ in made], np.int64)
  pieces = packed.best_fit(sizes_D, length)
  flat = lambda i: np.fromiter((x for one in made for x in one[i]), np.int32)
  tokens_RL, segment_RL = packed.fill(flat(0), sizes_D, pieces, length, pad=tokenizer.pad_id)
  target_RL, _ = packed.fill(flat(1), sizes_D, pieces, length, pad=-1)
  return Rows(tokens_RL, segment_RL, (target_RL >= 0).astype(np.uint8), np.maximum(target_RL, 0))


def _single(
  tokenizer: Tokenizer, passages: Sequence[Sequence[str]], count: int, draw: random.Random
) -> Iterator[tuple[list[int], list[int]]]:
  """Ids and targets of sentences."""
  short = [one for some in passages for one in some if one.count(' ') < 18]
  found: list[tuple[str, int]] = []
  while len(found) < count:
    sentence = draw.choice(short)
    if changed := broken(sentence, draw):
      found.append(draw.choice(((sentence, len(sentence)), changed)))
  wholes = tokenizer.encode_batch([text for text, _ in found])
  starts = tokenizer.encode_batch([text[:at] for text, at in found])
  for (text, at), whole, start in zip(found, wholes, starts, strict=True):
    first = _common(whole, start) if at < len(text) else len(whole) + 1
    bad = [*[False] * first, *[True] * (len(whole) + 1 - first)][: len(whole) + 1]
    target = [CLASSES.index('broken' if one else 'real') for one in bad]
    yield [*tokenizer.begin, *whole, tokenizer.eos_id], [-1] * len(tokenizer.begin) + target


def _pairs(
  tokenizer: Tokenizer,
  passages: Sequence[Sequence[str]],
  count: int,
  every: bool,
  draw: random.Random,
) -> Iterator[tuple[list[int], list[int]]]:
  """Ids and targets of pairs."""
  number = lambda known: CLASSES.index('found' if known else 'other')
  for _ in range(count):
    some = draw.choice(passages)
    start = draw.randrange(len(some))
    elsewhere = draw.choice(draw.choice(passages))
    passage, words, there = pair(some[start : start + draw.randint(1, 3)], elsewhere, draw)
    if not words:
      continue
    words[0] = words[0][:1].upper() + words[0][1:]
    said = (' '.join(words[:i]) for i in range(len(words) + 1))
    texts = [f'{passage}\n{one}' for one in said]
    *parts, whole = tokenizer.encode_batch([*texts, f'{texts[-1]}.'])
    target = [-1] * len(whole)
    if every:
      target = [number(one in whole[:i]) for i, one in enumerate(whole)]
    else:
      ends = [_common(part, whole) for part in parts]
      for (a, b), known in zip(itertools.pairwise(ends), there, strict=True):
        target[a:b] = [number(known)] * (b - a)
    ids = [*tokenizer.begin, *whole, tokenizer.eos_id]
    yield ids, [-1] * len(tokenizer.begin) + [*target, number(all(there))]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
  both = enumerate(zip(a, b, strict=False))
  return next((i for i, (x, y) in both if x != y), min(len(a), len(b)))
