"""Job `probe`: asks a model what it was taught, has read and cannot know, and writes down the rest.

  answers.jsonl       what the model said, which is not asked again
  probe.jsonl         each question with its answers, how sure they are, and the verdict
  refusals.jsonl      conversations: what is unknown is refused, what is known is answered
  preferences.jsonl   pairs for DPO and the reward model, both ways in equal numbers
  searches.jsonl      conversations that look up what is not known, and answer from what is found
  summary.json        verdicts by class, and the fingerprint of the model that they are of

Rows are made of questions in the train split of names; all others are for measuring.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax

from llm_jax import artifact, options, run_folder
from llm_jax.data import knowledge, pages, refusals, searches
from llm_jax.data.families import SPLITS
from llm_jax.evals import probes
from llm_jax.evals.kept import Kept, asked_once
from llm_jax.files import read_json, sha256, write_json, write_lines
from llm_jax.find import call
from llm_jax.jobs import answering
from llm_jax.jobs.finish import next_step
from llm_jax.jobs.measure import identity, watched
from llm_jax.jobs.trust import trusted
from llm_jax.lock import locked
from llm_jax.models.compute import Compute
from llm_jax.options import Count, MinP, Place, Positive, Seed, at_least
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import folder as tokenizers
from llm_jax.text.terminal import say
from llm_jax.tools import search
from llm_jax.types import BadInput

MAY_CHANGE = ('mesh', 'next', 'trust')
FILES = ('probe.jsonl', 'refusals.jsonl', 'preferences.jsonl', 'searches.jsonl')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'probe'.
    workdir: its folder.
    artifact: folder of the model.
    sources: name -> questions of yours, as in `data.knowledge.given`; without them it is asked
      about Python's library.
    classes: of questions about that; see data/knowledge.py.
    splits: parts of the names that are asked about; rows are made of 'train'.
    most: facts of each class and split; None for all.
    samples: answers that are drawn beside the greedy one.
    temperature: of what is drawn.
    max_new: most tokens of an answer.
    batch_size: questions at a time.
    ratio: refusals for each right answer in refusals.jsonl.
    noise: whether questions that get a different wrong answer each time are refused too.
    search: options of tools/search.py, whose results stand in searches.jsonl. It looks up Python's
      library, so with `sources` that file is empty.
    made_up: so many conversations more in that file, about pages that nobody has written, whose
      names and sentences are partly made of tokens of the model; see data/pages.py.
    by_heart: share of what is known that is answered in that file without a search.
    mesh: sizes of the axes of the device mesh.
    seed: of what is drawn.
    compute: how the model is run.
    trust: modules of yours that the artifact may name as its model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
    next: what the user is told at the end; `{workdir}` stands for the folder.
  """

  job: str
  workdir: Place
  artifact: Place
  sources: Mapping[str, str] | None = None
  classes: Sequence[str] = knowledge.CLASSES
  splits: Sequence[str] = SPLITS
  most: Count | None = None
  samples: Annotated[int, at_least(2)] = 4
  temperature: Positive = 1.0
  max_new: Count = 48
  batch_size: Count = 64
  ratio: Positive = 1.0
  noise: bool = True
  search: Mapping[str, Any] | None = None
  made_up: Annotated[int, at_least(0)] = 0
  by_heart: MinP = 0.5
  mesh: Mapping[str, Any]
  seed: Seed = 0
  compute: Mapping[str, Any] | None = None
  trust: Sequence[str] = ()
  next: str = ''


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  del config
  yield '', Fields, ()
  yield 'search', search.make, ()
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Whether there is something to ask, and a model that answers.

  Args:
    config: of the job.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the field or the folder.
  """
  options.check(Fields, config.to_dict(), where='config')
  knowledge.check(config.get('classes', knowledge.CLASSES))
  for split in config.get('splits', SPLITS):
    if split not in SPLITS:
      raise BadInput(f'probe: no split {split!r}; {options.suggest(split, SPLITS)}')
  answering.model_of(config.artifact, job='probe', coming=coming)
  call(search.make, config.get('search') or {}, where='search')
  call(make_mesh, config.mesh, where='mesh')
  run_folder.holds(config.workdir, config.to_dict(), may_change=MAY_CHANGE)
  next_step(config)
  if config.artifact not in coming:
    _same_model(config)


def main(config: Any) -> None:
  """Asks what is missing, and writes all files of the folder."""
  if jax.process_count() > 1:
    raise BadInput('probe: this job runs on one host; give the command on one of them')
  folder = Path(config.workdir)
  if (folder / 'summary.json').is_file():
    say(f'{folder} is finished; delete it to probe again.\n{_told(folder)}\n{next_step(config)}')
    return
  mesh = call(make_mesh, config.mesh, where='mesh')
  with locked(folder) as is_there, jax.set_mesh(mesh):
    given = Fields(**config.to_dict())
    run_folder.claim(folder, config.to_dict())
    probed = _probed(given, mesh, trusted(config))
    is_there()
    _write(folder, probed, given)
  say(f'{_told(folder)}\n{next_step(config)}')


def _same_model(config: Any) -> None:
  """Refuses a folder that was filled by another model than the one that is there now."""
  folder, mine = Path(config.workdir), identity(config.artifact, config.get('compute'))
  theirs = _summary(folder)['artifact'] if (folder / 'summary.json').is_file() else mine
  if theirs != mine:
    raise BadInput(
      f'probe: {folder} has verdicts of another artifact, {theirs}, and {config.artifact} is '
      f'{mine}; choose another --config.workdir, or delete the folder'
    )


def _probed(given: Fields, mesh: jax.sharding.Mesh, trust: Sequence[str]) -> list[dict[str, Any]]:
  """The lines of probe.jsonl."""
  questions = _questions(given)
  made = artifact.load(given.artifact, mesh, given.compute, trust=trust)
  fingerprint = identity(given.artifact, given.compute)
  names = ('samples', 'temperature', 'max_new', 'batch_size', 'seed')
  how: dict[str, Any] = {name: getattr(given, name) for name in names}
  ask = probes.asker(made.model, made.tokenizer, template=made.template, **how)

  def answers(
    numbers: Sequence[int], known: Collection[int]
  ) -> Iterator[tuple[int, tuple[str, float, list[str]]]]:
    for place, said in ask(made.params, [questions[i] for i in numbers], known):
      yield place, (said.greedy, said.logp, [*said.samples])

  keys = [[fingerprint, sorted(how.items()), question['prompt']] for question in questions]
  say(f'asking {given.artifact}: {len(questions):,} questions, {given.samples + 1} answers each')
  kept = Kept(Path(given.workdir) / 'answers.jsonl')
  found = dict(asked_once(keys, answers, kept, watched(given.artifact)))
  return [_line(one, found[i], fingerprint) for i, one in enumerate(questions)]


def _questions(given: Fields) -> list[dict[str, Any]]:
  """What is asked, each prompt once."""
  found = []
  for split in given.splits:
    if given.sources:
      found += knowledge.given(given.sources, split)
    else:
      found += knowledge.questions(split, classes=given.classes, most=given.most)
  if not found:
    raise BadInput(f'probe: no questions in the splits {given.splits}; give it more of them')
  return [*{str(one['prompt']): one for one in found}.values()]


def _line(question: Mapping[str, Any], answer: Sequence[Any], fingerprint: str) -> dict[str, Any]:
  said = probes.Said(answer[0], answer[1], tuple(answer[2]))
  probe = probes.judged(said, question['answer'], question.get('also', ()))
  return {
    **question,
    'greedy': said.greedy,
    'logp': round(said.logp, 6) if math.isfinite(said.logp) else None,
    'samples': [*said.samples],
    'outcome': probe.outcome,
    'right': probe.right,
    'agreement': round(probe.agreement, 6),
    'verdict': probe.verdict,
    'artifact': fingerprint,
  }


def _write(folder: Path, probed: Sequence[Mapping[str, Any]], given: Fields) -> None:
  train = [one for one in probed if one['split'] == 'train']
  rows = {
    'probe.jsonl': probed,
    'refusals.jsonl': refusals.conversations(train, ratio=given.ratio, noise=given.noise),
    'preferences.jsonl': refusals.preferences(train, noise=given.noise),
    'searches.jsonl': [] if given.sources else _searches(train, given),
  }
  for name, lines in rows.items():
    write_lines(folder / name, lines)
  counts: dict[str, Counter[str]] = {}
  for one in probed:
    counts.setdefault(one['class'], Counter())[one['verdict']] += 1
  write_json(
    folder / 'summary.json',
    {
      'artifact': probed[0]['artifact'],
      'questions': len(probed),
      'verdicts': {kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())},
      'rows': {name: len(rows[name]) for name in FILES},
      'files': {name: sha256(folder / name) for name in FILES},
    },
  )


def _searches(train: Sequence[Mapping[str, Any]], given: Fields) -> list[dict[str, Any]]:
  tool = call(search.make, given.search or {}, where='search')
  how: Any = dict(by_heart=given.by_heart, made_up=given.made_up)
  if given.made_up:
    how['pieces'] = pages.pieces_of(tokenizers.load(Path(given.artifact) / 'tokenizer'))
  return searches.conversations(tool, train, **how)


def _summary(folder: Path) -> dict[str, Any]:
  return read_json(folder / 'summary.json', 'delete it and give the command again')


def _told(folder: Path) -> str:
  found = _summary(folder)
  lines = [
    f'  {kind}: {", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())}'
    for kind, counts in found['verdicts'].items()
  ]
  files = ', '.join(f'{name} ({count:,})' for name, count in found['rows'].items())
  return '\n'.join([f'{found["questions"]:,} questions', *lines, f'In {folder}: {files}.'])
