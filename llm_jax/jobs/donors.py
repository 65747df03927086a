"""What a config takes over from the artifacts that it starts from, where it says nothing else.

The model is theirs, but for the fields that were given, and a corpus is tokenized with their
tokenizer. (Their chat template needs nothing: `data.template='folder'` means it.) A Hugging Face
folder is converted first, by a job that the config then requires.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from llm_jax import artifact, run_folder
from llm_jax.files import read_json
from llm_jax.jobs import convert
from llm_jax.jobs.command import take
from llm_jax.jobs.config_file import load
from llm_jax.text import folder as tokenizers

NO_PART = ('fresh', 'add')  # fields of config.init that name no artifact


def follow(config: Any) -> Any:
  """Completes a config, and the configs inside of it, in place; twice is the same as once.

  What a config, the command line or a program has set stays (`command.take`). Whether it can is for
  the check of the job to say, and so is an artifact that is missing.
  """
  if isinstance(config, ConfigDict):
    with config.unlocked():
      _follow(config, {}, {}, alone=True)
  return config


def coming(config: Any) -> dict[str, Any]:
  """Folder -> group of the model, of required conversions that have not run."""
  jobs = [job for job in map(config.get, config.get('requires') or ()) if _is_config(job)]
  jobs = [job for job in jobs if job.job == 'convert' and not run_folder.finished(job.workdir)]
  return {job.workdir: convert.makes(job) for job in jobs}


def _follow(config: Any, known: dict[str, Any], corpora: dict[str, Any], alone: bool) -> None:
  """Completes a config, before which others make the `known` artifacts and `corpora`.

  Args:
    config: of any job.
    known: folder -> group of the model that will be there.
    corpora: folder -> config of the job that tokenizes into it.
    alone: whether jobs that it requires would run, which they do not inside of a pipeline.
  """
  inside = [name for name, value in config.items() if _is_config(value)]
  stages = config.get('stages') or ()
  order = [*(config.get('requires') or ()), *stages]
  for name in [*order, *(name for name in inside if name not in order)]:
    if name in inside:
      _follow(config[name], known, corpora, alone and name not in stages)
  workdir = config.get('workdir')
  if config.get('job') == 'tokenize':
    corpora[workdir] = config
  if config.get('job') == 'evaluate' and alone:
    _convert_all(config)
  init, model = config.get('init'), config.get('model')
  if not isinstance(init, ConfigDict) or not isinstance(model, ConfigDict):
    return
  for part, path in list(init.items()):
    group: Any = model if part == 'params' else model.get(part)
    if part in NO_PART or not isinstance(path, str) or not isinstance(group, ConfigDict):
      continue
    if alone and _is_theirs(path):
      path = _converted(config, part, path)
      known |= coming(config)
    here = (Path(path) / artifact.FILE).is_file()
    if found := artifact.describe(path)['model'] if here else known.get(path):
      take(group, _grown(found, init.get('add', ()), path))
      if config.get('data', {}).get('path') in corpora:
        _tokenize(config, corpora[config.data.path], path)
  if isinstance(workdir, str):
    known[workdir] = artifact.published(model.to_dict())


def _is_config(value: Any) -> bool:
  return isinstance(value, ConfigDict) and 'job' in value


def _converted(config: Any, part: str, path: str) -> str:
  """Lets the config require the conversion of a folder; where its artifact will be."""
  name = 'converted' if part == 'params' else f'converted_{part}'
  config.init[part] = _convert(config, name, path, f'{config.workdir}/{name}')
  return config.init[part]


def _convert_all(config: Any) -> None:
  """Lets an evaluation require the conversions of those artifacts that are folders of others."""
  place = config.output.removesuffix('.json')
  for i, path in enumerate(config.artifacts):
    if _is_theirs(path):
      made = _convert(config, f'converted_{i}', path, f'{place}/converted/{Path(path).name}')
      config.artifacts = tuple(made if j == i else one for j, one in enumerate(config.artifacts))
      if config.get('against') == path:
        config.against = made


def _convert(config: Any, name: str, path: str, workdir: str) -> str:
  made = load('convert')
  made.source, made.artifact, made.workdir = path, '', workdir
  config[name] = made
  config.requires = (name, *(config.get('requires') or ()))
  return workdir


def _is_theirs(path: str) -> bool:
  folder = Path(path)
  ours = (folder / artifact.FILE).is_file()
  return not ours and (folder / 'config.json').is_file() and any(folder.glob('*.safetensors'))


def _grown(model: Mapping[str, Any], add: Any, path: str) -> Mapping[str, Any]:
  """The model with room for the tokens of `config.init.add`."""
  if not add or not isinstance(add, (list, tuple)):
    return model
  words = tokenizers.load(Path(path) / 'tokenizer').with_specials(add).vocab_size
  return {**model, 'vocab_size': max(model['vocab_size'], words)}


def _tokenize(config: Any, corpus: Any, path: str) -> None:
  """Lets a corpus be written in the tokens of an artifact, unless a tokenizer was given for it.

  Where the corpus would lie beside others of its size, it goes into the folder of the run.
  """
  if 'path' in corpus.get('tokenizer', {}):
    return
  done, about = Path(corpus.workdir) / 'tokenize.json', Path(path) / artifact.FILE
  if done.is_file() and about.is_file():
    made = read_json(done, 'delete it and give the command that made it again')
    if made.get('fingerprint') == artifact.describe(path)['tokenizer']:
      corpus.tokenizer = ConfigDict(made['config']['tokenizer'])
      return
  corpus.tokenizer = ConfigDict(dict(path=f'{path}/tokenizer'))
  # The folder of its size remembers that nobody has named another (`configs.base.Stage`).
  if getattr(corpus.get_ref('workdir'), 'kind', ''):
    corpus.workdir = f'{config.workdir}/tokenize'
