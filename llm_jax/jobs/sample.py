"""Job `sample`: answers a few prompts and prints them, or many prompts n times and keeps the best.

With `config.data` it is best-of-n (arXiv:2009.01325, arXiv:2112.09332): the answers to all prompts,
scored by the annotators of the config, go to `answers.jsonl`, from which SFT and the preference
losses read as they are.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from llm_jax import artifact, options, run_folder, storage
from llm_jax.evals import best_of_n
from llm_jax.files import read_json, read_lines, sealed, sha256, write_json, write_lines
from llm_jax.find import call
from llm_jax.jobs import annotators, answering, chain
from llm_jax.jobs.finish import next_step
from llm_jax.jobs.trust import trusted
from llm_jax.lock import locked
from llm_jax.models.compute import Compute
from llm_jax.options import Count, Place, Seed, at_least
from llm_jax.parallel.hosts import apart, level
from llm_jax.parallel.mesh import local_rows, make_mesh, shard_batch
from llm_jax.sampling import complete, pick
from llm_jax.text.message import message, span
from llm_jax.text.terminal import bar, say
from llm_jax.training.batches import annotated
from llm_jax.types import BadInput, Batch, Tokenizer

MAY_CHANGE = ('compute', 'mesh', 'next', 'trust')
FIELDS = ('tokens', 'mask', 'reward', 'valid')  # of a batch, for the best of n


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job that both of its uses have.

  Attributes:
    job: 'sample'.
    artifact: folder of the model.
    mesh: sizes of the axes of the device mesh.
    seed: of the sampling.
    compute: how the model is run.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  artifact: Place
  mesh: Mapping[str, Any]
  seed: Seed
  compute: Mapping[str, Any] | None = None
  trust: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Printed(Fields):
  """Fields of answers that are printed.

  Attributes:
    prompts: texts; to a model that was taught a chat template they are what the user says.
    sample: how they are continued.
  """

  prompts: Sequence[str]
  sample: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best(Fields):
  """Fields of answers that go into a file, the best of several to each prompt.

  Attributes:
    workdir: its folder.
    data: a file of data/ that gives prompts.
    split: of the data.
    max_prompts: most of them; 0 for all.
    annotate: `steps`, files of annotate/ that sample and score, and a group for each with options.
    batch_size: prompts at a time.
    minimum: lowest score of a best answer that is written; None writes all of them.
    next: what the user is told at the end; `{workdir}` stands for the folder.
  """

  workdir: Place
  data: Mapping[str, Any]
  split: str
  max_prompts: Annotated[int, at_least(0)]
  annotate: Mapping[str, Any]
  batch_size: Count
  minimum: float | None = None
  next: str = ''


def groups(config: Any) -> Iterator[tuple[str, Any, Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield '', _fields(config), ()
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()
  if 'data' in config:
    yield from chain.groups(config)
  else:
    yield 'sample', complete.make, ('prompts', 'seed', 'tools')
    yield 'sample', pick.make, ('allowed_V',)


def _fields(config: Any) -> type:
  return Best if 'data' in config else Printed


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Whether the fields are those of one of the two uses, and the model can answer.

  Args:
    config: of the job.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the field or the folder.
  """
  options.check(_fields(config), config.to_dict(), where='config')
  answering.model_of(config.artifact, job='sample', coming=coming)
  call(make_mesh, config.mesh, where='mesh')
  if 'data' not in config:
    complete.check(config.sample)
    return
  run_folder.holds(config.workdir, config.to_dict(), may_change=MAY_CHANGE)
  next_step(config)
  parts = chain.chain(config)
  chain.check_fields(parts, wanted=FIELDS, by='best of n')
  samples = chain.sampler(parts)
  if samples is not None and samples.options.get('group', 2) < 2:
    raise BadInput(
      f'{samples.where}: best of n compares several answers to a prompt; set group to at least 2'
    )


def main(config: Any) -> None:
  """Prints answers to `config.prompts`; with `config.data` writes the best of n to a file."""
  mesh = call(make_mesh, config.mesh, where='mesh')
  with jax.set_mesh(mesh):
    if 'data' in config:
      _write_best(config, mesh)
    else:
      _print(config, mesh)


