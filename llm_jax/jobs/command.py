"""The command line as a config: a file, its size, and what `--config.group.field=` changes in it.

Nothing here imports JAX, unless a field of the job is added or removed: then the job is asked.
"""

import ast
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from llm_jax.jobs import rounds
from llm_jax.jobs.config_file import configs_folder, load
from llm_jax.nearest import abbreviates, nearest

QUESTIONS = ('help', 'print', 'version')  # words that are asked with two dashes
# The word that takes a field or a group out of the config.
UNSET = 'unset'
# Elsewhere `name` chooses a file, and the other fields of its group are options of that file. This
# group feeds one function, `name` is one of its options, and all its names share the others.
ONE_FUNCTION = ('optimizer',)
LISTS = ('artifacts', 'tasks', 'read', 'fewer')  # fields that may be written with commas alone
KINDS = {
  int: 'a whole number',
  float: 'a number',
  bool: 'true or false',
  tuple: 'a tuple',
  ConfigDict: 'a group of fields',
}


def read_config(argv: Sequence[str]) -> ConfigDict:
  """The config of a command line, whose first word is the program.

  First goes what the command line takes away of what the file gave: fields and groups that are
  `unset`, and where another `name` is given the options of the old one. Where the `path` of a
  tokenizer is given, the options for training one go. What is left and given is set by
  ml_collections, which checks its type. What the file does not list may be added to a group, since
  a group is the keyword arguments of some function, and that function's signature is asked later;
  so may a group inside of a group. The fields of a job itself are a closed list.

  Raises:
    SystemExit: one line that names what is wrong.
  """
  source, changes = _parse(argv[1:])
  return change(load(source), changes).lock()


def change(config: ConfigDict, changes: Sequence[tuple[str, str | None]]) -> ConfigDict:
  """A config with changes to it, in place, as `read_config` makes them.

  Args:
    config: unlocked.
    changes: (path of a field, its value as a text, or None where there is none).

  Raises:
    SystemExit: one line that names what is wrong.
  """
  for name, value in changes:
    if value == UNSET:
      _unset(config, name, [other for other, _ in changes])
    elif name.endswith('.name'):
      _rename(config, name, value)
    elif name.endswith('tokenizer.path') and value and _lists(config, name.removesuffix('.path')):
      # The others are for training one.
      _unset(config, name.removesuffix('.path'), [name])
    elif name.endswith('annotate.steps') and value:
      _drop_annotators(config, name, value, [other for other, _ in changes])
  changes = [(name, value) for name, value in changes if value != UNSET]
  typed = lambda name: _lists(config, name) and ('[' in name or _value(config, name) is not None)
  added = [change for change in changes if not typed(change[0])]
  _set(config, [change for change in changes if change not in added])
  for name, value in added:
    _add(config, name, value)
  follow(config)
  feed(config)
  rounds.expand(config)
  return config


def follow(config: ConfigDict) -> None:
  """Fields of the model that nobody has set become those of the artifact that a stage starts from.

  `--config.init.params=runs/llama` is enough to train a model of any shape. A field that a config
  file or the command line sets stays, so that what contradicts the artifact is found by its name.
  What needs more than the artifact's own words is done when the config runs (jobs/donors.py).
  """
  init, model = config.get('init'), config.get('model')  # jobs without them start from nothing
  if not isinstance(init, ConfigDict) or not isinstance(model, ConfigDict):
    return
  for part, path in init.items():
    group: Any = model if part == 'params' else model.get(part)
    theirs = _model_of(path) if isinstance(group, ConfigDict) else None
    if theirs is not None:
      take(group, theirs)


def feed(config: ConfigDict) -> None:
  """A pipeline that is given raw pages begins with `clean`; its text is a source of `tokenize`."""
  fields: dict[str, Any] = dict(config.items())
  clean = fields.get('clean')
  if fields.get('job') != 'pipeline' or not isinstance(clean, ConfigDict):
    return
  sources: Any = clean.sources
  if any(sources.values()) and 'clean' not in fields['stages']:
    config.stages = ('clean', *fields['stages'])
    fields['tokenize'].sources.web = clean.workdir


def take(group: ConfigDict, theirs: Mapping[str, Any]) -> None:
  """Puts a model in the place of a config group, but for the fields that somebody has set.

  Taken twice is as taken once. A name that was read from a file is put into no config, and whether
  a model speaks, scores or classifies is for its stage to say. A model of another name keeps what
  it has, but for fields of a size that the artifact has not.
  """
  fields: dict[str, Any] = dict(group.items(preserve_field_references=True))
  named = theirs.get('name')
  if named != group.get('name'):
    with group.unlocked():
      for name, field in fields.items():
        if named and name not in theirs and _follows(field):
          del group[name]
    return
  judges = any(one.get('head') in ('scalar', 'classes') for one in (theirs, group))
  kept = {'head', 'classes'} if judges else set()
  with group.unlocked(), group.ignore_type():
    for name, field in fields.items():
      if name in kept or not _follows(field):
        kept.add(name)
      elif name not in theirs or isinstance(field, ConfigDict) or isinstance(theirs[name], dict):
        del group[name]
      else:
        field.set(theirs[name], False)
        field.follows = True  # of what it starts from, as it was of its size
    for name in theirs.keys() - group.keys() - kept:
      value = theirs[name]
      group[name] = ConfigDict(value) if isinstance(value, Mapping) else value


