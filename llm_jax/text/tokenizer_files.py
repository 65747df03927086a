"""The files beside a `tokenizer.json`: which tokens begin, end and fill rows, and chat templates.

tokenizer_config.json and special_tokens_map.json name tokens. The ids that end an answer are those
of generation_config.json and of config.json together: Llama 3 needs three.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jax.files import inside
from llm_jax.text.tokenizer import check_unicode
from llm_jax.types import BadInput

TOKENIZER, CONFIG, NAMES = 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'
GENERATION, MODEL = 'generation_config.json', 'config.json'
TEMPLATE, OTHERS = 'chat_template.jinja', 'additional_chat_templates'
ROLES = ('bos_token', 'eos_token', 'pad_token', 'unk_token', 'cls_token', 'sep_token', 'mask_token')
_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized')


class TokenizerFiles:
  """The files of a folder with a `tokenizer.json`.

  Attributes:
    folder: where they were read, for errors.
    contents: name -> bytes.
    tokenizer: `tokenizer.json`, parsed.
    names: role, such as 'bos_token' -> content of its token; those that are null are left out.
    templates: name -> Jinja text; that of chat_template.jinja has the name 'default'.
  """

  def __init__(self, contents: Mapping[str, bytes], folder: str):
    self.contents, self.folder = dict(contents), folder
    self.tokenizer = self.json(TOKENIZER)
    self.names = dict(self._names())
    self.templates = dict(self._templates())
    for name, text in self.templates.items():
      inside(Path(folder), f'{OTHERS}/{name}')  # where it is saved
      check_unicode(f'{name}{text}', f'{folder}: chat template {name!a}')

  @classmethod
  def read(cls, folder: Path) -> 'TokenizerFiles':
    """Of a folder; those that there is no need for may be missing."""
    names = [TOKENIZER, CONFIG, NAMES, GENERATION, MODEL, TEMPLATE]
    names += [f'{OTHERS}/{path.name}' for path in sorted((folder / OTHERS).glob('*.jinja'))]
    return cls({n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}, str(folder))

  def json(self, name: str) -> dict[str, Any]:
    """The object that a file holds; empty where there is no such file."""
    if name not in self.contents:
      return {}
    try:
      value = json.loads(self.contents[name].decode())
    except (ValueError, RecursionError) as error:
      raise BadInput(f'{self.folder}/{name} is no JSON: {error}; copy it again') from None
    if not isinstance(value, dict):
      raise BadInput(f'{self.folder}/{name} is no JSON object; copy it again')
    return value

  def marked(self) -> dict[str, Any]:
    """`tokenizer.json` with every token that another file names among the special ones."""
    config, names = self.json(CONFIG), self.json(NAMES)
    listed = [
      content
      for group in (config, names)
      for key in ('additional_special_tokens', 'extra_special_tokens')
      for content in _contents(group.get(key))
    ]
    named = {*self.names.values(), *listed}
    added, model = self.tokenizer.get('added_tokens'), self.tokenizer.get('model')
    if not isinstance(added, list) or not isinstance(model, dict):
      raise BadInput(f'{self.folder}/{TOKENIZER}: has no list added_tokens, or no model')
    if not all(isinstance(t, dict) and isinstance(t.get('content'), str) for t in added):
      raise BadInput(f'{self.folder}/{TOKENIZER}: added_tokens is no list of tokens')
    if prefix := model.get('continuing_subword_prefix'):  # with it, damaged merges abort Python
      raise BadInput(
        f'{self.folder}/{TOKENIZER}: model.continuing_subword_prefix is {prefix!r}; byte-level and '
        'SentencePiece vocabularies are read, which have none'
      )
    marked = [t | {'special': True} if t.get('content') in named else t for t in added]
    known = {token.get('content') for token in added}
    vocabulary = model.get('vocab')
    if isinstance(vocabulary, list):  # of (token, score)
      pairs = [pair if isinstance(pair, list) and pair else [None] for pair in vocabulary]
      vocabulary = {str(token): i for i, (token, *_) in enumerate(pairs)}
    for name in sorted(named - known):
      if isinstance(vocabulary, dict) and name in vocabulary:
        marked.append(token(name, vocabulary[name]))
    return self.tokenizer if marked == added else {**self.tokenizer, 'added_tokens': marked}

  def stops(self) -> list[tuple[str, int]]:
    """(file, id) of all that generation_config.json and config.json say ends an answer."""
    found = []
    for name in (GENERATION, MODEL):
      group = self.json(name)
      for where in (group, group.get('text_config')):
        ids = where.get('eos_token_id') if isinstance(where, dict) else None
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        if any(not isinstance(i, int) or isinstance(i, bool) for i in ids):
          raise BadInput(f'{self.folder}/{name}: eos_token_id is {ids}; it has to be ids')
        found += [(name, i) for i in ids]
    return found

  def adds_bos(self) -> bool | None:
    """What tokenizer_config.json says of a begin before plain text, if it does."""
    said = self.json(CONFIG).get('add_bos_token')
    return said if isinstance(said, bool) else None

  def _names(self) -> Iterator[tuple[str, str]]:
    config, names = self.json(CONFIG), self.json(NAMES)
    for role in ROLES:
      file, group = (CONFIG, config) if role in config else (NAMES, names)
      value = group.get(role)
      content = value.get('content') if isinstance(value, dict) else value
      if content is not None and not isinstance(content, str):
        raise BadInput(f'{self.folder}/{file}: {role} is {value!r}; it has to be a token')
      if content:
        check_unicode(content, f'{self.folder}/{file}: {role}')
        yield role, content

  def _templates(self) -> Iterator[tuple[str, str]]:
    said = self.json(CONFIG).get('chat_template')
    if isinstance(said, str):
      yield 'default', said
    for each in said if isinstance(said, list) else ():
      if not isinstance(each, dict) or not all(
        isinstance(each.get(k), str) for k in ('name', 'template')
      ):
        raise BadInput(
          f'{self.folder}/{CONFIG}: chat_template has {str(each)[:60]!r}; '
          'it has to be a text, or a list of name and template'
        )
      yield each['name'], each['template']
    for name, data in self.contents.items():
      if name.endswith('.jinja'):
        yield 'default' if name == TEMPLATE else Path(name).stem, data.decode(errors='replace')


def token(name: str, i: int) -> dict[str, Any]:
  """A control token as `tokenizer.json` has it among the added ones."""
  return {'id': i, 'content': name, **dict.fromkeys(_FLAGS, False), 'special': True}


def _contents(value: Any) -> Iterator[str]:
  """Contents of a list of tokens, each a text or an object, or of a mapping to them."""
  listed = [*value.values()] if isinstance(value, dict) else value
  for each in listed if isinstance(listed, list) else ():
    content = each.get('content') if isinstance(each, dict) else each
    if isinstance(content, str):
      yield content
