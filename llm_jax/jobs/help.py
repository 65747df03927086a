"""What `--help` and `--print` say: the configs, the runs found, the options of a config, a config.

Configs are read as text and run folders as JSON: what a file says is shown, escaped, never trusted.
"""

import ast
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from llm_jax import __version__
from llm_jax.jobs.command import UNSET
from llm_jax.jobs.config_file import configs_folder

RUNS = Path('runs')
DEPTH = 4  # folders below it that are looked through
MOST = 40  # runs that are shown
COMMAND = 'python -m llm_jax.main'
WIDTH = 100


def usage() -> str:
  """How the program is used, the configs of the working directory, and its runs."""
  lines = [
    f'llm_jax {__version__}: a config says what is run; any field of it can be set.',
    '',
    f'{COMMAND} --config=dpo               runs configs/dpo.py at its smallest size',
    f'{COMMAND} --config=dpo:15m           at another size; a path to a file of yours works too',
    f'{COMMAND} --config=dpo --help        every option, its default, range and meaning',
    f'{COMMAND} --config=dpo --config.loss.kind=ipo --config.sample.top_p={UNSET}',
    f'{"":{len(COMMAND)}}                            sets one field and removes another',
    f'{COMMAND} --config=dpo --print       the config after all that, without running it',
  ]
  return '\n'.join([*lines, '', *_configs(), *_runs()])


def resolved(config: ConfigDict) -> str:
  """Every field of a config on a line of its own, as the command line names it."""

  def lines(group: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in group.items():
      if isinstance(value, Mapping) and value:
        yield from lines(value, f'{path}{key}.')
      else:
        yield f'{path}{key} = {value!r}'

  return '\n'.join(lines(config.to_dict(), ''))


def options(config: ConfigDict) -> str:
  """Every option of a config: value, range, meaning.

  Raises:
    SystemExit: a name of the config is that of no file; one line.
  """
  from llm_jax.jobs import option_list
  from llm_jax.types import BadInput

  try:
    return '\n'.join(option_list.lines(config))
  except BadInput as error:
    sys.exit(f'error: {error}')


# --- configs -----------------------------------------------------------------------------------


def _configs() -> list[str]:
  """Name and first words of each config, and what may follow its colon."""
  found = {}
  for path in sorted(configs_folder().glob('*.py')):
    try:
      found[path.stem] = ast.parse(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, SyntaxError):
      continue
  shared = _constants(found['sizes']) if 'sizes' in found else {}
  entries: dict[str, list[str]] = {}
  for name, tree in found.items():
    made = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == 'get_config']
    takes = made[0].args.args if made else []
    if not made or len(takes) != len(made[0].args.defaults):
      continue  # a part of other configs
    about = (ast.get_docstring(tree) or '').partition('\n\n')[0]
    words = {**shared, **_constants(tree)}.get(f'{takes[0].arg.upper()}S', ()) if takes else ()
    kind = f'{takes[0].arg}s: {", ".join(words)}' if words else 'no sizes'
    entries.setdefault(kind, []).append(_entry(name, ' '.join(about.split())))
  return [line for kind, some in entries.items() for line in (f'configs, {kind}', *some, '')]


def _entry(name: str, text: str, indent: int = 23) -> str:
  text = textwrap.fill(_shown(text, 300), WIDTH - indent) or '-'
  return f'  {name:{indent - 3}} ' + text.replace('\n', '\n' + ' ' * indent)


def _constants(tree: ast.Module) -> dict[str, list[str]]:
  """The strings of each tuple, or keys of each dict, that a module assigns to a name."""
  found = {}
  for node in tree.body:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      value = node.value
      items = value.keys if isinstance(value, ast.Dict) else getattr(value, 'elts', [])
      words = [item.value for item in items if isinstance(item, ast.Constant)]
      found[node.targets[0].id] = [word for word in words if isinstance(word, str)]
  return found


# --- runs --------------------------------------------------------------------------------------


def _runs() -> list[str]:
  """The run folders, each with what can be done with it next."""
  found = []
  for name, folders, files in os.walk(RUNS):
    folder = Path(name)
    told = _run(folder, files)
    deep = len(folder.parts) - len(RUNS.parts) >= DEPTH
    folders[:] = [] if told or deep else sorted(folders)
    if told:
      what, then = told
      plain = re.fullmatch(r'[\w./-]+', name)  # safe to paste into a shell
      found.append((f'  {_shown(name)}: {what}', [f'      {COMMAND} {c}' for c in then if plain]))
  more = [f'  and {len(found) - MOST} more'] if len(found) > MOST else []
  lines = [line for head, commands in found[:MOST] for line in (head, *commands)]
  return ['runs, and what can be done with them', *lines, *more] if found else []


def _run(folder: Path, files: list[str]) -> tuple[str, list[str]] | None:
  """What a folder holds, and the options of commands that go on from it; None: no run."""
  config = _json(folder / 'config.json')
  if 'artifact.json' in files:
    about = _json(folder / 'artifact.json')
    model, whole = _inner(about, 'model'), _inner(about, 'config')
    what = f'stage {_shown(about.get("stage"))}, {_shown(about.get("step"))} steps'
    if model.get('head') == 'scalar':
      return f'{what}, a reward model', [f'--config=ppo --config.init.critic={folder}']
    if model.get('head') == 'classes':
      return f'{what}, a classifier', []
    if model.get('causal') is False:
      return f'{what}, a masked language model', []
    if _inner(whole, 'data').get('template'):
      ask = f'--config=evaluate --config.artifacts="(\'{folder}\',)"'
      return what, [f'--config=chat --config.artifact={folder}', ask]
    start = f'--config=sft --config.init.params={folder}'
    return what, [f'--config=sample --config.artifact={folder}', start]
  if 'tokenize.json' in files:
    return 'tokens', [f'--config=pretrain --config.tokenize.workdir={folder}']
  if 'answers.jsonl' in files:
    best = f'--config.data.sources.best={folder}/answers.jsonl'
    return 'the best of several answers', [f'--config=sft --config.workdir={folder}-sft {best}']
  if 'pairs.jsonl' in files:
    return 'answers of several models, compared by a judge', []
  if 'config.json' not in files:
    return None
  steps = [int(p.name) for p in (folder / 'checkpoints').glob('*') if p.name.isdecimal()]
  what = f'unfinished, at step {max(steps, default=0)} of {_shown(config.get("total_steps"))}'
  if (folder.parent / 'seconds.json').is_file():
    return f'{what}; its pipeline goes on', [f'--config=pipeline:{folder.parent.name}']
  stage, size = str(config.get('stage')), folder.parent.name
  known = re.fullmatch(r'\w+', stage) and (configs_folder() / f'{stage}.py').is_file()
  again = f'--config={stage}:{size}' if folder == RUNS / size / stage else f'--config={stage}'
  then = [f'{again} --config.workdir={folder}'] if known else []
  return f'{what}; the command that began it goes on', then


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError):
    return {}
  return found if isinstance(found, dict) else {}


def _inner(group: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  found = group.get(name)
  return found if isinstance(found, dict) else {}


def _shown(value: Any, most: int = 80) -> str:
  """What a file says, without characters that a terminal would act on."""
  text = repr(str(value))[1:-1]
  return text if len(text) <= most else f'{text[:most]}...'
