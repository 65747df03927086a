"""What a stage is made of, by what its files say of themselves: fields from the data to the loss.

A file of data/, annotate/ or losses/ names the fields that it `READS` and `WRITES`: a tuple, or a
function of its options. A file that does not say (somebody's experiment) is taken to read nothing
that is missing and to write whatever is asked for; it is found out when it runs.
"""

import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from llm_jax.find import call, find, last, named, preset
from llm_jax.options import check, options_of, resolve
from llm_jax.tools import listed
from llm_jax.types import BadInput, Tokenizer

MAKES = {'data': 'make', 'annotate': 'make', 'losses': 'loss_fn'}
IDS = ('tokens', 'target', 'prompt', 'kl_tokens')  # fields of a row that hold ids
# What the job hands to whoever names it, beside what comes from the step that samples.
OFFERED = ('model', 'mesh', 'template', 'trust', 'split', 'columns')


class Part(NamedTuple):
  """A file in its place in a stage.

  Attributes:
    room: that the file belongs to.
    where: its group of the config, such as 'annotate.sample'.
    name: as in the config.
    module: what the name stands for.
    function: that makes it, or the loss itself.
    group: options that the config gives, its preset unfolded.
    options: the same and all defaults.
  """

  room: str
  where: str
  name: str
  module: ModuleType
  function: Callable[..., Any]
  group: Mapping[str, Any]
  options: Mapping[str, Any]

  @property
  def reader(self) -> str:
    """What messages call it."""
    return f'loss {last(self.name)}' if self.room == 'losses' else self.where

  def says(self, what: str) -> tuple[str, ...] | None:
    """Its `READS`, `WRITES`, `COLUMNS` or `ARTIFACTS` with these options; None without."""
    return said(self.module, what, self.options)

  def artifacts(self) -> Iterator[tuple[str, str]]:
    """(option, folder) of the artifacts that its options name."""
    for option in self.says('ARTIFACTS') or ():
      if self.options.get(option):
        yield option, self.options[option]


def said(module: ModuleType, what: str, options: Mapping[str, Any]) -> Any:
  """A declaration of a module, of its options if it depends on them."""
  value: Any = getattr(module, what, None)
  return value(options) if callable(value) else value


def chain(config: Any) -> list[Part]:
  """The data, the annotators in their order and the loss of a config, as far as it has them.

  Raises:
    BadInput: a name, option, preset or value that cannot be.
  """
  parts = [_part('data', 'data', *named(config.data, 'data'))] if 'data' in config else []
  parts += steps(config.get('annotate', {'steps': ()}))
  if 'loss' in config:
    parts.append(_part('losses', 'loss', *named(config.loss, 'loss')))
  return parts


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what the job fills in)."""
  for part in chain(config):
    yield part.where, part.function, ('model', 'mesh', 'trust', 'split', 'columns')


def steps(group: Mapping[str, Any], where: str = 'annotate') -> list[Part]:
  """The annotators of `group.steps` in their order; each may have options in a group beside it.

  That group is called as the step, or by its own name alone: `polite` for `mine.polite`.
  """
  if 'steps' not in group:
    raise BadInput(f"{where}: 'steps' is missing; set config.{where}.steps, to () for none")
  steps = group['steps']
  if not isinstance(steps, (list, tuple)) or not all(isinstance(step, str) for step in steps):
    raise BadInput(f"{where}: steps {steps!r}; choose a list of names, as ('sample', 'verify')")
  called = [last(step) for step in steps]
  for i, short in enumerate(called):
    if short in called[:i]:
      raise BadInput(f'{where}: {short!r} comes twice in config.{where}.steps; once is enough')
  parts: list[Part] = []
  sampled: Mapping[str, Any] = {}
  for step, short in zip(steps, called, strict=True):
    options = group.get(step, group.get(short, {}))
    parts.append(_part('annotate', f'{where}.{short}', step, options, sampled))
    if 'prompt' in (parts[-1].says('READS') or ()):
      sampled = parts[-1].options
  return parts


def _part(
  room: str, where: str, name: str, group: Mapping[str, Any], sampled: Mapping[str, Any] = {}
) -> Part:
  """A file and its options; one it needs and was not given is taken from the sampler's."""
  module = find(room, name)
  function = getattr(module, MAKES[room])
  group = preset(module, group, where=where)
  lent = {n for n, o in options_of(function).items() if o.required and n in sampled}
  group = {name: sampled[name] for name in lent} | group
  check(function, group, where=where, offered=OFFERED)
  if room == 'data' and 'split' not in options_of(function):
    raise BadInput(
      f'{where}: make of {name!r} has no keyword `split`; a stage asks it for the rows of train '
      'and of validation'
    )
  return Part(room, where, name, module, function, group, resolve(function, group))


