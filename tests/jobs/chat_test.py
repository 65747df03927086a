"""A conversation in the terminal: what is said is what is remembered, and bad lines end nothing."""

import io
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import chat as chat_config
from llm_jax import artifact
from llm_jax.jobs import chat
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete, runner
from llm_jax.sampling.request import Event
from llm_jax.text import chat as prompt
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.visible import visible
from llm_jax.types import BadInput

SHAPE = dict(
  name='transformer', vocab_size=300, dim=16, num_layers=1, num_heads=2, max_length=320,
)  # fmt: skip


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with an untrained chat model, `base`."""
  root = tmp_path_factory.mktemp('chat')
  tokenizer = Tokenizer.train(['user assistant', 'one and two'] * 20, vocab_size=290)
  model = artifact.build(SHAPE)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  config = {'model': SHAPE, 'data': {'template': 'llm_jax'}}
  artifact.save(root / 'base', artifact.Artifact(model, params, tokenizer, config))
  return root


def config_of(root, **changes):
  c = chat_config.get_config()
  c.artifact, c.max_new, c.mesh.fsdp = str(root / 'base'), 12, 1
  c.temperature = 0.0
  c.update(changes)
  return c


@pytest.fixture
def talk(root):
  mesh = make_mesh(data=1)
  with jax.set_mesh(mesh):
    yield lambda **changes: chat.Chat(config_of(root, **changes), mesh)


@pytest.fixture
def plain_words(monkeypatch):
  """Models say no control tokens."""
  words = lambda model, tokenizer: np.pad(
    tokenizer.token_bytes > 0, (0, model.shape.vocab_size - tokenizer.vocab_size)
  )
  monkeypatch.setattr(runner, 'spoken', words)
  monkeypatch.setattr(complete, 'spoken', words)


def test_what_is_streamed_is_what_the_model_says_to_the_whole_conversation(
  root, talk, plain_words, capsys
):
  made = artifact.load(root / 'base', make_mesh(data=1))
  one, asked = talk(system='Be kind.'), [{'role': 'system', 'content': 'Be kind.'}]
  for text in ('one', 'two', 'and?'):
    asked.append({'role': 'user', 'content': text})
    say = complete.make(
      made.model, made.tokenizer, prompts=[asked], template='llm_jax', max_new=12, temperature=0.0
    )
    (wanted,) = say(made.params)
    capsys.readouterr()
    said = one.answer(text)
    assert said == wanted.rstrip('\ufffd')  # half a character is not shown
    assert capsys.readouterr().out.startswith(visible(said) + '\n12 tokens')
    asked.append({'role': 'assistant', 'content': said.strip()})
    assert one.messages == asked


def test_a_conversation_that_grew_too_long_forgets_its_oldest_turns(talk, capsys):
  one = talk(system='Be kind.')
  for i in range(24):
    one.answer(f'one and two, {i}')
  assert 'no longer fit' in capsys.readouterr().out
  assert one.messages[0]['role'] == 'system'
  assert [m['role'] for m in one.messages[1:3]] == ['user', 'assistant']
  assert one.messages[-2]['content'] == 'one and two, 23'
  with pytest.raises(BadInput, match=r'a question of \d+ tokens; the model has room for'):
    one.answer('one and two ' * 200)
  assert one.messages[-2]['content'] == 'one and two, 23'  # and it is not remembered


def test_commands(talk):
  one = talk()
  one.answer('one')
  assert one.command('/reset') == 'forgotten' and one.messages == []
  assert one.command('/temperature 0.5') == 'temperature is 0.5'
  assert one.command('/top_p 2') == 'sampling: top_p 2.0; choose a number above 0, up to 1'
  assert 'could not convert' in one.command('/temperature warm')
  assert one.command('/help') == one.command('/nonsense') == chat.HELP


def test_a_second_turn_reads_what_is_new_and_compiles_nothing(talk, monkeypatch):
  one, cached = talk(temperature=0.5, system='one and two ' * 20), []
  answer = one._turns.answer

  def watched(request, caller):
    for event in answer(request, caller):
      cached.append((len(request.prompt), event.cached))
      yield event

  monkeypatch.setattr(one._turns, 'answer', watched)
  one.answer('one')
  before, (first, nothing) = runner.compiled(), cached[-1]
  one.command('/temperature 0.9')
  one.answer('two')
  assert runner.compiled() == before
  assert nothing == 0 and first - 64 <= cached[-1][1] <= first


def test_ctrl_c_stops_an_answer_and_not_the_program(talk, monkeypatch, capsys):
  one, answer, handler = talk(), None, signal.getsignal(signal.SIGINT)
  answer = one._turns.answer

  def interrupted(request, caller):
    for event in answer(request, caller):
      signal.raise_signal(signal.SIGINT)
      yield event

  monkeypatch.setattr(one._turns, 'answer', interrupted)
  one.answer('one')
  assert ' [stopped]' in capsys.readouterr().out
  assert 0 < len(one._ids) < 12 and one.messages[-1]['role'] == 'assistant'
  monkeypatch.setattr(one._turns, 'answer', answer)
  one.answer('two')
  assert ' [stopped]' not in capsys.readouterr().out and len(one.messages) == 4
  assert signal.getsignal(signal.SIGINT) is handler


def test_tools_are_switched_and_calls_are_shown_but_not_remembered(talk):
  one = talk(tools=ConfigDict(dict(calculator=ConfigDict())))
  assert one.command('/tools on') == 'tools are on: search, calculator, spell'
  one.answer('one')
  assert one._caller() is not None
  assert one.command('/tools off') == 'tools are off: search, calculator, spell'
  one.answer('two')
  assert one._caller() is None


def test_thoughts_are_remembered_as_thoughts_and_calls_are_not(talk, monkeypatch, capsys):
  one = talk()
  mark, encode = one._tokenizer.special, one._tokenizer.encode
  call = [mark('<SEARCH_START>'), *encode('1 + 1'), mark('<SEARCH_END>')]
  result = [mark('<RESULT_START>'), *encode('2'), mark('<RESULT_END>')]
  thought = [mark('<THINK_START>'), *encode('hm'), mark('<THINK_END>')]
  for ids, content in (
    ([*encode('It is '), *call, *result, *encode('two.')], 'It is two.'),
    ([*encode('It is '), *call[:2]], 'It is'),
    (
      [*thought, *call, *result, *encode('two.')],
      [{'type': 'thinking', 'text': 'hm'}, {'type': 'text', 'text': 'two.'}],
    ),
  ):
    says = (event for event in [Event(0, tokens=tuple(ids), finish='stop')])
    monkeypatch.setattr(one._turns, 'answer', lambda *_, says=says: says)
    one.answer('one')
    assert one.messages[-1] == {'role': 'assistant', 'content': content}
  ids, _ = prompt.encode(one._tokenizer, prompt.pieces(one.messages, template='llm_jax'))
  assert thought == ids[-len(thought) - len(encode('two.')) - 1 :][: len(thought)]


def test_tools_without_room_are_refused_and_stay_off(talk):
  one = talk(max_new=200)
  assert 'leaves no room for a question; lower config.max_new' in one.command('/tools on')
  one.answer('one')
  assert one._caller() is None


@pytest.mark.parametrize('tools', ['on', 'off'])
def test_one_row_is_answered_on_any_number_of_devices(root, tools, capsys):
  said = []
  for size in (1, 8):
    mesh = make_mesh(fsdp=size)
    with jax.set_mesh(mesh):
      one = chat.Chat(config_of(root), mesh)
      one.command(f'/tools {tools}')
      said.append(one.answer('one and two'))
  assert said[0] == said[1]


def test_lines_of_a_file_are_answered_until_it_ends(root, monkeypatch, capsys):
  monkeypatch.setattr('sys.stdin', io.StringIO('one\n\n/temperature 0.5\ntwo\n'))
  run(config_of(root))
  told = capsys.readouterr().out
  assert told.count(' tokens') == 2 and 'temperature is 0.5' in told
  monkeypatch.setattr('sys.stdin', io.StringIO('/quit\none\n'))
  run(config_of(root))
  assert ' tokens' not in capsys.readouterr().out


def test_bad_input(root):
  with pytest.raises(BadInput, match="config: unknown field 'sytem'; did you mean 'system'"):
    run(_with(config_of(root), sytem='x'))
  with pytest.raises(BadInput, match='leaves no room for a question'):
    run(config_of(root, max_new=300))
  with pytest.raises(BadInput, match='no folder'):
    run(config_of(root, artifact='nowhere'))
  with pytest.raises(BadInput, match='temperature -1'):
    run(config_of(root, temperature=-1.0))


def _with(config, **fields):
  with config.unlocked():
    config.update(fields)
  return config
