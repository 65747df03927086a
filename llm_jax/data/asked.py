"""Questions of any source as plain records: what several models are asked alike."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from llm_jax.data import questions, records
from llm_jax.data import sources as opened
from llm_jax.data.formats import BadRow
from llm_jax.options import Count, checked
from llm_jax.types import BadInput

_BUILTIN = 'builtin'


@checked(where='data')
def read(
  *,
  sources: Mapping[str, str],
  split: Literal['train', 'validation', 'test'] = 'test',
  max_prompts: Count | None = 200,
  max_chars: Count | None = None,
  map: str = '',
) -> list[dict[str, Any]]:
  """Records with `prompt` (messages), `answer` (the gold text or '') and all columns that they had.

  Sources take turns. A prompt that comes again is left out, and so is a record that is broken.

  Args:
    sources: name -> 'builtin', 'builtin:<family>', files or a dataset, as in
      `llm_jax.data.records`; an empty text leaves the source out.
    split: of sources that have no test split, 'test' is all of them, and the other two are the
      parts that training would take.
    max_prompts: of all sources together; None for all.
    max_chars: prompts with more characters are left out; None for none.
    map: a module or file of yours whose `record(record)` makes of each record one that is read.

  Raises:
    BadInput: a source that cannot be read, or no prompts.
  """
  chosen = records.chosen(sources, None, 0.01)
  found: dict[str, dict[str, Any]] = {}
  reading = {name: _read(name, chosen, split, map) for name in chosen}
  while reading and (max_prompts is None or len(found) < max_prompts):
    for name, left in [*reading.items()]:
      item = next(left, None)
      if item is None:
        del reading[name]
        continue
      text = json.dumps(item['prompt'])
      if max_chars is None or sum(len(str(m.get('content'))) for m in item['prompt']) <= max_chars:
        found.setdefault(text, item)
  if not found:
    raise BadInput(
      f'data: no prompts are left in the {split} split of {dict(chosen)}; mend the records, or '
      'raise max_chars'
    )
  return [*islice(found.values(), max_prompts)]


def _read(name: str, chosen: Mapping[str, str], split: str, map: str) -> Iterator[dict[str, Any]]:
  spec = chosen[name]
  builtin = spec.partition(':')[0] == _BUILTIN
  own = (
    builtin or split != 'test' or split in opened.open_records(spec, known=records.COLUMNS).splits
  )
  found = records.read(
    name,
    chosen,
    lambda record: (questions.question(record), record),
    lambda item: item[0][0],
    kind='questions',
    split=split if own else 'train',
    validation_fraction=0.01 if own else 0.0,
    map=map,
  )
  for _, item in found:
    if not isinstance(item, BadRow):
      (prompt, gold), record = item
      whole = {**record, 'prompt': prompt, 'answer': gold}
      plain = json.dumps(whole, default=str, ensure_ascii=False)
      yield json.loads(plain.encode('utf-8', 'replace'))  # half a character cannot be written
