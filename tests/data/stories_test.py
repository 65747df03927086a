"""The stories of the package: whole, the same everywhere, and no chapter in both splits."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from llm_jax.data import stories
from llm_jax.data.sources import open_source
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def texts():
  return {split: stories.documents(split) for split in stories.SPLITS}


def test_it_is_the_text_that_published_figures_are_of(texts):
  whole = '\0'.join(texts['train'] + ['\0'] + texts['validation'])
  assert hashlib.sha256(whole.encode()).hexdigest()[:16] == '249cc743ec32fad7'
  assert [len(texts[split]) for split in stories.SPLITS] == [206, 13]


def test_the_tokens_are_those_of_the_readme(texts):
  tokenizer = Tokenizer.train(texts['train'], vocab_size=4096, seed=0)
  around = len(tokenizer.begin) + 1
  count = sum(len(ids) + around for ids in tokenizer.encode_batch(texts['train']))
  assert f'{count:,} tokens' in (ROOT / 'README.md').read_text()


def test_a_source_reads_it(texts):
  source = open_source('builtin:stories')
  assert list(source) == texts['train'] and source.has_splits
  assert list(open_source('builtin:stories', split='validation')) == texts['validation']
  with pytest.raises(BadInput, match="no such text; did you mean 'builtin:stories'"):
    open_source('builtin:story')


def test_no_chapter_and_hardly_a_paragraph_is_in_both_splits(texts):
  paragraphs = {
    split: {part for text in found for part in text.split('\n\n') if len(part) > 60}
    for split, found in texts.items()
  }
  assert not paragraphs['train'] & paragraphs['validation']
  size = {split: sum(map(len, found)) for split, found in texts.items()}
  assert 0.04 < size['validation'] / sum(size.values()) < 0.06


def test_a_document_is_a_chapter_with_its_title(texts):
  found = texts['train'] + texts['validation']
  novels = Counter(text.partition(', chapter ')[0] for text in found)
  assert len(novels) == 6 and novels['Pride and Prejudice'] == 61
  page = (Path(stories.__file__).parent / 'texts' / 'PROVENANCE.md').read_text()
  assert all(f'| {novel} |' in page for novel in novels)


def test_only_text_is_in_it(texts):
  for text in texts['train'] + texts['validation']:
    assert text.isascii() and text.endswith('\n') and not set(text) & {'_', '*', '\t', '\r'}
    assert '  ' not in text and '\n\n\n' not in text
    assert not any(word in text for word in ('Gutenberg', 'Produced by', 'VOLUME', 'CHAPTER'))


def test_another_file_in_its_place_is_refused(texts, monkeypatch, tmp_path):
  ours = Path(stories.__file__).parent / stories.FILE
  monkeypatch.setattr(stories.importlib.resources, 'files', lambda name: tmp_path)
  monkeypatch.setattr(stories, 'FILE', 'mine.xz')
  read = stories._rows.__wrapped__
  with pytest.raises(BadInput, match=r'mine\.xz: cannot be read .*install llm_jax anew'):
    read()
  (tmp_path / 'mine.xz').write_bytes(ours.read_bytes()[:-1])
  with pytest.raises(BadInput, match=r'mine\.xz: not the file that came with llm_jax'):
    read()
  (tmp_path / 'mine.xz').write_bytes(ours.read_bytes())
  assert len(read()) == 219


def test_unknown_split():
  with pytest.raises(BadInput, match="no split 'valid'; did you mean 'validation'"):
    stories.documents('valid')
