"""Three tasks of GLUE as files of texts with labels, and their texts alone to pretrain on.

python -m experiments.classify.prepare GLUE runs/classify/data --text=wiki.train.txt.gz

GLUE holds sst2_train.tsv.gz, sst2_val.jsonl.gz, rte_train*.tsv.gz, rte_val.jsonl.gz and
cola_public.zip, as people usually have them. Of each task come train.jsonl and validation.jsonl,
with a column `text`, which is what a model reads, and a column `label`.
"""

import argparse
import csv
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

CLASSES = {'sst2': ('negative', 'positive'), 'rte': ('no', 'yes'), 'cola': ('no', 'yes')}
RTE = {'entailment': 'yes', 'not_entailment': 'no', '0': 'yes', '1': 'no'}
Row = tuple[str, str]  # text, label


def sst2(folder: Path, split: str) -> Iterator[Row]:
  """Phrases of film reviews; those of validation are whole sentences."""
  for record in _records(folder, 'sst2_train.tsv.gz' if split == 'train' else 'sst2_val.jsonl.gz'):
    yield record['sentence'].strip(), CLASSES['sst2'][int(record['label'])]


def rte(folder: Path, split: str) -> Iterator[Row]:
  """Whether the second of two texts follows from the first."""
  names = ('rte_train.tsv.gz', 'rte_train_part2.tsv.gz')
  for name in names if split == 'train' else ('rte_val.jsonl.gz',):
    for record in _records(folder, name, ('index', 'sentence1', 'sentence2', 'label')):
      text = f'{record["sentence1"].strip()}\n{record["sentence2"].strip()}'
      yield text, RTE[str(record['label'])]


def cola(folder: Path, split: str) -> Iterator[Row]:
  """Sentences of linguists, some of which are no English."""
  names = ('in_domain_train',) if split == 'train' else ('in_domain_dev', 'out_of_domain_dev')
  with zipfile.ZipFile(folder / 'cola_public.zip') as archive:
    for name in names:
      with archive.open(f'cola_public/raw/{name}.tsv') as file:
        for line in io.TextIOWrapper(file, 'utf-8'):
          _, label, _, sentence = line.rstrip('\n').split('\t')
          yield sentence.strip(), CLASSES['cola'][int(label)]


TASKS = {'sst2': sst2, 'rte': rte, 'cola': cola}


def _records(folder: Path, name: str, columns: tuple[str, ...] = ()) -> Iterator[dict]:
  """Records of a file; `columns` are those of a file whose first line is a record already."""
  with gzip.open(folder / name, 'rt', encoding='utf-8', newline='') as file:
    if '.jsonl' in name:
      yield from map(json.loads, file)
      return
    rows = csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
    first = next(rows)
    header = tuple(first) if 'label' in first else columns
    if header == columns and 'label' not in first:
      yield dict(zip(header, first, strict=True))
    for row in rows:
      yield dict(zip(header, row, strict=True))


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('glue', type=Path)
  parser.add_argument('out', type=Path)
  parser.add_argument(
    '--text', type=Path, nargs='*', default=(), help='more text, .txt.gz or .jsonl.gz'
  )
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  texts = []
  for name, read in TASKS.items():
    for split in ('train', 'validation'):
      rows = list(read(args.glue, split))
      (args.out / name).mkdir(exist_ok=True)
      with open(args.out / name / f'{split}.jsonl', 'w', encoding='utf-8') as file:
        for text, label in rows:
          file.write(json.dumps({'text': text, 'label': label}, ensure_ascii=False) + '\n')
      print(f'{name}, {split}: {len(rows):,} texts')
      if split == 'train':
        texts += [text for text, _ in rows]
  for path in args.text:
    with gzip.open(path, 'rt', encoding='utf-8') as file:
      found = (json.loads(line)['text'] if '.jsonl' in path.name else line for line in file)
      parts = (part.strip() for text in found for part in text.split('\n'))
      texts += [part for part in parts if part.count(' ') > 3]
  with open(args.out / 'texts.jsonl', 'w', encoding='utf-8') as file:
    for text in texts:
      file.write(json.dumps({'text': text}, ensure_ascii=False) + '\n')


if __name__ == '__main__':
  main()
