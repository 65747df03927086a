"""Job `matches`: which of several models answers better, by a judge that compares their answers.

The folder may be used again with other models, prompts or judges: what is kept there is found by
what it depends on, and only what is new is sampled and judged.

  answers/<model>.jsonl   what each model said, which is not sampled again
  verdicts.jsonl          what the judge said, which is not asked again
  pairs.jsonl             both answers, in which order they were shown, the verdicts
  summary.json            and its numbers, see `win_rates.facts`
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact, model, options, run_folder, storage
from llm_jax.data import asked
from llm_jax.evals import win_rates
from llm_jax.evals.judgements import Choice
from llm_jax.evals.kept import Kept, Progress, asked_once, key_of
from llm_jax.evals.win_rates import Game, Standings
from llm_jax.files import check_writable, sha256, write_json, write_lines
from llm_jax.find import call, find, named
from llm_jax.jobs import answering
from llm_jax.jobs.match_table import table
from llm_jax.jobs.trust import trusted
from llm_jax.jobs.verdicts import OFFERED, judge_of, pair, verdicts
from llm_jax.judges.pair import Pair, Verdict
from llm_jax.lock import locked
from llm_jax.models.compute import Compute
from llm_jax.options import NotNegative, Place, PlaceOrNone, Seed
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete, pick
from llm_jax.text import chat
from llm_jax.text.message import spelled
from llm_jax.text.terminal import bar, say
from llm_jax.types import BadInput

CHOICES: Mapping[float | None, Choice | None]
CHOICES = {1.0: 'first', 0.5: 'tie', 0.0: 'second', None: None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'matches'.
    workdir: its folder.
    artifacts: folders of two models or more.
    against: the one that all others meet; '' lets all meet each other.
    judge: a file of judges/ or of yours, and its options.
    data: what the models are asked: `sources`, `split`, `max_prompts` and others.
    sample: how they answer.
    prior: wins each way that are added to each pair for the ratings, so that a model which never
      lost has one; 0 for none.
    mesh: sizes of the axes of the device mesh.
    seed: of the sampling.
    compute: how the models are run.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  workdir: Place
  artifacts: Sequence[Place]
  against: PlaceOrNone = ''
  judge: Mapping[str, Any]
  data: Mapping[str, Any]
  sample: Mapping[str, Any]
  prior: NotNegative = 0.0
  mesh: Mapping[str, Any]
  seed: Seed = 0
  compute: Mapping[str, Any] | None = None
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield '', Fields, ()
  yield 'judge', find('judges', named(config.judge, 'judge')[0]).make, OFFERED
  yield 'data', asked.read, ()
  yield 'sample', complete.make, ('prompts', 'seed', 'tools', 'template')
  yield 'sample', pick.make, ('allowed_V',)
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Whether there are models that can answer, and a judge who can be asked.

  Args:
    config: of the job.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the field or the folder.
  """
  options.check(Fields, config.to_dict(), where='config')
  check_writable(Path(config.workdir), 'workdir')
  players = _players(config)
  if len(players) < 2:
    raise BadInput(
      'matches: two models or more are compared; give '
      "--config.artifacts=\"('runs/tiny/sft','runs/tiny/dpo')\""
    )
  for path in players:
    answering.model_of(path, job='matches', coming=coming)
  complete.check(config.sample)
  for name in {'prompts', 'template'} & {*config.sample}:
    raise BadInput(
      f'sample: unknown option {name!r}; config.data has prompts, a model its template'
    )
  options.check(asked.read, config.data, where='data')
  call(make_mesh, config.mesh, where='mesh')
  judge, given = judge_of(config.judge.to_dict())
  if hasattr(judge, 'check') and given.get('path') not in {*coming}:
    judge.check(**options.resolve(judge.make, given))


def main(config: Any) -> None:
  """Plays all matches, prints the table, writes the numbers."""
  if jax.process_count() > 1:
    raise BadInput('matches: this job runs on one host; give the command on one of them')
  found = play(config)
  say(f'\n{table(found)}\n\nThe answers and verdicts are in {config.workdir}/pairs.jsonl.')


