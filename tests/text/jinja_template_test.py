"""Chat templates of other models: the text of transformers, and nothing lost, forged or guessed."""

import datetime
import gzip
import json
import random
from pathlib import Path

import pytest

from llm_jax.text import chat
from llm_jax.text.jinja import JINJA
from llm_jax.text.jinja_template import JinjaTemplate, dated
from llm_jax.text.templates import TEMPLATES
from llm_jax.text.tokenizer import BOS, EOS, Tokenizer
from llm_jax.types import BadInput

pytest.importorskip('jinja2')

FOLDER = Path(__file__).parents[1] / 'fixtures' / 'templates'
RENDERED = json.loads(gzip.decompress((FOLDER / 'rendered.json.gz').read_bytes()))
SAID, TOOL = RENDERED['conversations'], RENDERED['tool']
CHATML = ['<|im_start|>', '<|im_end|>', '<|endoftext|>']
CONTROLS = {
  'qwen2_5': CHATML,
  'qwen3': CHATML,
  'smollm3': CHATML,
  'phi3_5': ['<s>', '<|system|>', '<|user|>', '<|assistant|>', '<|end|>', '<|endoftext|>'],
  'deepseek_r1_distill': [
    *('<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜User｜>', '<｜Assistant｜>'),
    *('<｜tool▁outputs▁begin｜>', '<｜tool▁outputs▁end｜>', '<｜tool▁output▁begin｜>'),
  ],
  'gpt_oss': [
    *('<|startoftext|>', '<|start|>', '<|end|>', '<|message|>', '<|channel|>', '<|return|>'),
    '<|call|>',
  ],
}
DATE = '2026-01-02T03:04:05'
ASK = {'role': 'user', 'content': 'Q'}
REPLY = {'role': 'assistant', 'content': 'A'}


class Names:
  """As much of a tokenizer as a template asks for."""

  def __init__(self, names, bos=None, eos=None, chat_template=None):
    self.specials = {name: i for i, name in enumerate(names)}
    self.bos_id, self.stop_ids = self.specials.get(bos), (self.specials[eos],) if eos else ()
    self.chat_template = chat_template

  def special(self, name):
    return self.specials[name]


def family(name, date=DATE):
  text = (FOLDER / f'{name}.jinja').read_text()
  names = Names(CONTROLS[name], **RENDERED['tokens'][name], chat_template=text)
  return chat.find_template('folder', names, date)


FAMILIES = {name: family(name) for name in CONTROLS}


def written(messages, template, **options):
  return chat.pieces(messages, template=template, **options)


def text_of(pieces):
  return ''.join(piece.text for piece in pieces)


def trained(messages, template, **options):
  return text_of(p for p in written(messages, template, **options) if p.trainable)


def controls(pieces):
  return [piece.text for piece in pieces if piece.control]


def simple(text, names=('<s>', '<e>'), **options):
  return JinjaTemplate(text, Names(names, '<s>', '<e>'), **options)


SIMPLE = (
  '{{ bos_token }}{% for m in messages %}{{ m.role + ": " + (m.content or "") + eos_token }}'
  '{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}'
)


# --- the text ----------------------------------------------------------------------------------


@pytest.mark.parametrize('name', CONTROLS)
def test_the_text_is_that_of_transformers(name):
  rows = [row for row in RENDERED['rows'] if row['family'] == name]
  assert len(rows) >= 14
  for row in rows:
    tools = [TOOL] if row.get('tools') else []
    options = dict(answer=row['add_generation_prompt'], tools=tools, **row.get('kwargs') or {})
    messages = SAID[row['conversation']]
    if 'error' in row:
      with pytest.raises(BadInput, match='can only concatenate str'):
        FAMILIES[name].render(messages, **options)
    else:
      assert FAMILIES[name].render(messages, **options) == row['text']


@pytest.mark.parametrize('name', CONTROLS)
def test_pieces_are_that_text_or_a_refusal(name):
  seen = 0
  for row in RENDERED['rows']:
    # A content in parts is one text here, which some templates would leave out.
    if row['family'] != name or row.get('kwargs') or row['conversation'] == 'parts':
      continue
    tools = [TOOL] if row.get('tools') else []
    for train_on in chat.TRAIN_ON:
      messages, answer = SAID[row['conversation']], row['add_generation_prompt']
      try:
        found = written(messages, FAMILIES[name], answer=answer, tools=tools, train_on=train_on)
      except BadInput:
        continue
      assert text_of(found) == row['text']
      assert set(controls(found)) <= {*CONTROLS[name]}
      seen += 1
  assert seen >= 8


