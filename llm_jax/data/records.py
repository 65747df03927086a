"""Records of conversations and preferences: where they are read from, and which split they are in.

builtin[:family]   the records of `llm_jax.data.families`, with their own splits
chats/*.jsonl.gz   files and datasets as in `llm_jax.data.sources`, each record in a format of
                   `llm_jax.data.formats`, or a message of `llm_jax.data.trees`

A function of the user's may map each record to one in such a format, or to None, which leaves it
out: `record(record)` in a module or file that the option `map` names.
"""

import functools
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

from llm_jax.data import families, formats, kept, questions, trees
from llm_jax.data.formats import BadRow, columns_of
from llm_jax.data.sources import open_records, stamp
from llm_jax.find import explained, find
from llm_jax.options import suggest
from llm_jax.types import BadInput

Item = TypeVar('Item')
Rows = TypeVar('Rows', bound=Sized)
# Reasons that are not the records' own.
_TOO_LONG = (
  'dropped',
  'no trained token',
  'prompt too long',
  'answer too long',
  'more answers than group',
)
LEFT_OUT = 'data.map gave None'
# What records are read by, so that columns may be given these names.
_TABLES = (formats.CONVERSATIONS, formats.PREFERENCES, formats.LABELLED, questions.QUESTIONS)
COLUMNS = frozenset(
  name
  for format in (*itertools.chain(*_TABLES), '|'.join(formats.BESIDE), '|'.join(trees.COLUMNS))
  for column in format.split(' + ')
  for name in column.split('|')
)


def read(
  name: str,
  sources: Mapping[str, str],
  parse: Callable[[Mapping[str, Any]], Item],
  opening: Callable[[Item], Sequence[Mapping[str, Any]]],
  *,
  kind: str,
  split: str,
  counts: Counter[str] | None = None,
  validation: Mapping[str, str] | None = None,
  validation_fraction: float = 0.01,
  map: str = '',
  columns: Sequence[str] = (),
) -> Iterator[tuple[str, Item | BadRow]]:
  """(place, item) of every record of source `name` in `split`, in an order that never changes.

  Args:
    name: a key of `sources`.
    sources: name -> specification, from `chosen`.
    parse: from a record to an item, such as `formats.conversation`.
    opening: a function from an item to its messages. Sources without a validation split of their
      own are divided by a hash of the messages up to the first of the user, so no prompt is in
      both.
    kind: of the builtin records, such as 'conversations'.
    split: 'train' or 'validation'; also another that the source has of its own, such as 'test'.
    counts: gets how many records `map` left out.
    validation: name -> specification of the validation split, for sources without one.
    validation_fraction: share of the prompts that the hash assigns to validation.
    map: a module or file of the user's, whose `record` is given each record; '' for none.
    columns: names that columns may be given besides those that formats know.

  Yields:
    The place, and the item or the BadRow that `parse` raised. Where the hash divides a source, a
    BadRow counts as train.

  Raises:
    BadInput: a specification, split or record cannot be read; the message names the place.
  """
  own = (validation or {}).get(name, '')
  spec = own if own and split == 'validation' else sources[name]
  found, hashed = _opened(name, spec, kind, split, known={*COLUMNS, *columns})
  hashed = hashed and not own
  if map:
    once = split == 'train' or not hashed
    found = _mapped(found, map, counts if once and counts is not None else Counter())
  for where, record in found if is_builtin(spec) else trees.grown(found, kind):
    try:
      if isinstance(record, list):  # the line holds the messages themselves
        record = {'messages': record}
      if not isinstance(record, Mapping):
        raise BadInput(f'{type(record).__name__} instead of an object')
      item = parse(record)
    except BadRow as bad:
      if not hashed or split == 'train':
        yield where, bad
      continue
    except BadInput as error:
      raise BadInput(f'{where}: {error}') from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
      raise BadInput(
        f'{where}: a column does not hold what its name says ({error!r}); the columns are '
        f'{columns_of(record if isinstance(record, Mapping) else {})}'
      ) from error
    if not hashed or _split_of(opening(item), validation_fraction) == split:
      yield where, item


def stamps(
  name: str,
  sources: Mapping[str, str],
  *,
  split: str,
  validation: Mapping[str, str] | None = None,
  validation_fraction: float = 0.01,
  map: str = '',
) -> dict[str, Any]:
  """What changes when the records do that `read` gives with these arguments; none is read."""
  own = (validation or {}).get(name, '')
  path = find('data', map, defines=('record',)).__file__ if map else None
  return {
    'source': stamp(own if own and split == 'validation' else sources[name]),
    'divided': None if own else validation_fraction,
    'split': split,
    'map': hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else '',
  }


