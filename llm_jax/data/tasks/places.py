"""Where people have the files of a benchmark: the ends of paths that `files.py` looks for."""

from collections.abc import Mapping, Sequence

Files = Mapping[str, Sequence[str]]


def hub(dataset: str, config: str = '', split: str = 'validation') -> tuple[str, ...]:
  """What the Hugging Face hub, its caches and `datasets.save_to_disk` make of a dataset.

  >>> for place in hub('glue', 'rte')[:4]:
  ...   print(place)
  glue/rte/validation-*.parquet
  glue/rte/validation/*.parquet
  glue/rte/validation.parquet
  *--glue/snapshots/*/rte/validation-*.parquet

  Args:
    dataset: its name without that of its owner.
    config: which of its parts; '' where it has one.
    split: of it.
  """
  of = f'{config}/' if config else ''
  folders = [of] if config else ['', 'data/', 'default/', 'plain_text/']
  roots = [f'{dataset}/', f'*--{dataset}/snapshots/*/']
  places = [f'{root}{folder}' for root in roots for folder in folders]
  found = [f'{place}{split}{rest}.parquet' for place in places for rest in ('-*', '/*', '')]
  cached = [
    f'{owner}{dataset}/{config or "*"}/*/*/*-{split}{rest}.arrow'
    for owner in ('', '*___')
    for rest in ('', '-*-of-*')
  ]
  saved = [f'{dataset}/{of}{split}', f'{dataset}/{config}' if config else dataset]
  saved += [f'{dataset}{mark}{config}' for mark in '_-'] if config else []
  return (*found, *cached, *saved)


def splits(dataset: str, config: str = '', /, **others: Sequence[str] | str) -> Files:
  """Splits of a dataset of the hub, each with other places of it behind those of the hub.

  >>> [*splits('piqa', train=(), validation='valid.jsonl')['validation']][-1]
  'valid.jsonl'
  """
  places = lambda some: (some,) if isinstance(some, str) else tuple(some)
  return {split: (*hub(dataset, config, split), *places(some)) for split, some in others.items()}


def glue(folder: str, config: str, **names: str) -> Files:
  """Splits of a task of GLUE: of the hub, or the original `RTE/dev.tsv`.

  Quotes are letters like others in these files, which have no way to escape them.

  Args:
    folder: that the original archive has, such as `RTE`.
    config: the name on the hub.
    names: split -> its original file, where it is not `train.tsv` and `dev.tsv`.
  """
  originals = names or {'train': 'train', 'validation': 'dev', 'test': 'test'}
  return splits(
    'glue',
    config,
    **{
      split: (
        f'{folder}/{name}.tsv?quotes=no',
        *(f'glue/{config}_{one}.{kind}' for one in (name, split, split[:3]) for kind in
          ('tsv?quotes=no', 'jsonl')),
      )
      for split, name in originals.items()
    },
  )  # fmt: skip


def super_glue(folder: str, config: str, *others: str) -> Files:
  """Splits of a task of SuperGLUE: of the hub, or the original `RTE/val.jsonl`.

  Args:
    folder: that the original archive has, such as `RTE`.
    config: the name on the hub.
    others: more places of the validation split.
  """
  return splits(
    'super_glue',
    config,
    train=(
      f'{folder}/train.jsonl',
      f'super*glue/{config}_train.jsonl',
      f'{config}_train32.jsonl',
    ),
    validation=(f'{folder}/val.jsonl', f'super*glue/{config}_val.jsonl', *others),
    test=(f'{folder}/test.jsonl',),
  )