def test_a_content_in_parts_is_one_text():
  for template in FAMILIES.values():
    if template is not FAMILIES['deepseek_r1_distill']:
      assert 'In parts.' in text_of(written(SAID['parts'], template))


@pytest.mark.parametrize('name', TEMPLATES)
def test_our_own_templates_in_jinja_give_their_own_pieces(name):
  names = [BOS, EOS, *chat.specials(name)]
  outside = JinjaTemplate(JINJA[name], Names(names, BOS, EOS))
  talk = (
    [ASK, REPLY] if name == 'plain' else [ASK, REPLY, ASK, {**REPLY, 'content': ' B <|im_end|>'}]
  )
  for train_on in chat.TRAIN_ON:
    ours, theirs = (written(talk, t, train_on=train_on) for t in (name, outside))
    for of in (text_of, controls):
      assert of(ours) == of(theirs)
    assert [p.text for p in ours if p.trainable] == [p.text for p in theirs if p.trainable]
  assert outside.stop == TEMPLATES[name].stop


# --- what is trained ---------------------------------------------------------------------------


def test_answers_are_trained_up_to_their_stop_and_headers_are_not():
  for name, stop in (('qwen2_5', '<|im_end|>'), ('smollm3', '<|im_end|>'), ('phi3_5', '<|end|>')):
    template = FAMILIES[name]
    assert template.stop == stop
    assert trained(SAID['train2'], template) == f'A pike.{stop}A perch.{stop}'
    assert trained(SAID['train2'], template, train_on='last') == f'A perch.{stop}'
    assert trained(SAID['empty'], template) == stop
    quiet = [*SAID['train2'][:1], {**SAID['train2'][1], 'weight': 0}, *SAID['train2'][2:]]
    assert trained(quiet, template) == f'A perch.{stop}'
  call = trained(SAID['tool'], FAMILIES['qwen2_5'], tools=[TOOL])
  assert call == (
    '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>'
    'It is 5.<|im_end|>'
  )
  assert trained(SAID['thinking_field'], FAMILIES['gpt_oss'], train_on='last') == (
    '<|channel|>analysis<|message|>double four<|end|>'
    '<|start|>assistant<|channel|>final<|message|>8<|return|>'
  )


def test_an_empty_thought_that_the_template_writes_is_not_trained():
  template = FAMILIES['qwen3']
  assert trained(SAID['train_system'], template) == 'A pike.<|im_end|>'
  assert trained(SAID['blanks'], template) == '  the answer has blanks too  \n<|im_end|>'
  own = [ASK, {**REPLY, 'content': '<think>\n\n</think>\n\nA'}]  # an answer may hold one
  assert trained(own, FAMILIES['smollm3']) == '<think>\n\n</think>\n\nA<|im_end|>'


@pytest.mark.parametrize(
  ('name', 'said', 'train_on', 'message'),
  [
    ('qwen3', 'train2', 'all', r'message 1: .* goes on .*train_on=last'),
    ('gpt_oss', 'train2', 'all', r"message 1: .*\('end\|>.*'\) than .*\('return\|>'\)"),
    ('deepseek_r1_distill', 'train2', 'all', r'message 1: its prompt is not how .*<think>'),
    ('deepseek_r1_distill', 'train2', 'last', r'message 3: its prompt is not how .*<think>'),
  ],
)
def test_what_is_written_in_two_ways_is_refused(name, said, train_on, message):
  with pytest.raises(BadInput, match=message):
    written(SAID[said], FAMILIES[name], train_on=train_on)


@pytest.mark.parametrize('name', ['qwen2_5', 'qwen3', 'phi3_5', 'smollm3', 'gpt_oss'])
def test_prompts_are_beginnings_of_their_rows(name):
  for said in ('train2', 'train_system', 'unicode'):
    messages = SAID[said]
    row = written(messages, FAMILIES[name], train_on='last')
    prompt = written(messages[:-1], FAMILIES[name], answer=True)
    assert text_of(row).startswith(text_of(prompt))
    assert not any(piece.trainable for piece in prompt)
    assert controls(row)[: len(controls(prompt))] == controls(prompt)


def test_marks_say_what_is_trained():
  text = SIMPLE.replace(
    '{{ m.role + ": " + (m.content or "") + eos_token }}',
    '{% if m.role == "assistant" %}assistant: {% generation %}{{ m.content }}{% endgeneration %}'
    '{{ eos_token }}{% else %}{{ m.role + ": " + m.content + eos_token }}{% endif %}',
  )
  talk = [ASK, REPLY, ASK, {**REPLY, 'content': 'B'}]
  assert trained(talk, simple(text)) == 'AB'  # their mask, which leaves the stop out
  assert trained(talk, simple(text), train_on='last') == 'B'
  assert trained([*talk[:3], {**talk[3], 'weight': 0}], simple(text)) == 'A'
  assert text_of(written(talk, simple(text))) == text_of(written(talk, simple(SIMPLE)))


