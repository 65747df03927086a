"""Records of conversations and preferences: where they are read from, and which split they are in.

builtin[:family]   the records of `llm_jax.data.families`, with their own splits
chats/*.jsonl.gz   files as in `llm_jax.data.sources`, each record in a format of
                   `llm_jax.data.formats`, or a message of `llm_jax.data.trees`
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from llm_jax.data import families, trees
from llm_jax.data.formats import BadRow, columns_of
from llm_jax.data.sources import open_records
from llm_jax.options import suggest
from llm_jax.types import BadInput

Item = TypeVar('Item')
# Reasons that are not the records' own.
_TOO_LONG = (
  'dropped',
  'no trained token',
  'prompt too long',
  'answer too long',
  'more answers than group',
)


def read(
  name: str,
  sources: Mapping[str, str],
  parse: Callable[[Mapping[str, Any]], Item],
  opening: Callable[[Item], Sequence[Mapping[str, Any]]],
  *,
  kind: str,
  split: str,
  validation: Mapping[str, str] | None = None,
  validation_fraction: float = 0.01,
) -> Iterator[tuple[str, Item | BadRow]]:
  """(place, item) of every record of source `name` in `split`, in an order that never changes.

  Args:
    name: a key of `sources`.
    sources: name -> specification, from `chosen`.
    parse: from a record to an item, such as `formats.conversation`.
    opening: a function from an item to its messages. Files without a validation split of their own
      are divided by a hash of the messages up to the first of the user, so no prompt is in both.
    kind: of the builtin records, such as 'conversations'.
    split: 'train' or 'validation'; also 'test' if the source is builtin.
    validation: name -> specification of the validation split, for sources in files.
    validation_fraction: share of the prompts that the hash assigns to validation.

  Yields:
    The place, and the item or the BadRow that `parse` raised. Where the hash divides a file, a
    BadRow counts as train.

  Raises:
    BadInput: a specification, split or record cannot be read; the message names the place.
  """
  validation = validation or {}
  spec, hashed = sources[name], False
  if split == 'validation' and validation.get(name):
    spec = validation[name]
  elif not _is_builtin(spec):
    if split not in ('train', 'validation'):
      raise BadInput(
        f'data.sources.{name}: {spec} has no split {split!r}, only train and validation; name the '
        'file of that split as a source'
      )
    hashed = not validation.get(name)
  for where, record in _records(spec, kind, split):
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


def _is_builtin(spec: str) -> bool:
  return spec == 'builtin' or spec.startswith('builtin:')


def _records(spec: str, kind: str, split: str) -> Iterator[tuple[str, Any]]:
  if _is_builtin(spec):
    family = spec.removeprefix('builtin').removeprefix(':') or None
    for i, record in enumerate(families.records(kind, split, family)):
      yield f'{spec}, {split}, record {i}', record
  elif spec.startswith('tfds:'):
    raise BadInput(f'{spec}: TFDS is read for texts only; write the records to a .jsonl file')
  else:
    yield from trees.grown(open_records(spec), kind)


def _split_of(messages: Sequence[Mapping[str, Any]], fraction: float) -> str:
  first = next((i for i, m in enumerate(messages) if m['role'] == 'user'), len(messages))
  text = json.dumps(list(messages[: first + 1]), sort_keys=True, default=str)
  digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
  return 'validation' if int.from_bytes(digest, 'big') < fraction * 2**64 else 'train'