def _follows(field: Any) -> bool:
  """Whether nobody has set a field, or any inside of a group."""
  if isinstance(field, ConfigDict):
    inner = [value for _, value in field.items(preserve_field_references=True)]
    return bool(inner) and all(map(_follows, inner))
  return getattr(field, 'follows', False)


def _model_of(path: Any) -> dict[str, Any] | None:
  """The model that an artifact says it is; None where there is none, which is told later."""
  try:
    folder = Path(path)
    if '://' in path:
      from llm_jax import storage

      folder = storage.local(path, without=storage.MAKING)
    about = json.loads((folder / 'artifact.json').read_text(encoding='utf-8'))
    return dict(about['model'])
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    return None


def _parse(words: Sequence[str]) -> tuple[str, list[tuple[str, str | None]]]:
  """The config that is asked for, and name and value of each change to it."""
  if '--config' in words[:-1]:
    i = words.index('--config')
    words = [*words[:i], f'--config={words[i + 1]}', *words[i + 2 :]]
  sources = [word.removeprefix('--config=') for word in words if word.startswith('--config=')]
  words = _paired(words)
  for word in words:
    if not word.startswith(('--config=', '--config.')):
      _no_option(word)
  if len(sources) != 1:
    asked = f', {" or ".join(map(repr, sources))}' if sources else ''
    sys.exit(f'error: which config{asked}? give one, such as --config=configs/pretrain.py')
  changes = [word.removeprefix('--config.').partition('=') for word in words]
  changes = [parts for word, parts in zip(words, changes) if not word.startswith('--config=')]
  return sources[0], [
    (name, _listed(name, value) if equals else None) for name, equals, value in changes
  ]


def _paired(words: Sequence[str]) -> list[str]:
  """`--config.seed 3` as `--config.seed=3`.

  >>> _paired(['--config=sft', '--config.seed', '3'])
  ['--config=sft', '--config.seed=3']
  """
  out: list[str] = []
  for word in words:
    if out and not word.startswith('--') and out[-1].startswith('--config.') and '=' not in out[-1]:
      out[-1] = f'{out[-1]}={word}'
    else:
      out.append(word)
  return out


def _no_option(word: str) -> NoReturn:
  """Says how what a word may have meant is written."""
  name, equals, value = word.lstrip('-').partition('=')
  first, _, rest = name.partition('.')
  config, known = nearest(first, ['config']), [path.stem for path in configs_folder().glob('*.py')]
  stem = name.partition(':')[0].removesuffix('.py').rpartition('/')[2]
  if not equals and (asked := nearest(name, QUESTIONS)):
    meant = f'--{asked}'
  elif not word.startswith('-'):
    found = word if stem in known else nearest(stem, known)
    meant = f'--config={found}' if found else ''
  elif config:
    meant = f'--config.{rest}{equals}{value}' if rest else f'--config={value or "NAME"}'
  else:
    meant = f'--config.{name}={value}' if equals else ''
  near = f'did you mean {meant}?' if meant else '--help lists what can be run'
  sys.exit(f'error: what is {word!r}? {near}')


def _listed(name: str, value: str) -> str:
  """`runs/a,runs/b` as a list, where the field is one of names.

  >>> _listed('artifacts', 'runs/a,runs/b'), _listed('prompts', 'Well, then')
  ("('runs/a', 'runs/b')", 'Well, then')
  """
  if name not in LISTS or not isinstance(words := literal(value), str):
    return value
  return repr(tuple(word.strip() for word in words.split(',') if word.strip()))


def _lists(config: ConfigDict, name: str) -> bool:
  """Whether the config has the field; an index, as in `layers[0]`, is left to ml_collections."""
  *groups, field = name.partition('[')[0].split('.')
  inner = _value(config, '.'.join(groups))
  return isinstance(inner, ConfigDict) and field in inner


def _value(config: ConfigDict, name: str) -> Any:
  """The value of a field, or the fields of a group; None where there is none."""
  inner: Any = config
  for part in name.split('.') if name else ():
    inner = inner.get(part) if isinstance(inner, ConfigDict) else None
  return inner


def _unset(config: ConfigDict, name: str, given: Sequence[str]) -> None:
  """Takes a field out; a group that is `given` new fields stays, empty."""
  if not _lists(config, name) or '[' in name:
    _unknown(config, name)
  group, _, field = name.rpartition('.')
  inner = _value(config, group)
  if 'job' in inner and not _fields(inner).get(field):
    sys.exit(f'error: config: {name} cannot be unset, job {inner.job!r} needs it')
  del inner[field]
  if any(other.startswith(f'{name}.') for other in given):
    inner[field] = ConfigDict()