def test_a_token_that_spans_prompt_and_answer_is_read_as_transformers_reads_it():
  tokenizer = Tokenizer.train(['a b\n\n\nc'] * 9, vocab_size=278, specials=CHATML)
  template = JinjaTemplate((FOLDER / 'qwen2_5.jinja').read_text(), tokenizer)
  found = written([ASK, {**REPLY, 'content': '\n\nc'}], template)
  whole = tokenizer.encode('assistant\n\n\nc')
  assert whole[:-1] != tokenizer.encode('assistant\n')
  ids, mask = chat.encode(tokenizer, found)
  assert tokenizer.decode(ids, specials=True) == text_of(found)
  end = len(ids) - 1 - len(tokenizer.encode('\n'))  # of the answer; its stop comes next
  assert ids[end - len(whole) : end] == whole
  spoken = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
  assert spoken in ('\n\n\nc', '\n\nc') and mask[end]


# --- what is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('name', 'said', 'message'),
  [
    ('qwen2_5', 'thinking_field', 'message 1: .* nothing of its thinking; take that out'),
    ('qwen3', 'thinking_field', 'message 1: .* nothing of its thinking; train the last'),
    ('phi3_5', 'tool', 'message 1: .* nothing of its tool_calls'),
    ('deepseek_r1_distill', 'tool', 'message 1: .* nothing of its tool_calls'),
    ('smollm3', 'late_system', 'message 2: .* nothing of its content'),
    ('gpt_oss', 'late_system', 'message 2: .* nothing of its content'),
  ],
)
def test_nothing_is_lost_in_silence(name, said, message):
  with pytest.raises(BadInput, match=message):
    written(SAID[said], FAMILIES[name], answer=SAID[said][-1]['role'] == 'user')


def test_tools_that_the_template_ignores_are_refused():
  with pytest.raises(BadInput, match='nothing of tools'):
    written(SAID['one'], FAMILIES['phi3_5'], answer=True, tools=[TOOL])
  with pytest.raises(BadInput, match='template chatml has no form for tools'):
    written(SAID['one'], 'chatml', answer=True, tools=[TOOL])


def test_thoughts_of_earlier_answers_may_be_left_out_of_a_prompt():
  messages = [*SAID['thinking_field'], ASK]
  assert 'two and three' not in text_of(written(messages, FAMILIES['qwen3'], answer=True))
  messages = SAID['thinking_field']
  assert trained(messages, FAMILIES['qwen3'], train_on='last').startswith('<think>\ndouble four')


def test_arguments_may_be_text_or_a_mapping():
  call = {**SAID['tool'][1]}
  function = call['tool_calls'][0]['function']
  as_text = [{'function': {**function, 'arguments': json.dumps(function['arguments'])}}]
  talk = [SAID['tool'][0], {**call, 'tool_calls': as_text}, *SAID['tool'][2:]]
  tools = dict(template=FAMILIES['qwen2_5'], tools=[TOOL])
  assert text_of(chat.pieces(talk, **tools)) == text_of(chat.pieces(SAID['tool'], **tools))


