"""ReCoRD of SuperGLUE (arXiv:1810.12885): which name of a news story fills a gap.

The likeliest sentence is chosen. Its name is then compared with the right ones as answers to SQuAD
are, exactly (`em`) and by words (`word_f1`).
"""

from collections.abc import Iterator

from llm_jax.data.tasks import places, sentences
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task; stories are clusters."""
  return Task(
    read=read,
    files=places.super_glue('ReCoRD', 'record'),
    kind='several',
    metrics=('word_f1', 'em'),
    mean_of=('word_f1', 'em'),
    source=sentences.SUPERGLUE,
  )


def read(record: Record) -> Iterator[Item]:
  """A story of the hub with one gap, or one of the original with several."""
  story, where = record['passage'], record['idx']
  if isinstance(story, str):
    number, gaps = where['passage'], [(where['query'], record)]
  else:
    names = [story['text'][span['start'] : span['end'] + 1] for span in story['entities']]
    number, story = where, story['text']
    gaps = [
      (gap['idx'], {**gap, 'entities': names, 'answers': [x['text'] for x in gap['answers']]})
      for gap in record['qas']
    ]
  body, *highlights = story.strip().split('\n@highlight\n')
  context = f'{body}\n\n' + ''.join(f'  - {line}.\n' for line in highlights)
  for i, gap in gaps:
    yield _item(context, gap)._replace(cluster=str(number), key=f'{number}.{i}')


def _item(context: str, gap: Record) -> Item:
  names, right = (tuple(sorted(set(gap[of]))) for of in ('entities', 'answers'))
  if not right:
    raise ValueError('its answers are hidden; choose a split whose labels are public')
  fill = lambda name: f'  - {gap["query"]}'.replace('@placeholder', name)
  gold = tuple(i for i, name in enumerate(names) if name in right)
  choices = tuple(map(fill, names))
  return Item(
    context, choices, gold, answer=fill(right[0]), options=names, about={'answers': right}
  )