def check_fields(
  parts: Sequence[Part],
  *,
  row: Collection[str] | None = None,
  wanted: Sequence[str] = (),
  by: str = '',
) -> None:
  """Walks the chain and refuses the first field that is read and that nobody has written.

  Args:
    parts: from `chain`.
    row: the fields of a row of the data, where it has been read.
    wanted: fields that have to be there in the end.
    by: who wants them.

  Raises:
    BadInput: naming the reader, the field, and who writes it.
  """
  reads = [(part.reader, part.says('READS') or ()) for part in parts]
  reads.append((by, tuple(wanted)))
  have: set[str] = set()
  for i, (reader, fields) in enumerate(reads):
    for field in fields:
      if field not in have:
        refuse(reader, field, parts[i:])
    if i < len(parts):
      writes = parts[i].says('WRITES') if i or row is None else row
      if writes is None:
        return  # whatever comes now may be there
      have.update(writes)


def refuse(reader: str, field: str, later: Sequence[Part]) -> None:
  """Raises BadInput: `reader` wants a field that none of the parts before `later` writes."""
  for part in later[1:]:
    if field in (part.says('WRITES') or ()):
      raise BadInput(f'{reader} reads `{field}`, which {part.where} writes only later; swap them')
  known = writers(field)
  who = f'{" and ".join(known)} {"do" if len(known) > 1 else "does"}' if known else 'no file does'
  raise BadInput(f'{reader} reads `{field}`, which nothing before it writes; {who}')


def writers(field: str) -> list[str]:
  """Who makes a field: the annotators, or else data, that write it and do not read it."""
  found: list[str] = []
  for room in ('annotate', 'data'):
    if found:
      break
    package = __import__(f'llm_jax.{room}', fromlist=['__path__'])
    for info in pkgutil.iter_modules(package.__path__):
      module = __import__(f'llm_jax.{room}.{info.name}', fromlist=['make'])
      if not hasattr(module, 'WRITES'):
        continue
      shown = info.name if room == 'annotate' else f'data.name={info.name}'
      for option, options in _variants(module.make):
        reads = said(module, 'READS', options) or ()
        if field in (said(module, 'WRITES', options) or ()) and field not in reads:
          found.append(f'{shown} with {option}' if option else shown)
          break
  return found


def _variants(function: Callable) -> Iterator[tuple[str, dict[str, Any]]]:
  """The defaults of a function, and what they are with one switch or choice set otherwise."""
  options = options_of(function)
  defaults = {name: option.default for name, option in options.items()}
  yield '', defaults
  for name, option in options.items():
    for value in (True,) if option.default is False else option.choices:
      yield f'{name}={value}', {**defaults, name: value}


def sampler(parts: Sequence[Part]) -> Part | None:
  """Who writes answers to prompts: the part that reads `prompt`, or writes `sampled_logp`."""
  for part in parts[1:]:
    if 'prompt' in (part.says('READS') or ()) or 'sampled_logp' in (part.says('WRITES') or ()):
      return part
  return None


def columns(parts: Sequence[Part]) -> tuple[str, ...]:
  """The columns of its records that the data has to bring along for the annotators."""
  asked = [column for part in parts for column in part.says('COLUMNS') or ()]
  return tuple(dict.fromkeys(asked))


def read_rows(
  parts: Sequence[Part],
  tokenizer: Tokenizer,
  split: str,
  offered: Mapping[str, Any] | None = None,
) -> Sequence[Mapping[str, np.ndarray]]:
  """The rows of a chain's data, with what its annotators ask for; see `CheckedRows`.

  These are columns of its records, and the names of the tools that the model may call.

  Raises:
    BadInput: there are none, or the data cannot bring columns along.
  """
  data, asked = parts[0], columns(parts)
  takes = 'columns' in data.options
  if asked and not takes:
    raise BadInput(
      f'data: a reward asks for the column {asked[0]!r}, and {data.name!r} has no option `columns` '
      'to bring it along'
    )
  offers: dict[str, Any] = {'columns': asked} if takes and not data.group.get('columns') else {}
  sampling = sampler(parts)
  names = listed((sampling.options.get('tools') if sampling else None) or {})
  if 'tools' in data.options and names and 'tools' not in data.group:
    offers['tools'] = names
  rows = call(
    data.function,
    data.group,
    tokenizer,
    where='data',
    split=split,
    offered={**(offered or {}), **offers},
  )
  if not len(rows):
    raise BadInput(f'data: the {split} split of {dict(data.group)} has no rows; give it more text')
  known: Any = CheckedRows(rows, tokenizer.vocab_size)
  return known


class CheckedRows:
  """The same rows, whose ids are checked when they are read: JAX reads NaN for an unknown id."""

  def __init__(self, rows: Sequence[Mapping[str, np.ndarray]], vocab_size: int) -> None:
    self._rows, self._vocab_size = rows, vocab_size

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
    row = self._rows[index]
    for name in IDS:
      if name in row and not 0 <= row[name].min() <= row[name].max() < self._vocab_size:
        wrong = row[name].min() if row[name].min() < 0 else row[name].max()
        raise BadInput(
          f'data: row {index} has the id {wrong} in {name!r}, but the tokenizer knows '
          f'0..{self._vocab_size - 1}; the data is damaged, or was made with another tokenizer'
        )
    return row

  def __getattr__(self, name: str) -> Any:  # such as `messages`
    return getattr(self.__dict__['_rows'], name)

  def __repr__(self) -> str:
    return repr(self._rows)


def written(parts: Sequence[Part]) -> Collection[str]:
  """All fields that some part says it writes."""
  return {field for part in parts for field in part.says('WRITES') or ()}