def _load(config: Any, mesh: jax.sharding.Mesh) -> artifact.Artifact:
  return artifact.load(config.artifact, mesh, config.get('compute'), trust=trusted(config))


def _print(config: Any, mesh: jax.sharding.Mesh) -> None:
  prompts = (config.prompts,) if isinstance(config.prompts, str) else tuple(config.prompts)
  if not prompts:
    raise BadInput('sample: no prompts; give --config.prompts="(\'Once upon a time\',)"')
  made = _load(config, mesh)
  run = call(
    complete.make,
    config.sample,
    made.model,
    made.tokenizer,
    where='sample',
    prompts=prompts,
    offered={'template': made.template},
    seed=config.seed,
  )
  answers = run(made.params)
  for prompt, answer in zip(prompts, answers, strict=True):
    say(prompt, end='\n' if made.template else '')
    say(answer, style='bold')
    say('-' * 40)


# --- best of n ---------------------------------------------------------------------------------


def _write_best(config: Any, mesh: jax.sharding.Mesh) -> None:
  """Batch after batch into `parts/`, each written whole; those that are there are kept."""
  began, folder = time.perf_counter(), Path(config.workdir)
  summary = folder / 'summary.json'
  if summary.is_file():
    say(f'{folder} is finished; delete it to sample again.\n{_told(folder)}\n{next_step(config)}')
    return
  with locked(folder, take=jax.process_index() == 0) as is_there:
    _sample_all(config, mesh, is_there)
  if jax.process_index() == 0:
    seconds = time.perf_counter() - began
    say(f'{_told(folder)}\n{seconds:.0f} s. {next_step(config)}')


