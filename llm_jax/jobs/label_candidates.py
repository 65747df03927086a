"""Candidates for job `label`: each answer to a prompt by the next artifact and temperature."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact, model, options, run_folder
from llm_jax.data import asked
from llm_jax.data.messages import text_of
from llm_jax.files import read_json, write_json, write_lines
from llm_jax.find import call
from llm_jax.jobs import answering
from llm_jax.jobs.trust import trusted
from llm_jax.labels import candidates, order
from llm_jax.labels.candidates import Item
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete
from llm_jax.text import chat
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

CLOSE = 0.2  # of the probability that a reward model gives to the better one, from one half
_BATCH = 32  # prompts at a time where sample.batch_size says nothing


def check(config: Any) -> None:
  """Whether answers can be sampled as a config says.

  Raises:
    BadInput: naming the field or the folder.
  """
  if not config.artifacts:
    raise BadInput(
      'label: nothing to label; give --config.candidates=FILE, or --config.artifacts=FOLDER'
    )
  for path in _paths(config):
    answering.model_of(path, job='label')
  if config.reward and artifact.describe(config.reward)['model'].get('head') != 'scalar':
    raise BadInput(f'label: reward {config.reward!r} is no reward model')
  if config.draws < config.answers:
    raise BadInput(f'label: draws {config.draws} are fewer than answers {config.answers}')
  complete.check(_how(config))
  for name in {'prompts', 'template', 'temperature'} & {*config.sample}:
    raise BadInput(f'sample: unknown option {name!r}; config.temperatures are those of answers')
  options.check(asked.read, config.data, where='data')


def sampled(config: Any) -> list[Item]:
  """The items, from `candidates.jsonl` of the folder if they are those of this config.

  Raises:
    BadInput: all answers to every prompt are the same, or prompts are too long.
  """
  folder = Path(config.workdir)
  path, about = folder / 'candidates.jsonl', folder / 'sampled.json'
  key = _key(config)
  known = read_json(about, 'delete it to sample again') if about.is_file() else {}
  if path.is_file() and known.get('key') == key:
    return candidates.read(path)[0]
  records = _records(config)
  found, left = candidates.items((f'sampled, prompt {i}', r) for i, r in enumerate(records))
  say(f'label: {len(found)} items of {len(records)} prompts{"; " if left else ""}{_words(left)}')
  folder.mkdir(parents=True, exist_ok=True)
  write_lines(path, (item.record() for item in found))
  write_json(about, {'key': key})
  return found


def _words(left: Mapping[str, int]) -> str:
  return ', '.join(f'{count} with {reason}' for reason, count in sorted(left.items()))


def _paths(config: Any) -> list[str]:
  given = (config.artifacts,) if isinstance(config.artifacts, str) else config.artifacts
  return [*dict.fromkeys(given)]


def _how(config: Any) -> dict[str, Any]:
  return {k: v for k, v in config.sample.to_dict().items() if v is not None}


def _key(config: Any) -> str:
  """A hash of all that the answers depend on."""
  names = ('data', 'sample', 'temperatures', 'answers', 'draws', 'seed', 'reward')
  plain = config.to_dict()
  files = [run_folder.digest(path) for path in (*_paths(config), config.reward) if path]
  told = json.dumps([files, [plain[name] for name in names]], sort_keys=True, default=str)
  return hashlib.sha256(told.encode()).hexdigest()


def _records(config: Any) -> list[dict[str, Any]]:
  """A line of a file of candidates for each prompt."""
  mesh = call(make_mesh, config.mesh, where='mesh')
  prompts = [_plain(one['prompt']) for one in asked.read(**config.data)]
  answers: list[list[dict[str, Any]]] = [[] for _ in prompts]
  paths = _paths(config)
  with jax.set_mesh(mesh):
    for place, path in enumerate(paths):
      made = _load(config, path, mesh)
      for number in range(place, config.draws, len(paths)):
        _ask(config, made, path, number, prompts, answers)
    for given in answers:
      given.sort(key=lambda one: one['number'])
    if config.reward:
      judge = _load(config, config.reward, mesh)
      both = [(p, one['text']) for p, given in zip(prompts, answers, strict=True) for one in given]
      rewards = iter(judge.scores(both, batch_size=_BATCH))
      for given in answers:
        for one in given:
          value = next(rewards)
          one['reward'] = None if value is None else round(value, 6)
  return [_picked(config, p, given, i) for i, (p, given) in enumerate(zip(prompts, answers))]


def _ask(
  config: Any,
  made: model.LoadedModel,
  path: str,
  number: int,
  prompts: Sequence[Any],
  answers: Sequence[list[dict[str, Any]]],
) -> None:
  """Appends answer `number` to each prompt."""
  temperatures = config.temperatures
  temperature = float(temperatures[number % len(temperatures)])
  how = {'batch_size': _BATCH, **_how(config), 'temperature': temperature}
  seed = (config.seed + number) % 2**32
  say(f'label: answer {number + 1} of {config.draws} by {path}, temperature {temperature:g}')
  texts = made.generate([*prompts], seed=seed, **how)
  print_of = run_folder.digest(path) or ''
  for prompt, text, given in zip(prompts, texts, answers, strict=True):
    (logp,) = made.score(prompt, text)
    about = {'artifact': path, 'fingerprint': print_of[:16], 'temperature': temperature}
    about |= {'seed': seed, 'logp': round(logp, 4) if math.isfinite(logp) else None}
    given.append({'number': number, 'id': f'r{number}', 'text': text, **about})


def _picked(
  config: Any, prompt: Any, given: Sequence[dict[str, Any]], number: int
) -> dict[str, Any]:
  """The line of a prompt: of all draws those that are shown, and why."""
  rewards = [one.get('reward') for one in given]
  wants = bool(config.reward) and order.draw(config.seed, number, 'close') < 0.5
  picked = order.chosen(rewards, config.answers, wants, config.seed, number)
  values = [value for i in picked if (value := rewards[i]) is not None]
  far = max(values) - min(values) if len(values) == len(picked) else math.inf
  is_close = wants and 1 / (1 + math.exp(-far)) - 0.5 < CLOSE
  if wants and not is_close:
    picked = order.chosen(rewards, config.answers, False, config.seed, number)
  shown = [{k: v for k, v in given[i].items() if k != 'number'} for i in picked]
  return {'prompt': prompt, 'responses': shown, 'why': 'close' if is_close else 'random'}


def _plain(prompt: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
  return [{'role': one['role'], 'content': text_of(one)} for one in prompt]


def _load(config: Any, path: str, mesh: Any) -> model.LoadedModel:
  made = model.load(path, mesh=mesh, compute=config.get('compute'), trust=trusted(config))
  made.template = made.template or chat.find_template('plain', made.tokenizer)
  return made
