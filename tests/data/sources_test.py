"""Every way to name documents, and what each mistake is answered with."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llm_jax.data import corpus, sources, tfds
from llm_jax.data.sources import open_records, open_source
from llm_jax.types import BadInput

TEXTS = ['one', 'zwei\n\nmit é', '三 ' * 3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def write(name, content):
  """`content` is a list of texts or rows for .jsonl and .parquet, else text or bytes."""
  if isinstance(content, list):
    rows = [row if isinstance(row, dict) else {'text': row} for row in content]
    if '.parquet' in name:
      sink = pyarrow.BufferOutputStream()
      pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
      content = sink.getvalue().to_pybytes()
    else:
      content = ''.join(json.dumps(row) + '\n' for row in rows)
  data = content.encode() if isinstance(content, str) else content
  if name.endswith('.gz'):
    data = gzip.compress(data)
  elif name.endswith('.zst'):
    half = len(data) // 2
    data = zstandard.compress(data[:half]) + zstandard.compress(data[half:])  # two frames
  path = Path(name)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data)


def bad(spec, **keywords):
  """The message that opening and reading `spec` ends in; always one line."""
  with pytest.raises(BadInput) as caught:
    list(open_source(spec, **keywords))
  assert '\n' not in str(caught.value)
  return str(caught.value)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize('compression', ['', '.gz', '.zst'])
@pytest.mark.parametrize('suffix', ['.jsonl', '.json', '.parquet', '.JSONL'])
def test_every_format_reads_the_same(folder, suffix, compression):
  write(f'a{suffix}{compression}', TEXTS)
  source = open_source(f'a{suffix}{compression}')
  assert list(source) == TEXTS
  assert list(source) == TEXTS  # starts over
  assert not source.has_splits


@pytest.mark.parametrize('compression', ['', '.gz', '.zst'])
def test_txt(folder, compression):
  write(f'a.txt{compression}', '\ufeffone\r\n\n \ntwo\nlines é\n\n')
  assert list(open_source(f'a.txt{compression}')) == ['one\n\n \ntwo\nlines é\n']
  assert list(open_source(f'a.txt{compression}?split=blank')) == ['one', 'two\nlines é']
  assert list(open_source(f'a.txt{compression}?split=line')) == ['one', 'two', 'lines é']


def test_two_readers_do_not_disturb_each_other(folder):
  write('a.jsonl', TEXTS)
  source = open_source('a.jsonl')
  assert list(zip(source, source)) == [(text, text) for text in TEXTS]


def test_globs_read_files_by_name(folder):
  for name in ['b/2.jsonl', 'b/1.txt', 'b/c/3.jsonl.zst', 'b/part-1.jsonl']:
    write(name, [name] if 'json' in name else name)
  assert list(open_source('b/*.jsonl')) == ['b/2.jsonl', 'b/part-1.jsonl']
  assert list(open_source('b/*.*')) == ['b/1.txt', 'b/2.jsonl', 'b/part-1.jsonl']
  assert list(open_source(f'{folder}/**/*.zst')) == ['b/c/3.jsonl.zst']
  assert list(open_source('b/part-?.jsonl')) == ['b/part-1.jsonl']
  assert list(open_source('b/?.txt?split=line')) == ['b/1.txt']


def test_a_name_with_magic_characters_is_a_file_first(folder):
  write('a[1].txt', 'magic')
  assert list(open_source('a[1].txt')) == ['magic']


@pytest.mark.parametrize('compression', ['', '.gz', '.zst'])
def test_a_json_file_may_be_one_array(folder, compression):
  write(f'a.json{compression}', json.dumps([{'text': text} for text in TEXTS], indent=2))
  assert list(open_source(f'a.json{compression}')) == TEXTS
  write('b.json', '\n' + json.dumps([{'text': text} for text in TEXTS]))
  assert list(open_source('b.json')) == TEXTS
  write('c.json', '[{"text": "a"},\n')
  assert bad('c.json').startswith('c.json: from line 1 on not a JSON array: not JSON (')
  write('d.json', '[{"text": "a"}, {"body": "b"}]')
  assert bad('d.json').startswith("d.json, element 1: no field 'text'")


@pytest.mark.parametrize('suffix', ['.jsonl', '.json.gz', '.parquet'])
def test_records(folder, suffix):
  rows = [{'prompt': 'a', 'answers': ['b', 'c']}, {'prompt': 'd', 'answers': []}]
  write(f'a{suffix}', rows)
  found = list(open_records(f'a{suffix}'))
  assert [row for _, row in found] == rows
  assert found[1][0].startswith(f'a{suffix}, ') and found[1][0].endswith(' 2')


def test_no_records(folder):
  write('a.txt', 'text')
  write('b.jsonl', '\n\n')
  write('c.json', '[]')
  with pytest.raises(BadInput, match=r'a\.txt: text has no records; use'):
    open_records('a.txt')
  for name in ('b.jsonl', 'c.json'):
    with pytest.raises(BadInput, match='the file holds no record'):
      list(open_records(name))
  with pytest.raises(BadInput, match='unknown option'):
    open_records('b.jsonl?field=text')


@pytest.mark.parametrize('suffix', ['.jsonl', '.json.gz', '.parquet', '.csv', '.tsv'])
def test_columns_of_records_get_other_names(folder, suffix):
  rows = [{'q 1': 'a', 'final=': 'b', 'prompt': 'c'}, {'q 1': 'd', 'final=': 'e', 'prompt': 'f'}]
  if 'sv' in suffix:
    write(f'a{suffix}', '\n'.join(','.join(r) for r in [rows[0], *(row.values() for row in rows)]))
    write(
      f'a{suffix}', Path(f'a{suffix}').read_text().replace(',', {'.csv': ',', '.tsv': '\t'}[suffix])
    )
  else:
    write(f'a{suffix}', rows)
  known = ['prompt', 'answer', 'chosen', 'rejected', 'a-b']
  names = lambda options: [row for _, row in open_records(f'a{suffix}?{options}', known=known)]
  assert names('prompt=q 1') == [{'prompt': r['q 1'], 'final=': r['final=']} for r in rows]
  assert names('prompt=q%201&answer=final%3D') == [
    {'prompt': r['q 1'], 'answer': r['final=']} for r in rows
  ]
  swapped = names('prompt=q 1&a-b=prompt&answer=final=')
  assert swapped == [{'prompt': r['q 1'], 'a-b': r['prompt'], 'answer': r['final=']} for r in rows]
  assert names('prompt=') == [{'q 1': r['q 1'], 'final=': r['final=']} for r in rows]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ('promt=q', r"unknown option 'promt', .*; did you mean 'prompt'\?"),
    ('zzz=q', r"unknown option 'zzz', .*; docs/data_formats\.md lists the columns"),
    ('prompt=a&prompt=b', "prompt stands there twice, as 'a' and 'b'"),
    ('prompt=q&answer=q', "the column 'q' cannot be both prompt and answer; choose one"),
    (
      'prompt=questin',
      "line 1: no column 'questin' to be read as 'prompt'; did you mean 'question'",
    ),
    ('answer=final&prompt=zzz', "line 1: no column 'zzz' .*; choose from: question, final"),
    ('prompt=question&answer', "'answer' is no option; write name=value"),
    ('prompt=other', "line 2: no column 'other' to be read as 'prompt'"),
    ('prompt=question', 'line 3: list instead of an object, so no column is renamed'),
  ],
)
def test_names_that_cannot_be_given(folder, options, message):
  rows = [{'question': 'a', 'final': 'b'}, {'question': 'a', 'final': 'b'}]
  if 'other' in options:
    rows[0]['other'] = 'c'
  Path('a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in [*rows, [1]]))
  with pytest.raises(BadInput, match=message) as caught:
    list(open_records(f'a.jsonl?{options}', known=['prompt', 'answer']))
  assert '\n' not in str(caught.value)
  with pytest.raises(BadInput, match=r'option|twice'):  # a text has no columns
    open_source(f'a.jsonl?{options}')


def test_files_without_a_line_of_names(folder):
  write('a.tsv.gz', 'What?\tthat\n"Who" and "how"?\tthis "one\n')
  found = [row for _, row in open_records('a.tsv.gz?names=prompt,answer&quotes=no')]
  assert found == [
    {'prompt': 'What?', 'answer': 'that'},
    {'prompt': '"Who" and "how"?', 'answer': 'this "one'},
  ]
  assert list(open_source('a.tsv.gz?names=a,text&quotes=no')) == ['that', 'this "one']
  assert 'line 2: ' in bad('a.tsv.gz?names=a,text') and '?quotes=no' in bad('a.tsv.gz?names=a,text')
  assert bad('a.tsv.gz?quotes=none').endswith('no quotes=none; choose from: yes, no')
  assert "columns ['a', ''] need names that differ" in bad('a.tsv.gz?names=a,&quotes=no')
  assert 'line 1: 2 cells, but 1 columns' in bad('a.tsv.gz?names=a&quotes=no')
  write('b.csv', 'a,a\n1,2\n')
  assert 'where this line is a row already, name them with ?names=' in bad('b.csv')
  write('c.jsonl', TEXTS)
  assert "unknown option 'names'" in bad('c.jsonl?names=a')


def test_home(folder, monkeypatch):
  monkeypatch.setenv('HOME', str(folder))
  write('a.txt', 'home')
  assert list(open_source('~/a.txt')) == ['home']


@pytest.mark.parametrize('suffix', ['.jsonl', '.parquet'])
def test_field(folder, suffix):
  write(f'a{suffix}', [{'id': 1, 'content': 'one'}, {'id': 2, 'content': 'two'}])
  assert list(open_source(f'a{suffix}', field='content')) == ['one', 'two']
  assert list(open_source(f'a{suffix}?field=content')) == ['one', 'two']


def test_blank_lines_in_jsonl_and_empty_texts(folder):
  write('a.jsonl', '\n{"text": ""}\n\n{"text": "b"}')
  assert list(open_source('a.jsonl')) == ['', 'b']


def test_many_rows_of_parquet(folder):
  texts = [f'row {i}' for i in range(1000)]
  write('a.parquet', texts)
  assert list(open_source('a.parquet')) == texts


def test_files_have_no_splits(folder):
  write('held_out.jsonl', TEXTS)
  assert list(open_source('held_out.jsonl', split='validation')) == TEXTS


def test_repr(folder):
  write('a.jsonl', TEXTS)
  write('a.txt', 'a')
  assert repr(open_source('a.jsonl')) == "Source('a.jsonl', field='text')"
  assert repr(open_source('a.txt?split=line')) == "Source('a.txt', split='line')"
  assert repr(open_source('builtin')) == "Source('builtin', split='train')"


# --- mistakes in files -------------------------------------------------------------------------


def test_missing_file(folder):
  write('data/stories.jsonl', TEXTS)
  assert 'no such file in' in bad('data/story.jsonl')
  assert "did you mean 'stories.jsonl'?" in bad('data/story.jsonl')
  assert 'there is no folder dta in' in bad('dta/stories.jsonl')
  assert "did you mean 'builtin'?" in bad('buildin')
  assert "did you mean 'builtin', tfds:<name> or a file?" in bad('zzz')


def test_folder(folder):
  write('data/a.jsonl', TEXTS)
  assert bad('data/') == 'data/: is a folder; name the files in it, such as data/*.jsonl'


def test_glob_without_a_match(folder):
  assert bad('data/*.jsonl').startswith(f'data/*.jsonl: no file matches in {os.getcwd()}')


@pytest.mark.parametrize('name', ['a.xlsx', 'a', 'a.gz', 'a.jsonl.bz2', 'a.xml.gz'])
def test_unknown_suffix(folder, name):
  write(name, 'text')
  message = bad(name)
  assert message.startswith(f'{name}: unknown suffix ')
  assert message.endswith('.parquet, .csv, .tsv, .txt, each also with .gz or .zst behind it')


def test_empty_file(folder):
  write('b/1.jsonl', TEXTS)
  write('b/2.jsonl', '')
  with pytest.raises(BadInput, match=r'^b/2\.jsonl: the file is empty'):
    open_source('b/*.jsonl')  # before anything is read


@pytest.mark.parametrize(
  'name', ['a.jsonl', 'a.txt', 'a.txt.gz', 'a.jsonl.zst', 'a.txt?split=line']
)
def test_file_without_a_document(folder, name):
  path = name.split('?')[0]
  write(path, '\n \n')
  assert bad(name) == f'{path}: the file holds no document; fill it or leave it out'


def test_parquet_without_a_row(folder):
  pyarrow.parquet.write_table(pyarrow.table({'text': pyarrow.array([], 'string')}), 'a.parquet')
  assert bad('a.parquet') == 'a.parquet: the file holds no document; fill it or leave it out'


@pytest.mark.parametrize('compression', ['', '.gz', '.zst'])
@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"text": ', 'not JSON (Expecting value in column 10); a line holds one JSON object'),
    ('["a"]', 'list instead of an object; write {"text": ...}'),
    ('{"id": 1, "body": "b"}', "no field 'text'; the fields are id, body; choose one with ?field="),
    ('{"text": 5}', "'text' is int, not a string; choose another with ?field="),
    ('{"text": null}', "'text' is NoneType, not a string; choose another with ?field="),
  ],
)
def test_bad_jsonl_line(folder, line, message, compression):
  name = f'b/a.jsonl{compression}'
  write(name, '{"text": "fine"}\n\n' + line + '\n')
  assert bad('b/*.jsonl*') == f'{name}, line 3: {message}'


@pytest.mark.parametrize('name', ['a.jsonl', 'a.txt', 'a.txt.zst', 'a.jsonl.gz'])
def test_invalid_utf8(folder, name):
  write(name, b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
  message = bad(name)
  assert message.startswith(f'{name}, line 2: byte 14 is not UTF-8 (')
  assert 'iconv' in message


def test_bad_parquet(folder):
  write('a.parquet', [{'id': 1, 'body': 'a'}])
  assert bad('a.parquet') == (
    "a.parquet: no field 'text'; the fields are id, body; choose one with ?field="
  )
  assert bad('a.parquet?field=id') == (
    "a.parquet, row 1: 'id' is int, not a string; choose another with ?field="
  )
  write('b.parquet', [{'text': f'{i}' if i != 700 else None} for i in range(900)])
  assert bad('b.parquet').startswith("b.parquet, row 701: 'text' is NoneType")
  write('c.parquet', 'no parquet at all')
  assert bad('c.parquet').startswith('c.parquet: not a whole Parquet file')


@pytest.mark.parametrize('name', ['a.jsonl.gz', 'a.jsonl.zst', 'a.parquet.zst', 'a.txt.zst'])
def test_compressed_file_that_was_cut_off_or_is_none(folder, name):
  texts = [os.urandom(30).hex() for _ in range(1000)]
  write(name, texts)
  path = Path(name)
  path.write_bytes(path.read_bytes()[:-30])
  assert bad(name).startswith(f'{name}: broken compression (')
  path.write_bytes(b'this was never compressed')
  assert bad(name).startswith(f'{name}: broken compression (')


def test_unknown_options(folder):
  write('a.txt', 'a')
  write('a.jsonl', TEXTS)
  assert bad('a.txt?splt=line') == "a.txt: unknown option 'splt'; did you mean 'split'?"
  assert bad('a.txt?split=lines') == "a.txt: no split=lines; did you mean 'line'?"
  assert bad('a.txt?field=text') == "a.txt: unknown option 'field'; choose from: split"
  assert bad('a.jsonl?split=line') == "a.jsonl: unknown option 'split'; choose from: field"
  assert bad('builtin?split=line') == "builtin: unknown option 'split'; choose from: none"


@pytest.mark.parametrize(
  ('name', 'package'), [('a.parquet', 'pyarrow'), ('a.txt.zst', 'zstandard')]
)
def test_missing_extra(folder, monkeypatch, name, package):
  write(name, TEXTS)
  monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
  with pytest.raises(BadInput, match=rf"needs {package}; pip install 'llm_jax\[data\]'$"):
    open_source(name)


# --- builtin and TFDS --------------------------------------------------------------------------


def test_builtin(monkeypatch):
  text = SimpleNamespace(documents=lambda split: [f'{split} text'])
  monkeypatch.setitem(sources.BUILTIN, 'builtin', text)
  source = open_source('builtin', split='validation')
  assert source.has_splits
  assert list(source) == list(source) == ['validation text']
  assert bad('builtin', split='valid') == "builtin: no split 'valid'; did you mean 'validation'?"


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  corpus.prepare('stories', {'train': TEXTS, 'validation': ['held out']}, folder)
  corpus.prepare('plain', {'train': [f'text {i}' for i in range(600)]}, folder)
  return folder


def test_tfds(prepared, monkeypatch):
  source = open_source(f'tfds:stories@{prepared}')
  assert source.has_splits
  assert list(source) == list(source) == TEXTS
  assert list(open_source(f'tfds:stories:1.0.0@{prepared}', split='validation')) == ['held out']
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  assert list(open_source('tfds:stories')) == TEXTS
  assert repr(open_source('tfds:stories')) == "Source('tfds:stories', split='train', field='text')"


def test_tfds_without_validation(prepared):
  source = open_source(f'tfds:plain@{prepared}')
  assert not source.has_splits
  assert list(source) == [f'text {i}' for i in range(600)]
  message = bad(f'tfds:plain@{prepared}', split='validation')
  assert f"no split 'validation' in {prepared}/plain/1.0.0; it has: train" in message


def test_tfds_part(prepared):
  source = open_source(f'tfds:stories@{prepared}?split=train[1:]')
  assert list(source) == TEXTS[1:]
  assert not source.has_splits
  assert len(list(open_source(f'tfds:plain@{prepared}?split=train[:10%]'))) == 60
  assert 'cannot read split' in bad(f'tfds:plain@{prepared}?split=train[oops]')
  assert "no split 'tran'" in bad(f'tfds:plain@{prepared}?split=tran')


def test_tfds_config_and_newest_version(tmp_path, prepared):
  for version, config in [('1.0.0', 'small'), ('1.9.0', 'small'), ('1.10.0', 'small')]:
    target = tmp_path / 'stories' / config / version
    target.mkdir(parents=True)
    for file in (prepared / 'stories' / '1.0.0').iterdir():
      text = file.read_bytes()
      if file.name == 'dataset_info.json':
        text = json.dumps({**json.loads(text), 'version': version, 'configName': config}).encode()
      (target / file.name).write_bytes(text)
  assert list(open_source(f'tfds:stories/small@{tmp_path}')) == TEXTS
  assert list(open_source(f'tfds:stories/small:1.9.0@{tmp_path}')) == TEXTS
  assert tfds.folder_of(f'tfds:stories/small@{tmp_path}').name == '1.10.0'
  assert tfds.folder_of(f'tfds:stories/small:1.9.0@{tmp_path}').name == '1.9.0'
  assert 'which holds: small' in bad(f'tfds:stories@{tmp_path}')
  assert 'no 2.0.0 in' in bad(f'tfds:stories/small:2.0.0@{tmp_path}')
  assert 'which holds: 1.0.0, 1.10.0, 1.9.0' in bad(f'tfds:stories/small:2.0.0@{tmp_path}')
  assert 'no large in' in bad(f'tfds:stories/large@{tmp_path}')


def test_tfds_that_is_not_prepared(prepared):
  message = bad(f'tfds:wikipedia@{prepared}')
  assert f'no wikipedia in {prepared}, which holds: plain, stories' in message
  assert 'not downloaded' in message and 'tfds build' in message
  assert 'which holds: nothing' in bad('tfds:stories@no/such/folder')


def test_tfds_mistakes(prepared, tmp_path):
  assert bad('tfds:').startswith('tfds:: write tfds:<name>')
  assert bad('tfds:stories:1').startswith('tfds:stories:1: write tfds:<name>')
  assert "no field 'body'; the fields are text" in bad(f'tfds:stories@{prepared}?field=body')
  corpus.prepare('old', {'train': TEXTS}, tmp_path)
  info = tmp_path / 'old' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  assert 'is not stored as array_record; prepare it again' in bad(f'tfds:old@{tmp_path}')


def test_no_tensorflow_and_no_tfds_unless_asked_for(prepared):
  code = (
    'import sys; from llm_jax.data.sources import open_source; open_source("builtin"); '
    'print("tensorflow_datasets" in sys.modules); list(open_source(sys.argv[1])); '
    'print("tensorflow" in sys.modules)'
  )
  run = [sys.executable, '-c', code, f'tfds:stories@{prepared}']
  environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
  out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
  assert out.split() == ['False', 'False']