def _sample_all(config: Any, mesh: jax.sharding.Mesh, is_there: Callable[[], None]) -> None:
  """Samples what is missing; `is_there` asks whether the folder remains."""
  folder, made = Path(config.workdir), _load(config, mesh)
  parts = chain.chain(config)
  template = config.data.get('template', made.template)
  offered = {'template': template}
  rows: Any = chain.read_rows(parts, made.tokenizer, config.split, offered)
  annotate = annotators.build(parts, made.model, made.tokenizer, mesh, template, trusted(config))
  count = min(len(rows), config.max_prompts or len(rows))
  size, hosts, host = config.batch_size, jax.process_count(), jax.process_index()
  progress = bar(total=count, unit='prompt', disable=None)  # None: only on a terminal
  for number, start in enumerate(range(0, count, size)):
    path = folder / 'parts' / f'{number:06d}-{host:03d}.jsonl'
    if path.is_file():
      _read_part(path)  # what is damaged is said now, and not after all else was sampled
      continue
    mine = range(start + host * size // hosts, start + (host + 1) * size // hosts)
    index = [i for i in mine if i < count]
    picked = [rows[i] for i in index]
    empty = {k: np.zeros_like(v) for k, v in rows[0].items()}
    picked += [empty] * (len(mine) - len(picked))
    batch: Batch = shard_batch({k: np.stack([r[k] for r in picked]) for k in empty}, mesh)
    batch = annotated(annotate, made.params, batch, config.seed, number)
    asked = [_asked(rows, i, made.tokenizer) for i in index]
    found = _records(batch, asked, index, made.tokenizer, template or 'plain')
    is_there()
    if not (folder / 'parts').is_dir():
      run_folder.claim(folder, config.to_dict())  # not before something was scored
      (folder / 'parts').mkdir(parents=True, exist_ok=True)
    write_lines(path, map(sealed, found))
    progress.update(min(start + size, count) - progress.n)
  progress.close()
  _bring_parts(folder)
  if host == 0:
    _gather(folder, config.get('minimum'))


def _bring_parts(folder: Path) -> None:
  """The first host has the parts of all."""
  if apart(folder):
    if host := jax.process_index():
      names = [path.name for path in (folder / 'parts').glob(f'*-{host:03d}.jsonl')]
      storage.give(folder / 'parts', names)
    level(folder / 'parts')


def _asked(rows: Any, index: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
  """The messages that a row asks to go on, or else its text as one of the user."""
  if hasattr(rows, 'messages'):
    return rows.messages(index)
  row = rows[index]
  text = tokenizer.decode(row['prompt'][row['prompt_mask'] > 0])
  return [{'role': 'user', 'content': text}]


def _records(
  batch: Batch,
  asked: Sequence[Any],
  index: Sequence[int],
  tokenizer: Tokenizer,
  template: str = 'llm_jax',
) -> list[dict[str, Any]]:
  """One record a prompt, with all its answers, of this host's rows.

  A candidate is the content of a message, from which SFT reads the same ids: a text, or parts where
  it thinks or calls; with `tool_calls` beside, all of the message.
  """
  fields = {k: local_rows(batch[k]) for k in FIELDS}
  found = []
  for b, (messages, i) in enumerate(zip(asked, index, strict=True)):
    both = zip(fields['tokens'][b], fields['mask'][b], strict=True)
    said = [_said(tokenizer, t, span(m), template) for t, m in both]
    scores = zip(fields['reward'][b].tolist(), fields['valid'][b].tolist(), strict=True)
    found.append(
      {
        'index': i,
        'prompt': messages,
        'candidates': [m if 'tool_calls' in m else m['content'] for m in said],
        'scores': [round(score, 6) if valid else None for score, valid in scores],
      }
    )
  return found


def _said(tokenizer: Tokenizer, row_L: np.ndarray, answer: slice, template: str) -> dict[str, Any]:
  after = int(row_L[answer.start - 1]) if answer.start else None
  return message(tokenizer, row_L[answer], template=template, after=after)


def _gather(folder: Path, minimum: float | None) -> None:
  """`answers.jsonl` of all parts, and `summary.json`."""
  say = lambda said: [said if isinstance(said, dict) else {'role': 'assistant', 'content': said}]
  lines, firsts, means, bests, kls, unscored, low = [], [], [], [], [], 0, 0
  n = 0
  for path in sorted((folder / 'parts').glob('*.jsonl')):
    for record in _read_part(path):
      n, choice = len(record['scores']), best_of_n.best(record['scores'])
      if choice is None:
        unscored += 1
        continue
      known = [i for i, score in enumerate(record['scores']) if score is not None]
      scores = [record['scores'][i] for i in known]
      texts = [record['candidates'][i] for i in known]
      firsts.append(scores[0])
      means.append(float(np.mean(scores)))
      bests.append(max(scores))
      kls.append(best_of_n.kl(texts, scores))
      if minimum is not None and max(scores) < minimum:
        low += 1
        continue
      chosen, rejected = (say(record['candidates'][i]) for i in choice)
      lines.append({**record, 'completion': chosen, 'chosen': chosen, 'rejected': rejected})
  write_lines(folder / 'answers.jsonl', lines)  # for others to read, so its sum is elsewhere
  average = lambda values: round(float(np.mean(values)), 4) if values else None
  write_json(
    folder / 'summary.json',
    {
      'prompts': len(firsts) + unscored,
      'n': n,
      'unscored': unscored,
      'below_minimum': low,
      'written': len(lines),
      'single': average(means),
      'best': average(bests),
      'kl': average(kls),
      'kl_bound': round(best_of_n.bound(n), 4) if n else None,
      'files': {'answers.jsonl': sha256(folder / 'answers.jsonl')},
    },
  )


def _read_part(path: Path) -> list[dict[str, Any]]:
  remedy = 'delete the file and give the command again, which samples it anew'
  return [record for _, record in read_lines(path, remedy)]


def _told(folder: Path) -> str:
  s = read_json(folder / 'summary.json', 'delete it and give the command again')
  return (
    f'{s["written"]} of {s["prompts"]} prompts are in {folder / "answers.jsonl"} '
    f'({s["unscored"]} without a score, {s["below_minimum"]} below the minimum).\n'
    f'mean score of single answers {s["single"]}, of the best of {s["n"]} {s["best"]}; '
    f'KL to the policy {s["kl"]} nats, at most log n - (n - 1)/n = {s["kl_bound"]}'
  )