def play(config: Any) -> Standings:
  """Samples and judges what is missing, writes all files of the folder, and returns the numbers.

  A report that follows a model through rounds calls this with `against`, and takes the
  `win_rates.row` of each of the pairs.

  Raises:
    BadInput: nothing could be judged; and see `check`.
  """
  folder = Path(config.workdir)
  mesh = call(make_mesh, config.mesh, where='mesh')
  questions = asked.read(**config.data)
  with jax.set_mesh(mesh), locked(folder) as is_there:
    players = _players(config)
    answers = {path: _answers(config, path, questions, mesh) for path in players}
    both = itertools.combinations(players, 2)
    if config.get('against'):
      both = ((path, config.against) for path in players[:-1])
    met = [(a, b, i) for a, b in both for i in range(len(questions))]
    pairs = [pair(questions[i], answers[a][i], answers[b][i]) for a, b, i in met]
    kept = Kept(folder / 'verdicts.jsonl')
    group = config.judge.to_dict()
    said = verdicts(group, pairs, kept, _loader(config, mesh), _watch)
    games = [
      Game(a, b, tuple(CHOICES[v.points] for v in shown), (len(one.first), len(one.second)))
      for (a, b, _), one, shown in zip(met, pairs, said, strict=True)
    ]
    is_there()
    run_folder.claim(folder, config.to_dict())
    every = zip(met, pairs, games, said, strict=True)
    lines = [_record(i, one, game, shown) for (_, _, i), one, game, shown in every]
    write_lines(folder / 'pairs.jsonl', lines)
    if all(game.points is None for game in games):
      why = next((one.said for shown in said for one in shown if one.points is None), '')
      raise BadInput(f'matches: the judge could not judge any pair: {why[:300]}')
    found = win_rates.standings(games, config.get('prior', 0.0))
    numbers = storage.named({'judge': group, **win_rates.facts(found)})
    files = {'pairs.jsonl': sha256(folder / 'pairs.jsonl')}
    write_json(folder / 'summary.json', {**numbers, 'files': files})
  return found


def _record(number: int, one: Pair, game: Game, shown: Sequence[Verdict]) -> dict[str, Any]:
  """A line of pairs.jsonl; `orders` has what was shown first, its points, and the judge's words."""
  orders = [
    {'first': name, 'points': verdict.points, 'said': verdict.said}
    for name, verdict in zip((game.a, game.b), shown)
  ]
  found = {name: one.question[name] for name in ('prompt', 'answer')}
  found |= {'question': number, 'a': game.a, 'b': game.b}
  found |= dict(zip(('answer_a', 'answer_b'), one.completions))
  found |= {'points_of_a': game.points, 'same': not shown, 'flipped': game.flips, 'orders': orders}
  return storage.named(found)


def _players(config: Any) -> list[str]:
  """The models, each once; the one that all meet comes last."""
  given = (config.artifacts,) if isinstance(config.artifacts, str) else config.artifacts
  against = config.get('against')
  return [*dict.fromkeys(p for p in given if p != against), *([against] if against else [])]


# --- answers -----------------------------------------------------------------------------------


def _answers(
  config: Any, path: str, questions: Sequence[Mapping[str, Any]], mesh: Any
) -> list[str]:
  """What a model says to each question, with its thoughts spelled out."""
  kept = Kept(Path(config.workdir) / 'answers' / f'{Path(path).name}-{key_of(str(path))[:8]}.jsonl')
  how = {k: v for k, v in config.sample.to_dict().items() if v is not None}
  identity = [run_folder.digest(path), sorted(how.items()), config.get('seed', 0)]
  size = how.pop('batch_size', None)
  how['max_new'] = options.resolve(complete.make, how)['max_new']

  def ask(numbers: Sequence[int], known: Collection[int]) -> Iterator[tuple[int, str]]:
    made = artifact.load(path, mesh, config.get('compute'), trust=trusted(config))
    tokenizer = made.tokenizer
    template = chat.find_template(made.template or 'plain', tokenizer)
    ids = [complete.encoded(tokenizer, questions[i]['prompt'], template) for i in numbers]
    complete.check_room(made.model, ids, how['max_new'])
    run = complete.sampler(made.model, tokenizer, template, **how)
    found = complete.batches(
      run, made.params, ids, batch_size=size, seed=config.get('seed', 0), known=known
    )
    for place, tokens in found:
      yield place, spelled(tokenizer, tokens, after=ids[place][-1])

  keys = [[identity, question['prompt']] for question in questions]
  found = dict(asked_once(keys, ask, kept, _watch(f'asking {path}: {len(questions)} questions')))
  return [found[i] for i in range(len(questions))]


def _watch(title: str) -> Progress:
  def progress(found: Iterable[Any], count: int) -> Iterator[Any]:
    say(f'{title}, {count} of them new')
    with bar(total=count, disable=None) as shown:  # None: only on a terminal
      for one in found:
        yield one
        shown.update()

  return progress


def _loader(config: Any, mesh: Any) -> Callable[[str], model.LoadedModel]:
  def load(path: str) -> model.LoadedModel:
    made = model.load(path, mesh=mesh, compute=config.get('compute'), trust=trusted(config))
    made.template = made.template or chat.find_template('plain', made.tokenizer)
    return made

  return load
