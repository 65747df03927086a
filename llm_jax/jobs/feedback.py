"""Job `feedback`: what users did with the answers of a served chat becomes rows for training.

  preferences.jsonl   pairs with margins, which `reward` and `dpo` read
  kto.jsonl           single answers, good or bad, which `kto` reads
  sft.jsonl           corrected answers
  questions.jsonl     what a model is said to have made up
  export.json         what they were made of, and what was left out
  report.html         the same as a page

It reads the file of events that job `serve` keeps. With `config.since` only what came after an
earlier export becomes rows. A folder that is finished stays as it is, unless somebody has deleted a
conversation that has rows in it: then it is made again without them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax import options, run_folder
from llm_jax.files import SUMMARY, check_writable, read_json, replacing, sha256, write_json
from llm_jax.jobs import feedback_report
from llm_jax.labels.feedback import export
from llm_jax.lock import locked
from llm_jax.options import Place, PlaceOrNone
from llm_jax.parallel.hosts import exchange, on_one_host
from llm_jax.serving.feedback import Feedback
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, NothingNew

EXPORT = 'export.json'
REMEDY = 'delete the folder and give the command again'
SUPPLIED = ('events', 'after', 'until')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'feedback'.
    workdir: its folder.
    events: the file that job `serve` keeps, as its `config.events`.
    since: folder of an earlier export; only what came after it becomes rows. '' takes all.
    rows: how many of a user, and of a prompt.
  """

  job: str
  workdir: Place
  events: Place
  since: PlaceOrNone = ''
  rows: Mapping[str, Any]


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield 'rows', export, SUPPLIED


def check(config: Any, *, coming: Sequence[str] = ()) -> None:
  """Whether there is something to read.

  Args:
    config: of the job.
    coming: folders that other stages fill before it starts.

  Raises:
    BadInput: naming the field, the folder or the file.
  """
  options.check(Fields, config.to_dict(), where='config')
  options.check(export, config.rows, where='rows', supplied=SUPPLIED)
  check_writable(Path(config.workdir), 'workdir')
  if run_folder.finished(str(Path(config.events).parent)):
    raise BadInput(
      f'events: {config.events!r} lies in the folder of a stage, which it would change; keep it '
      'outside'
    )
  run_folder.holds(config.workdir, config.to_dict())
  if config.since and config.since not in coming:
    _last(config.since)


def outdated(config: Any) -> bool:
  """Whether a finished folder has rows of a conversation that was deleted since."""
  if not run_folder.finished(config.workdir) or not Path(config.events).is_file():
    return False
  log = Feedback(config.events)
  try:
    return log.stale(_name(config)) > 0
  finally:
    log.close()


def main(config: Any) -> None:
  """Writes the rows and the report.

  Raises:
    NothingNew: nobody has said anything that becomes a row.
  """
  nothing = ''

  def work() -> None:
    nonlocal nothing
    try:
      _main(config)
    except NothingNew as error:
      nothing = str(error)

  on_one_host(work)
  if told := exchange(nothing, 'feedback')[0]:
    raise NothingNew(told)


def _main(config: Any) -> None:
  folder = Path(config.workdir)
  if run_folder.finished(config.workdir) and not outdated(config):
    if not any(read_json(folder / EXPORT, REMEDY)['rows'].values()):
      raise NothingNew(f'feedback: all that {folder} had rows of was deleted')
    say(
      f'{folder} is finished: {_told(read_json(folder / EXPORT, REMEDY))}. What came later becomes '
      f'rows with --config.since={folder} and another --config.workdir.'
    )
    return
  if not Path(config.events).is_file():
    raise NothingNew(
      f'feedback: there is no {str(config.events)!r}; serve a model with '
      f'--config.events={config.events}, and let people rate its answers'
    )
  with locked(folder):
    log = Feedback(config.events)
    try:
      _write(config, log)
    finally:
      log.close()


def _write(config: Any, log: Feedback) -> None:
  folder = Path(config.workdir)
  after, until = _last(config.since) if config.since else 0, None
  if (folder / EXPORT).is_file():  # what is made again ends where it did, also after a kill
    until = read_json(folder / EXPORT, REMEDY)['last']
  if log.stale(_name(config)):
    say(f'{folder} has rows of conversations that were deleted since; it is made again')
  events = [*log.events()]
  made = export(events, after=after, until=until, **config.rows)
  if until is None and not any(made.facts['rows'].values()):
    since = f' since {config.since}' if config.since else ''
    left = feedback_report.reasons(made.facts['dropped']) or 'nobody has rated an answer'
    raise NothingNew(f'feedback: {config.events} has nothing new{since} for a row: {left}')
  run_folder.claim(config.workdir, config.to_dict())
  (folder / SUMMARY).unlink(missing_ok=True)  # a kill leaves a folder that is not finished
  log.exported(_name(config), made.conversations)  # before the files, so that none is unknown
  for name, data in made.files.items():
    with replacing(folder / name) as file:
      file.write(data)
  write_json(folder / EXPORT, made.facts)
  feedback_report.write(folder, events, made.facts)
  sums = {name: sha256(folder / name) for name in made.files}
  write_json(folder / SUMMARY, {'rows': made.facts['rows'], 'files': sums})
  say(f'feedback: {_told(made.facts)}')
  if left := feedback_report.reasons(made.facts['dropped']):
    say(f'  left out: {left}')
  if not made.facts['rows']['preferences']:
    say(
      '  There are no pairs, so reward and dpo have nothing to learn from; kto reads thumbs, in a '
      "pipeline with --config.again.stages=\"('feedback', 'kto')\""
    )
  say(
    f'The report is {folder / "report.html"}. Next: python -m llm_jax.main --config=dpo '
    f'--config.data.sources.builtin= --config.data.sources.users={folder / "preferences.jsonl"} '
    '--config.data.validation.users=builtin'
  )


def _name(config: Any) -> str:
  """What the log calls the folder."""
  return str(Path(config.workdir).resolve())


def _last(folder: str) -> int:
  """The last event that an earlier export has read.

  Raises:
    BadInput: there is none.
  """
  path = Path(folder) / EXPORT
  if not path.is_file():
    raise BadInput(
      f'since: {folder!r} has no {EXPORT}; give the workdir of an earlier feedback, or nothing'
    )
  last = read_json(path, REMEDY).get('last')
  if type(last) is not int:
    raise BadInput(f'since: {path} does not say which event was its last; {REMEDY}')
  return last


def _told(facts: Mapping[str, Any]) -> str:
  """How many rows there are, and of which models."""
  rows = ', '.join(f'{count:,} {name}' for name, count in facts['rows'].items())
  models = [
    f'{sum(one["rows"].values()):,} of {one["model"] or "a model"} ({name[:8] or "unknown"})'
    for name, one in facts['artifacts'].items()
    if any(one['rows'].values())
  ]
  return f'rows: {rows}; {"; ".join(models) or "no model"}; {facts["events"]:,} events'
