"""Vocabularies in the words of GGUF; what llama.cpp has no word for is refused."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from llm_jax.data.builtin import documents
from llm_jax.text import gguf_vocabulary
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.tokenizer_json import TokenizerJson
from llm_jax.types import BadInput

pytest.importorskip('tokenizers')
FIXTURES = Path(__file__).parents[1] / 'fixtures' / 'tokenizers'
TEXTS = [text for _, text in zip(range(200), documents('train'))]


def entries(tokenizer, rows=None, stops=(2,)):
  found = gguf_vocabulary.entries(tokenizer, rows or tokenizer.vocab_size, stops)
  return {key.removeprefix('tokenizer.ggml.'): value for key, value in found.items()}


def joined(text, found):
  """Ids by the rule of llama.cpp: the neighbours that make the token of the best score, first."""
  known = {token: i for i, token in enumerate(found['tokens'])}
  scores, parts = found['scores'], list(text.replace(' ', '\u2581'))
  while True:
    pairs = [(scores[known[a + b]], -n) for n, (a, b) in enumerate(itertools.pairwise(parts))
             if a + b in known]  # fmt: skip
    if not pairs:
      spelled = lambda p: [known[p]] if p in known else [known[f'<0x{b:02X}>'] for b in p.encode()]
      return [i for part in parts for i in spelled(part)]
    n = -max(pairs)[1]
    parts[n : n + 2] = [parts[n] + parts[n + 1]]


def test_a_tokenizer_of_ours_joins_by_scores_as_it_does_itself():
  ours = Tokenizer.train(TEXTS, vocab_size=500)
  found = entries(ours, rows=503, stops=[ours.eos_id, ours.special('<|im_end|>')])
  for text in [*(t[:90] for t in TEXTS[:60]), 'a' * 30, '  \n\n  x', '猫 cat']:
    assert joined(text, found) == ours.encode(text)
  assert found['model'] == 'llama' and not found['add_space_prefix'] and found['add_bos_token']
  assert found['tokens'][500:] == ['[PAD500]', '[PAD501]', '[PAD502]']
  assert found['token_type'][500:] == [5] * 3
  kinds = {found['tokens'][i]: found['token_type'][i] for i in range(500)}
  assert kinds['<0x41>'] == 6 and kinds['<|im_end|>'] == 3 and kinds['<unk>'] == 2
  assert found['eos_token_id'] == ours.eos_id and found['bos_token_id'] == ours.bos_id
  assert found['eot_token_id'] == ours.special('<|im_end|>')
  assert gguf_vocabulary.differences(ours) == ['the character U+2581, which is a blank there']


def test_a_unigram_tokenizer_is_refused():
  with pytest.raises(BadInput, match='Unigram'):
    entries(Tokenizer.train(TEXTS, vocab_size=500, model_type='unigram'))


def other(folder, kind, change=lambda document: None):
  shutil.copytree(FIXTURES / kind, folder, dirs_exist_ok=True)
  document = json.loads((folder / 'tokenizer.json').read_text())
  change(document)
  (folder / 'tokenizer.json').write_text(json.dumps(document))
  return TokenizerJson.load(folder)


def test_sentencepiece_has_scores_and_a_prefix(tmp_path):
  tokenizer = other(tmp_path, 'sentencepiece')
  found = entries(tokenizer)
  assert found['model'] == 'llama'
  for text in ('the cat sat on the mat', 'a', 'aaaaaaa', '猫 é'):
    assert joined(found['add_space_prefix'] * ' ' + text, found) == tokenizer.encode(text)


def test_byte_level_has_merges_and_the_name_of_its_split(tmp_path):
  for (splits, whole), name in gguf_vocabulary.SPLITS.items():

    def change(document, splits=splits, whole=whole):
      document['model']['ignore_merges'] = whole
      pretokenizers = []
      for kind, value in splits:
        said = {
          'ByteLevel': dict(add_prefix_space=False, trim_offsets=True, use_regex=value),
          'Digits': dict(individual_digits=value),
          'Punctuation': dict(behavior=value),
          'Split': dict(pattern={'Regex': value}, behavior='Isolated', invert=False),
        }[kind]
        pretokenizers.append({'type': kind, **said})
      document['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': pretokenizers}

    tokenizer = other(tmp_path / name, 'byte_level', change)
    found = entries(tokenizer, stops=tokenizer.stop_ids)
    assert found['model'] == 'gpt2' and found['pre'] == name
    assert all(' ' in pair for pair in found['merges']) and 'scores' not in found


@pytest.mark.parametrize(
  'kind, change, message',
  [
    ('byte_level', lambda d: d.update(normalizer={'type': 'Lowercase'}), 'Lowercase'),
    ('byte_level', lambda d: d.update(pre_tokenizer={'type': 'Sequence', 'pretokenizers': [
      {'type': 'Split', 'pattern': {'Regex': 'x+'}, 'behavior': 'Isolated', 'invert': False},
      {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False},
    ]}), r'name for the pre-tokenizer .*x\+'),
    ('sentencepiece', lambda d: d['model']['merges'].pop(), 'not those of SentencePiece'),
    ('sentencepiece', lambda d: d['model'].update(byte_fallback=False), 'without bytes'),
  ],
)  # fmt: skip
def test_what_llama_cpp_would_read_otherwise_is_refused(kind, change, message, tmp_path):
  tokenizer = other(tmp_path, kind, change)
  with pytest.raises(BadInput, match=message) as error:
    entries(tokenizer)
  assert '\n' not in str(error.value)