def by_source(
  sources: Mapping[str, str],
  parse: Callable[[str, Mapping[str, Any]], Item],
  opening: Callable[[Item], Sequence[Mapping[str, Any]]],
  *,
  kind: str,
  which: Mapping[str, Any],
  rows: Callable[[Iterable[tuple[str, Item | BadRow]]], tuple[Rows, kept.Tallies]],
  cache: str,
  made_from: Mapping[str, Any],
  encode: kept.Encode[tuple[str, Item | BadRow]],
  opened: Callable[[kept.Rows], Rows],
) -> tuple[dict[str, Rows], kept.Tallies]:
  """The rows of each source that has any, and what is counted of all of them.

  Args:
    sources: name -> specification, from `chosen`.
    parse: from the specification of a source and a record of it to an item.
    opening: see `read`.
    kind: see `read`.
    which: the other arguments of `read`: of the split, and the map.
    rows: makes the rows of a source in memory, from what `read` gives.
    cache: a folder that keeps those of files and datasets; '' for none.
    made_from: what kept rows depend on, besides the records.
    encode: makes rows to keep of some of what `read` gives.
    opened: makes of kept rows what `rows` makes in memory.
  """
  found: dict[str, Rows] = {}
  tallies: kept.Tallies = defaultdict(Counter)
  for name, spec in sources.items():
    item = functools.partial(parse, spec)
    read_in = lambda counts, name=name, item=item: read(
      name, sources, item, opening, kind=kind, counts=counts, **which
    )
    if cache and not is_builtin(spec):
      depends = {'records': stamps(name, sources, **which), **made_from}
      shards = kept.keep(Path(cache), depends, read_in, encode)
      some, told = opened(shards), shards.tallies
    else:
      counts: Counter[str] = Counter()
      some, told = rows(read_in(counts))
      told['left out'] += counts
    if len(some):
      found[name] = some
    for key, tally in told.items():
      tallies[key].update(tally)
  return found, tallies


def chosen(
  sources: Mapping[str, str], validation: Mapping[str, str] | None, validation_fraction: float
) -> dict[str, str]:
  """The sources by name, without those whose specification is empty.

  Raises:
    BadInput: there are no sources, or a name or number cannot be used.
  """
  found = {name: sources[name] for name in sorted(sources) if sources[name]}
  if not found:
    raise BadInput("data.sources is empty; set for example config.data.sources.mine = 'my/*.jsonl'")
  for name in validation or ():
    if name not in sources:
      raise BadInput(f'data.validation: no source {name!r}; {suggest(name, list(found))}')
  if not 0 <= validation_fraction < 1:
    raise BadInput(
      f'data.validation_fraction {validation_fraction}: use a share from 0 up to below 1'
    )
  return found


def none_left(what: str, split: str, sources: Mapping[str, str], counts: Counter[str]) -> BadInput:
  """The error where no row is left, with what became of the records.

  >>> print(none_left('prompts', 'train', {'mine': 'a.jsonl'}, Counter({'tie': 3})))
  data: no prompts are left in the train split of {'mine': 'a.jsonl'} (3 tie); mend the records
  """
  found = ', '.join(f'{count:,} {reason}' for reason, count in counts.most_common(3) if count)
  advice = 'mend the records' if found else 'raise validation_fraction, or give it more records'
  if any(counts[reason] for reason in _TOO_LONG):
    advice = 'raise length, answer_bytes or group, or choose another overlong'
  return BadInput(
    f'data: no {what} are left in the {split} split of {dict(sources)}'
    f'{found and f" ({found})"}; {advice}'
  )


def weights_left(
  weights: Mapping[str, float] | None, rows: Collection[str], sources: Collection[str]
) -> dict[str, float] | None:
  """Weights without those of sources of which a split has no rows; a name that is none stays.

  >>> weights_left({'mine': 1, 'yours': 2, 'tpyo': 3}, ['mine'], ['mine', 'yours'])
  {'mine': 1, 'tpyo': 3}
  """
  if weights is None:
    return None
  return {name: share for name, share in weights.items() if name in rows or name not in sources}


def is_builtin(spec: str) -> bool:
  """Whether the records of a source were written for this package."""
  return spec == 'builtin' or spec.startswith('builtin:')


def _opened(
  name: str, spec: str, kind: str, split: str, known: Collection[str]
) -> tuple[Iterable[tuple[str, Any]], bool]:
  """The records of a split, and whether they are all there are, which the hash has to divide."""
  if is_builtin(spec):
    family = spec.removeprefix('builtin').removeprefix(':') or None
    records = families.records(kind, split, family)
    return ((f'{spec}, {split}, record {i}', record) for i, record in enumerate(records)), False
  found = open_records(spec, known=known)
  if split != 'train' and split in found.splits:
    return open_records(spec, split=split, known=known), False
  if split not in ('train', 'validation'):
    there = ', '.join(found.splits) or 'only train and validation'
    raise BadInput(
      f'data.sources.{name}: {spec} has no split {split!r}, {there}; name the file of that split '
      'as a source'
    )
  return found, not found.has_splits


def _mapped(
  found: Iterable[tuple[str, Any]], name: str, counts: Counter[str]
) -> Iterator[tuple[str, Any]]:
  """What the user's function makes of each record; those that it left out are counted."""
  function = find('data', name, defines=('record',)).record
  for where, record in found:
    try:
      record = function(record)
    except Exception as error:
      raise BadInput(f'{where}: data.map: {explained(error, name)}') from error
    if record is None:
      counts[LEFT_OUT] += 1
    elif isinstance(record, (Mapping, list)):
      yield where, record
    else:
      raise BadInput(
        f'{where}: data.map: {name} made {type(record).__name__} of it; return a record, which is '
        'a dict, or None to leave it out'
      )


def _split_of(messages: Sequence[Mapping[str, Any]], fraction: float) -> str:
  first = next((i for i, m in enumerate(messages) if m['role'] == 'user'), len(messages))
  text = json.dumps(list(messages[: first + 1]), sort_keys=True, default=str)
  digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
  return 'validation' if int.from_bytes(digest, 'big') < fraction * 2**64 else 'train'