def _rename(config: ConfigDict, name: str, value: str | None) -> None:
  """Where a group names another file, the options that were for the old one go."""
  group = name.removesuffix('.name')
  if not value and group.split('.')[-2:-1] != ['evals']:  # which turns an evaluation off
    sys.exit(f'error: config: {name} is empty; a name is that of a file, or mine.loss, or a path')
  inner = _value(config, group)
  if _lists(config, name) and value != inner.name and group.split('.')[-1] not in ONE_FUNCTION:
    for field in [field for field in inner if field != 'name']:
      del inner[field]


def _drop_annotators(config: ConfigDict, name: str, value: str, changed: Sequence[str]) -> None:
  """Where other annotators are given, the options of those that are left out go."""
  group = name.removesuffix('.steps')
  steps, inner = literal(value), _value(config, group)
  if not isinstance(inner, ConfigDict) or not isinstance(steps, (tuple, list)):
    return
  last = lambda step: step.removesuffix('.py').replace('/', '.').rpartition('.')[-1]
  kept = {called for step in map(str, steps) for called in (step, last(step))}
  for field in [field for field in inner if field != 'steps' and field not in kept]:
    if not any(other.startswith(f'{group}.{field}.') for other in changed):
      del inner[field]


def _set(config: ConfigDict, changes: Sequence[tuple[str, str | None]]) -> None:
  """Sets fields that are there, to values of their types; what refers to them follows."""
  for name, value in changes:
    if value is None and not isinstance(_value(config, name), bool):
      _no_value(name)
  words = [f'--config.{name}' + ('' if v is None else f'={v}') for name, v in changes]
  values = flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, lock_config=False, sys_argv=['', *words]
    )
    values(['', *words])
  except (flags.Error, ValueError, TypeError, KeyError, IndexError) as error:
    said = str(error).strip().splitlines()[-1]
    if not (found := re.match(r'flag --config\.([^=[]+)=(.*?): ', said)):
      sys.exit(f'error: config: {said}')
    old = _value(config, found[1])
    kind = next((text for type_, text in KINDS.items() if type(old) is type_), 'another value')
    example = '' if isinstance(old, ConfigDict) else f', such as {old!r}'
    sys.exit(f'error: config: {found[1]} cannot be {found[2]!r}; it is {kind}{example}')


def _add(config: ConfigDict, name: str, value: str | None) -> None:
  """Adds a field that the file does not list, or sets one of no type yet."""
  if value is None:
    _no_value(name)
  *groups, field = name.split('.')
  inner: Any = config
  for part in groups:
    if part not in inner:
      if 'job' in inner and part not in _fields(inner):
        _unknown(config, name)
      inner[part] = ConfigDict()
    inner = inner[part]
    if not isinstance(inner, ConfigDict):
      _unknown(config, name)
  if field not in inner and ('[' in field or ('job' in inner and field not in _fields(inner))):
    _unknown(config, name)
  inner[field] = literal(value)


def _fields(config: Any) -> Mapping[str, bool]:
  """The fields of a job -> whether it can do without; jobs are asked, which import JAX."""
  from llm_jax.jobs.option_list import fields
  from llm_jax.types import BadInput

  try:
    return {name: not option.required for name, option in fields(config).items()}
  except BadInput as error:
    sys.exit(f'error: {error}')


def _unknown(config: ConfigDict, name: str) -> NoReturn:
  """Says that there is no such field, and which there is."""
  parts, near = name.split('.'), ''
  inner: Any = config
  for i, part in enumerate(parts):
    if not isinstance(inner, ConfigDict):
      near = f'did you mean {".".join(parts[:i])!r}?'
    elif part not in inner:
      meant = nearest(part, [*inner])
      whole = '.'.join([*parts[:i], str(meant), *parts[i + 1 :]])
      near = f'did you mean {whole!r}?' if meant else _elsewhere(inner, parts[:i], parts[i:])
      near = near or f'choose from: {", ".join(sorted(inner))}'
    if near:
      break
    inner = inner[part]
  sys.exit(f'error: config: unknown field {name!r}; {near}')


def _elsewhere(group: ConfigDict, above: Sequence[str], parts: Sequence[str]) -> str:
  """The fields inside of the groups of a group that are called like one that it has not."""
  found: list[str] = []

  def look(inner: ConfigDict, path: Sequence[str]) -> None:
    for key, value in inner.items():
      if len(parts) == 1 and (key == parts[0] or abbreviates(parts[0], key)):
        found.append('.'.join([*path, key]))
      if isinstance(value, ConfigDict):
        look(value, [*path, key])

  look(group, above)
  few = ' or '.join(map(repr, sorted(found, key=lambda path: path.count('.'))[:3]))
  return f'did you mean {few}?' if found else ''


def _no_value(name: str) -> NoReturn:
  sys.exit(f'error: --config.{name}: a value is missing; write --config.{name}=...')


def literal(text: str) -> Any:
  """A word of the command line as a Python value, or else as text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return {'true': True, 'false': False}.get(text.lower(), text)