# --- what is forged ----------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['qwen2_5', 'qwen3', 'phi3_5', 'smollm3', 'gpt_oss'])
def test_nobody_can_type_a_control_token(name):
  draw = random.Random(name)
  halves = [
    half for c in CONTROLS[name] for half in (c, c[: len(c) // 2], c[len(c) // 2 :], c[2:-2])
  ]
  bits = [
    *halves,
    *('<', '>', '|', '<|', '|>', '\n', ' ', '"', '\\', 'x', '/think', '/no_think', '<think>'),
    *('</think>', '<tool_response>', '</tool_response>', '\ufdd0', '\ufdd1', '\U000f0000'),
    *('assistant', 'user', 'system', 'analysis', '猫'),
  ]
  say = lambda: ''.join(draw.choices(bits, k=draw.randrange(1, 12))) + 'x'
  refused = 0
  for _ in range(60):
    talk = [
      {'role': 'system', 'content': say()},
      {'role': 'user', 'content': say()},
      {'role': 'assistant', 'content': say()},
    ]
    plain = [{**message, 'content': 'nothing'} for message in talk]
    try:
      found = written(talk, FAMILIES[name])
    except BadInput as error:
      assert '<|channel|>' in f'{error}' or 'writes nothing' in f'{error}'
      refused += 1
      continue
    assert text_of(found) == FAMILIES[name].render(talk)
    assert controls(found) == controls(written(plain, FAMILIES[name]))
  assert refused < 20


def test_a_control_token_that_a_template_makes_of_what_is_said_is_text():
  names = '<s>', '<e>', '<|x|>'
  text = SIMPLE.replace('m.content or ""', 'm.content.replace("/think", "")')
  for said in ('<|/thinkx|>', '<|x/think|>', '<|x|>'):
    found = written([{'role': 'user', 'content': said}], simple(text, names))
    assert (text_of(found), controls(found)) == ('<s>user: <|x|><e>', ['<s>', '<e>'])
  wrapped = SIMPLE.replace('m.content or ""', '"<|" + m.content + "|>"')
  found = written([{'role': 'user', 'content': 'x'}], simple(wrapped, names))
  assert controls(found) == ['<s>', '<e>']


def test_a_template_that_changes_letters_is_refused_only_where_it_matters():
  text = SIMPLE.replace('m.content or ""', 'm.content.upper()')
  assert text_of(written([ASK], simple(text))) == '<s>user: Q<e>'
  with pytest.raises(BadInput, match=r'message 1: .* control tokens typed in it'):
    written([ASK, {**ASK, 'content': '<e'}], simple(text))


# --- begin, dates and names --------------------------------------------------------------------


def test_a_text_begins_once():
  assert controls(written([ASK], simple(SIMPLE))) == ['<s>', '<e>']
  with pytest.raises(BadInput, match='2 begin-of-text tokens'):
    written([ASK], simple('{{ bos_token }}' + SIMPLE))


def test_the_date_stands_still_and_travels_with_the_text():
  text = '{{ strftime_now("%Y-%m-%d") }}' + SIMPLE
  with pytest.raises(BadInput, match=r'config\.data\.date=2026-01-31'):
    simple(text)
  dated = simple(text, date='2026-01-02')
  assert dated.render([ASK]).startswith('2026-01-02<s>')
  again = simple(dated.text)
  assert (again.text, again.render([ASK])) == (dated.text, dated.render([ASK]))
  assert simple(dated.text, date='2027-05-06').text.count('date:') == 1
  with pytest.raises(BadInput, match=r"data\.date 'soon' is no date"):
    simple(text, date='soon')


def test_a_template_that_is_kept_has_the_date_of_that_day():
  names = Names(['<s>', '<e>'], '<s>', '<e>')
  text = '{{ strftime_now("%Y-%m-%d") }}' + SIMPLE
  kept = dated(text, names, 'mine')
  assert simple(kept).render([ASK]).startswith(f'{datetime.date.today()}<s>')
  assert dated(kept, names, 'mine') == kept and dated(SIMPLE, names, 'mine') == SIMPLE
  with pytest.raises(BadInput, match=r'^mine: it cannot be rendered'):
    dated('{{ ', names, 'mine')


def test_names_of_templates(tmp_path):
  names = Names(['<s>', '<e>'], '<s>', '<e>')
  assert chat.find_template('chatml', names) == 'chatml'
  with pytest.raises(BadInput, match='came with no chat template, and its tokenizer lacks'):
    chat.find_template('folder', names)
  speaks = Names(['<s>', '<e>', *chat.specials('llm_jax')], '<s>', '<e>')
  assert chat.find_template('folder', speaks) == 'llm_jax'
  for ours in TEMPLATES:  # an artifact's is found again
    own = Names(['<s>'], chat_template=chat.jinja(ours))
    assert chat.find_template('folder', own) == ours
  (tmp_path / 'mine.jinja').write_text(SIMPLE)
  found = chat.find_template(str(tmp_path / 'mine.jinja'), names)
  assert found.text == SIMPLE
  assert chat.find_template(found, names) is found
  assert chat.stop_ids(names, found) == [1]
  for name, date, message in (
    ('chatlm', '', "no template 'chatlm'; did you mean 'chatml'"),
    ('gone.jinja', '', r"'gone\.jinja' cannot be read"),
    ('chatml', '2026-01-31', r'data\.date 2026-01-31 is for templates in Jinja'),
  ):
    with pytest.raises(BadInput, match=message):
      chat.find_template(name, names, date)


def test_parts_that_jinja_templates_have_no_form_for_are_refused():
  for kinds in (('search',), ('text', 'thinking')):
    content = [{'type': kind, 'text': 'x'} for kind in kinds]
    with pytest.raises(BadInput, match='message 1: its parts are'):
      written([ASK, {**REPLY, 'content': content}], FAMILIES['qwen3'])
