"""What became of one page of a finished run, in words."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jax.files import read_json
from llm_jax.jobs.cleaning import blocks, steps
from llm_jax.jobs.cleaning.corpus import DROPPED, END, PAGES
from llm_jax.text.terminal import say
from llm_jax.types import BadInput


def tell(folder: Path, url: str) -> None:
  """Prints the fate of every page with this URL.

  Raises:
    BadInput: the folder holds no finished run, or no page of it has the URL.
  """
  if not (folder / END).is_file():
    raise BadInput(f'why: {folder} holds no finished run of job clean; set config.workdir to one')
  finished = read_json(folder / END, 'run job clean again')
  limits = {
    step.name: {limit.reason: limit for limit in getattr(step.make(), 'limits', ())}
    for step in steps.read(finished['config']['rules'])
  }
  found = False
  for kind in (PAGES, DROPPED):
    for path in sorted((folder / kind).glob('*.jsonl.zst')):
      for record in blocks.lines(path):
        if url in (record['url'], record['id']):
          found = True
          for line in told(record, path, limits):
            say(line)
  if not found:
    raise BadInput(
      f'why: no page of {folder} has the URL {url!r}; give it as it stands in its JSON lines, or '
      'give the `id` of a page'
    )


def told(
  record: Mapping[str, Any], path: Path, limits: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
  """The lines on a page: where it is, which step dropped it and why, and all of its numbers.

  Args:
    record: of the page, as it is stored.
    path: of its file.
    limits: step -> reason -> the limit.
  """
  step, reason = record.get('step', ''), record.get('reason', '')
  if not step:
    yield f'{record["url"] or record["id"]}: kept, as {record["id"]} in {path}'
  else:
    yield f'{record["url"] or record["id"]}: dropped by {step} for {reason}, as {record["id"]}'
    limit = limits.get(step, {}).get(reason)
    if limit is not None:
      value = record['values'].get(f'{step}.{limit.value}')
      ends = [f'at least {limit.low}'] * (limit.low is not None)
      ends += [f'at most {limit.high}'] * (limit.high is not None)
      yield f'  {limit.value} is {value}, and pages are kept with {" and ".join(ends)}'
  for name, value in record['values'].items():
    yield f'  {name} = {value}'
  yield f'  it begins: {record["text"][:200]!r}'
