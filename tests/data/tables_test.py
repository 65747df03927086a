"""A table is read alike whatever it is written as, and what cannot be read is named by its line."""

import csv
import json

import pytest

from llm_jax.data.sources import open_records, open_source
from llm_jax.types import BadInput

TEXTS = [
  'one',
  'two, "three"',
  'a\nb\r\nc',
  '\u2028 \u0085 {"a": 1}',
  ' x\ty ',
  '\N{GRINNING FACE}',
]
ROWS = [{'text': text, 'number': i, 'list': [{'a': text}]} for i, text in enumerate(TEXTS)]


def as_csv(path, rows, **options):
  with open(path, 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, **options)
    writer.writerow(rows[0])
    for row in rows:
      writer.writerow([v if isinstance(v, str) else json.dumps(v) for v in row.values()])


def by_column(rows):
  return {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}


WRITTEN = {
  'lines.jsonl': '\n'.join(map(json.dumps, ROWS)),
  'lines.json': '\n\n'.join(map(json.dumps, ROWS)),
  'array.json': json.dumps(ROWS),
  'long array.json': '\n' + json.dumps(ROWS, indent=2),
  'columns.json': json.dumps(by_column(ROWS)),
  'long columns.json': json.dumps(by_column(ROWS), indent=2),
  'index.json': json.dumps({str(i): row for i, row in enumerate(ROWS)}),
  'split.json': json.dumps({'columns': list(ROWS[0]), 'data': [list(r.values()) for r in ROWS]}),
  'table.json': json.dumps({'schema': {'fields': []}, 'data': ROWS}),
}


@pytest.mark.parametrize('name', WRITTEN)
def test_every_layout_of_json(tmp_path, name):
  path = tmp_path / name
  path.write_text(WRITTEN[name])
  assert [row for _, row in open_records(str(path))] == ROWS
  assert list(open_source(str(path))) == TEXTS


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize(('suffix', 'delimiter'), [('.csv', ','), ('.tsv', '\t')])
def test_tables_with_delimiters(tmp_path, suffix, delimiter, end):
  path = tmp_path / f'a{suffix}'
  as_csv(path, ROWS, delimiter=delimiter, lineterminator=end)
  written = [{**row, 'number': str(row['number']), 'list': json.dumps(row['list'])} for row in ROWS]
  assert [row for _, row in open_records(str(path))] == written
  assert list(open_source(str(path))) == TEXTS


def test_one_object_over_many_lines_is_one_record(tmp_path):
  path = tmp_path / 'a.json'
  for indent in (None, 2):
    path.write_text(json.dumps({'info': {'post': 'a'}, 'summaries': []}, indent=indent))
    ((where, row),) = open_records(str(path))
    assert where.startswith(str(path)) and row == {'info': {'post': 'a'}, 'summaries': []}


def test_an_empty_cell_is_none_and_places_are_lines(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('\ufeffa,b\n"1\n2",\n\n,4\n', encoding='utf-8')
  (first, one), (second, two) = open_records(str(path))
  assert (one, two) == ({'a': '1\n2', 'b': None}, {'a': None, 'b': '4'})
  assert first.endswith('a.csv, line 2') and second.endswith('a.csv, line 5')


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('a.csv', 'a,b\n1,2\n1,2,3\n', r'a.csv, line 3: 3 cells, but 2 columns \(a, b\)'),
    ('a.csv', 'a,b\n1\n', 'line 2: 1 cells, but 2 columns'),
    ('a.csv', 'a,a\n1,2\n', 'line 1: columns .* need names that differ'),
    ('a.csv', 'a,\n1,2\n', 'line 1: columns .* need names that differ'),
    ('a.csv', 'a,b\n1,"2\n3,4\n', 'line 2: .*; write quotes in a cell twice'),
    ('a.tsv', 'a\tb\n"1"2\t3\n', 'line 2: .*; write quotes in a cell twice'),
    ('a.csv', 'a,b\n', 'holds no record'),
    ('a.json', '{"a": 1,\n\n"b": }', 'from line 1 on not JSON'),
    ('a.json', '{"a": 1}\n{"b": }', 'a.json, line 2: not JSON'),
  ],
)
def test_broken_tables(tmp_path, name, text, message):
  path = tmp_path / name
  path.write_text(text)
  with pytest.raises(BadInput, match=message) as caught:
    list(open_records(str(path)))
  assert '\n' not in str(caught.value)
