"""Our tokenizers, written as tokenizer.json, give other programs the same ids."""

import json

import pytest

from llm_jax.data.builtin import documents
from llm_jax.text import chat, tokenizer_export
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.tokenizer_json import TokenizerJson
from llm_jax.types import BadInput

tokenizers = pytest.importorskip('tokenizers')
TEXTS = [text for _, text in zip(range(300), documents('train'))]


@pytest.fixture(scope='module', params=['bpe', 'bpe without [', 'unigram'])
def made(request, tmp_path_factory):
  """A tokenizer of ours, and the folder of its export."""
  folder = tmp_path_factory.mktemp('export')
  texts = [t.replace('[', '').replace('<', '') for t in TEXTS] if 'out' in request.param else TEXTS
  ours = Tokenizer.train(
    texts, vocab_size=600, model_type=request.param.split()[0], specials=['[INST]']
  )
  ours.chat_template = chat.jinja('llm_jax')
  tokenizer_export.save(ours, folder, [ours.eos_id, ours.special('<|im_end|>')])
  return ours, folder


def test_ids_are_the_same_and_no_text_makes_a_control_token(made):
  ours, folder = made
  library = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  library.encode_special_tokens = True
  proto = ours.proto()
  score = lambda ids: sum(proto.pieces[i].score for i in ids)
  for text in [*tokenizer_export.texts(ours), *TEXTS[:50], '[INST] <0x0A>[[INST]', 'a<|mask|>']:
    ids, wanted = library.encode(text, add_special_tokens=False).ids, ours.encode(text)
    assert library.decode(ids) == text
    if proto.trainer_spec.model_type == 1:  # unigram, which may have two ways that are as likely
      assert score(ids) == pytest.approx(score(wanted), rel=1e-6)
    else:
      assert ids == wanted, text


def test_names_are_control_tokens_where_they_are_parsed_and_a_text_begins(made):
  ours, folder = made
  library = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  for name, i in ours.specials.items():
    wanted = [*ours.encode('a '), i, *ours.encode(' b')]
    assert library.encode(f'a {name} b', add_special_tokens=False).ids == wanted
  assert library.encode('a').ids == [ours.bos_id, *ours.encode('a')]


def test_the_files_beside_it_say_what_begins_ends_and_writes_turns(made):
  ours, folder = made
  config = json.loads((folder / 'tokenizer_config.json').read_text())
  assert config['tokenizer_class'] == 'PreTrainedTokenizerFast'
  assert config['chat_template'] == (folder / 'chat_template.jinja').read_text()
  assert config['chat_template'] == chat.jinja('llm_jax')
  generation = json.loads((folder / 'generation_config.json').read_text())
  stops = [ours.eos_id, ours.special('<|im_end|>')]
  assert generation == {'eos_token_id': stops, 'bos_token_id': ours.bos_id}
  assert TokenizerJson.load(folder).stop_ids == tuple(stops)


@pytest.mark.parametrize('harm', ['merge', 'byte', 'normalizer'])
def test_an_export_that_reads_a_text_otherwise_is_refused(harm, tmp_path, monkeypatch):
  ours = Tokenizer.train(TEXTS, vocab_size=500)
  whole = tokenizer_export.document

  def damaged(tokenizer):
    document = whole(tokenizer)
    if harm == 'merge':
      document['model']['merges'].pop(3)
    elif harm == 'byte':
      document['model']['byte_fallback'] = False
    else:
      document['normalizer'] = {'type': 'NFC'}
    return document

  monkeypatch.setattr(tokenizer_export, 'document', damaged)
  with pytest.raises(BadInput, match=r'tokenizer.json would read .*bpe') as error:
    tokenizer_export.save(ours, tmp_path, [ours.eos_id])
  assert '\n' not in str(error.value)
