"""Job `label`: people compare answers on a page in the browser, and what they say becomes rows.

  labels.sqlite      items and events; several annotators and processes use it at once
  labels.jsonl       the same events, readable without this program
  candidates.jsonl   what was sampled, where no file of candidates is given
  tokens.json        the addresses of the annotators

With `config.export` no page is served: the events become files that the stages read as they are,
and a report says how far the annotators agree. Both can be done at the same time.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from llm_jax import options
from llm_jax.data import asked
from llm_jax.files import check_writable, replacing, write_json
from llm_jax.find import call
from llm_jax.jobs import label_candidates, label_report
from llm_jax.jobs.label_server import Server, tokens
from llm_jax.labels import candidates, event, order
from llm_jax.labels import log as logs
from llm_jax.labels.candidates import FEWEST, MOST
from llm_jax.labels.export import export
from llm_jax.labels.log import Log
from llm_jax.models.compute import Compute
from llm_jax.options import Count, NotNegative, Place, PlaceOrNone, Seed, Share, within
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete, pick
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

STORE = 'labels.sqlite'
_LONGEST = 20_000  # characters of a guideline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'label'.
    workdir: its folder, on a disk of this machine.
    candidates: a file of JSON lines, each with `prompt` and `responses`; '' samples them now.
    artifacts: folders of the models that answer; each answer is by the next one.
    temperatures: of the answers, in turn.
    answers: how many answers of a prompt are shown.
    draws: how many are sampled, of which `answers` are chosen.
    reward: folder of a reward model; for one half of the prompts it chooses answers that it finds
      about as good. '' for none.
    data: what the models are asked: `sources`, `split`, `max_prompts` and others.
    sample: how they answer.
    ask: 'compare': two answers by their strength, more by their rank; 'rate': each from 1 to 7.
    annotators: a label for each, which is not their name or address.
    overlap: annotators who label each item.
    guideline: a file of text that they can read at any time; '' for none.
    again: the share of items that come again to the same annotator, the other way round.
    gold: the share of items that are added with an answer that is broken on purpose.
    host: where the page is served; 127.0.0.1 is for this machine alone.
    port: of the page; 0 is any that is free.
    idle: seconds without a request after which the job ends; 0 for never.
    export: a folder for the rows and the report; '' serves the page.
    rows: what becomes a row.
    mesh: sizes of the axes of the device mesh.
    seed: of sampling and order.
    compute: how the models are run.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  workdir: Place
  candidates: PlaceOrNone = ''
  artifacts: Sequence[Place] = ()
  temperatures: Sequence[NotNegative] = (0.7, 1.0)
  answers: Annotated[int, within(FEWEST, MOST)] = 2
  draws: Count = 2
  reward: PlaceOrNone = ''
  data: Mapping[str, Any]
  sample: Mapping[str, Any]
  ask: Literal['compare', 'rate'] = 'compare'
  annotators: Sequence[str]
  overlap: Count = 1
  guideline: PlaceOrNone = ''
  again: Share = 0.05
  gold: Share = 0.03
  host: str = '127.0.0.1'
  port: Annotated[int, within(0, 65535)] = 8765
  idle: NotNegative = 0.0
  export: PlaceOrNone = ''
  rows: Mapping[str, Any]
  mesh: Mapping[str, Any]
  seed: Seed = 0
  compute: Mapping[str, Any] | None = None
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield '', Fields, ()
  yield 'data', asked.read, ()
  yield 'sample', complete.make, ('prompts', 'seed', 'tools', 'template')
  yield 'sample', pick.make, ('allowed_V', 'temperature')
  yield 'rows', export, ('items', 'events')
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()


def check(config: Any) -> None:
  """Whether there is something to label, or to export.

  Raises:
    BadInput: naming the field, the folder or the file.
  """
  options.check(Fields, config.to_dict(), where='config')
  check_writable(Path(config.workdir), 'workdir')
  options.check(export, config.rows, where='rows', supplied=('items', 'events'))
  call(make_mesh, config.mesh, where='mesh')
  if config.export:
    check_writable(Path(config.export), 'export')
    if Path(config.export).resolve() == Path(config.workdir).resolve():
      raise BadInput(
        f'export {config.export!r} is the workdir, where the log itself lies; choose another '
        f'folder, such as {Path(config.workdir) / "rows"}'
      )
    if not (Path(config.workdir) / STORE).is_file():
      raise BadInput(f'label: there is no {config.workdir}/{STORE}; label something first')
    return
  names = _annotators(config)
  if not names or len({*names}) < len(names):
    raise BadInput(f'annotators {names}: give one name or more, each once')
  if config.overlap > len(names):
    raise BadInput(f'overlap {config.overlap} with {len(names)} annotators; give more of them')
  for path in (config.candidates, config.guideline):
    if path and not Path(path).is_file():
      raise BadInput(f'label: there is no file {path!r}')
  if not config.candidates:
    label_candidates.check(config)


def main(config: Any) -> None:
  """Serves the page until a signal, or writes the rows and the report."""
  if config.export:
    return _export(config)
  items = (
    candidates.read(Path(config.candidates))[0]
    if config.candidates
    else label_candidates.sampled(config)
  )
  folder = Path(config.workdir)
  log = Log(folder / STORE, overlap=config.overlap, seed=config.get('seed', 0), again=config.again)
  try:
    new = log.put(order.with_gold(items, config.gold, config.get('seed', 0)))
    given = tokens(folder / 'tokens.json', _annotators(config))
    server = Server(
      log,
      given,
      host=config.host,
      port=config.port,
      seed=config.get('seed', 0),
      guideline=_guideline(config.guideline),
      ask=config.ask,
    )
    with _until_signal() as stopped:
      server.start()
      say(f'label: {len(log.names())} items ({new} new, with gold); Ctrl-C ends it')
      for name, token in given.items():
        say(f'  {name}: {server.url}#{token}')
      while not stopped.wait(0.2):
        if config.idle and time.monotonic() - server.asked > config.idle:
          break
      server.stop()
    count = len(log.events())
  finally:
    log.close()
  say(
    f'label: {count} events are in {folder / STORE}. Next: python -m llm_jax.main --config=label '
    f'--config.workdir={config.workdir} --config.export={folder / "rows"}'
  )


def _annotators(config: Any) -> list[str]:
  given = (config.annotators,) if isinstance(config.annotators, str) else config.annotators
  return [event.annotator(name) for name in given]


def _guideline(path: str) -> str:
  if not path:
    return ''
  text = Path(path).read_text(encoding='utf-8', errors='replace')
  if len(text) > _LONGEST:
    raise BadInput(f'guideline: {len(text):,} characters; nobody reads more than {_LONGEST:,}')
  return text


@contextlib.contextmanager
def _until_signal() -> Iterator[threading.Event]:
  """In this context SIGINT and SIGTERM set an event, and end nothing by themselves."""
  stopped = threading.Event()
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.signal(number, lambda *_: stopped.set()) for number in numbers}
  try:
    yield stopped
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _export(config: Any) -> None:
  """Files of rows, `export.json`, a copy of the log, and the report."""
  source, folder = Path(config.workdir) / STORE, Path(config.export)
  items, events = logs.read(source)
  files, facts = export(items, events, **config.rows)
  folder.mkdir(parents=True, exist_ok=True)
  for name, data in files.items():
    with replacing(folder / name) as file:
      file.write(data)
  for old in {f'{Path(name).stem}_held_out.jsonl' for name in files} - {*files}:
    (folder / old).unlink(missing_ok=True)  # of an export that held prompts out
  log = Log(source)
  log.backup(folder / STORE)
  log.close()
  write_json(folder / 'export.json', facts)
  label_report.write(folder, items, events, facts)
  counts = ', '.join(f'{count} for {name}' for name, count in facts['rows'].items())
  say(f'label: {facts["labelled"]} of {facts["items"]} items were seen; rows: {counts}')
  for name, reasons in facts['dropped'].items():
    if reasons:
      say(f'  not for {name}: {label_report.counted(reasons)}')
  group = facts['largest_group']
  say(
    f'The report is {folder / "report.html"}. Next: python -m llm_jax.main --config=reward '
    f'--config.data.sources.builtin= --config.data.sources.labels={folder / "reward.jsonl"} '
    f'--config.loss.margin=given{f" --config.data.group={group}" if group > 2 else ""}'
  )
