"""The job: who may ask its server for what, how it ends, what it samples, and what it exports."""

import contextlib
import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
from ml_collections import ConfigDict

from configs import label as label_config
from llm_jax.jobs import label, label_candidates
from llm_jax.jobs.label_server import LARGEST, Server, tokens
from llm_jax.labels import candidates, order
from llm_jax.labels.log import Log
from llm_jax.main import run
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from tests.jobs.matches_test import write


def lines(count):
  return [
    {'prompt': f'q{i}', 'responses': [{'text': f'answer {i}', 'reward': 1.5, 'seed': 3}, 'b']}
    for i in range(count)
  ]


def config_of(folder, count=4, **given):
  c = label_config.get_config()
  (folder / 'candidates.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines(count)))
  c.candidates, c.workdir = str(folder / 'candidates.jsonl'), str(folder / 'label')
  c.port, c.mesh.fsdp, c.gold = 0, 1, 0.0
  c.update(given)
  return c


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  folder = tmp_path_factory.mktemp('label')
  log = Log(folder / 'labels.sqlite')
  found = candidates.items((str(i), one) for i, one in enumerate(lines(40)))[0]
  log.put(order.with_gold(found, 0.1, seed=0))
  made = Server(log, tokens(folder / 'tokens.json', ['ann', 'ben']), guideline='Be <b>kind</b>.')
  made.folder = folder
  made.start()
  yield made
  made.stop()
  log.close()


def ask(server, path, body=None, **headers):
  """(status, what is told) of a request that a page of ann's would make, but for what is given."""
  token = tokens(server.folder / 'tokens.json', ['ann'])['ann']
  data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
  told = {'content-type': 'application/json', 'authorization': f'Bearer {token}'}
  told |= {name.replace('_', '-'): value for name, value in headers.items()}
  link = http.client.HTTPConnection('127.0.0.1', server.server_port, timeout=10)
  try:
    link.request('POST', path, data, {k: v for k, v in told.items() if v is not None})
    answer = link.getresponse()
    return answer.status, json.loads(answer.read())
  finally:
    link.close()


def graded(task, client):
  value = {'grade': 1, 'better': task['shown'][1]}
  kept = {'item': task['item'], 'shown': task['shown'], 'again': task['again']}
  return {**kept, 'kind': 'compare', 'value': value, 'client': client, 'seconds': 2.5}


def test_an_item_comes_without_names_and_scores_which_are_told_after_the_grade(server):
  status, about = ask(server, '/about')
  assert status == 200 and about['annotator'] == 'ann' and about['guideline'] == 'Be <b>kind</b>.'
  status, found = ask(server, '/next', {'count': 2})
  assert status == 200 and len(found['tasks']) == 2
  (task, other) = found['tasks']
  assert {*task} == {'item', 'again', 'prompt', 'shown', 'texts'}
  assert 'reward' not in json.dumps(found) and sorted(task['shown']) == sorted(task['texts'])
  status, told = ask(server, '/event', graded(task, 'one'))
  assert (status, told['seq'], told['new']) == (200, 1, True)
  assert told['about']['r0'] == {'reward': 1.5, 'seed': 3}
  assert ask(server, '/event', graded(task, 'one'))[1] == {**told, 'new': False}
  assert ask(server, '/next', {'count': 1, 'held': [other['item']]})[1]['progress']['done'] == 1
  assert ask(server, '/last')[1]['last']['client'] == 'one'
  assert ask(server, '/item', {'item': task['item']})[1] == task
  (kept,) = server.log.events()
  assert kept['annotator'] == 'ann' and kept['shown'] == task['shown']


@pytest.mark.parametrize(
  ('headers', 'status'),
  [
    ({'authorization': None}, 401),
    ({'authorization': 'Bearer x'}, 401),
    ({'authorization': 'Bearer \xe9'}, 401),
    ({'content_type': 'text/plain'}, 415),
    ({'content_type': None}, 415),
    ({'origin': 'https://evil.example'}, 403),
    ({'origin': 'null'}, 403),
    ({'host': 'evil.example'}, 403),
    ({'host': 'evil.example:80', 'origin': 'http://evil.example:80'}, 403),
  ],
)
def test_only_the_page_itself_is_answered(server, headers, status):
  assert ask(server, '/about', **headers)[0] == status
  own = f'http://127.0.0.1:{server.server_port}'
  assert ask(server, '/about', origin=own)[0] == 200


@pytest.mark.parametrize(
  ('path', 'body', 'status'),
  [
    ('/about', b'{', 400),
    ('/about', b'[]', 400),
    ('/about', b'[' * 50_000, 400),
    ('/about', b' ' * (LARGEST + 1), 413),
    ('/nothing', {}, 404),
    ('/next', {'count': -1}, 400),
    ('/next', {'count': 10**9}, 400),
    ('/next', {'held': [1]}, 400),
    ('/item', {'item': ['x']}, 400),
    ('/event', {'item': 'x'}, 400),
    ('/event', {'kind': 'like'}, 400),
    ('/event', b'{"item": "\\ud800"}', 400),
    ('/next', b'{"count": 1, "held": ["\\ud800"]}', 400),
    ('/item', b'{"item": "\\ud800"}', 400),
    ('/event', b'{"seconds": 1%s}' % (b'0' * 400), 400),
  ],
)
def test_a_wrong_request_is_refused_in_one_line(server, path, body, status):
  found = ask(server, path, body)
  assert found[0] == status and '\n' not in found[1]['error']


def test_the_page_lets_nothing_run_but_its_own(server):
  link = http.client.HTTPConnection('127.0.0.1', server.server_port, timeout=10)
  link.request('GET', '/?x=1')
  answer = link.getresponse()
  html = answer.read()
  policy = answer.headers['content-security-policy']
  assert "default-src 'self'" in policy and policy.count("'sha256-") == 2
  assert 'unsafe' not in policy and len(html) < 40_000
  link.request('GET', '/labels.sqlite')
  assert link.getresponse().status == 404
  link.close()


def test_tokens_stay_and_are_for_their_owner_alone(tmp_path):
  path = tmp_path / 'tokens.json'
  first = tokens(path, ['ann', 'ben'])
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert tokens(path, ['ben', 'cem'])['ben'] == first['ben'] != first['ann']
  assert tokens(path, ['ann']) == {'ann': first['ann']}


def test_two_annotators_meet_over_http_and_nobody_gets_the_slot_of_the_other(tmp_path):
  log = Log(tmp_path / 'labels.sqlite')
  log.put(candidates.items((str(i), one) for i, one in enumerate(lines(20)))[0])
  given = tokens(tmp_path / 'tokens.json', ['ann', 'ben'])
  made = Server(log, given)
  made.folder = tmp_path
  made.start()
  seen: dict[str, list[str]] = {'ann': [], 'ben': []}

  def work(name):
    who = f'Bearer {given[name]}'
    while tasks := ask(made, '/next', {'count': 2}, authorization=who)[1]['tasks']:
      for task in tasks:
        seen[name].append(task['item'])
        assert ask(made, '/event', graded(task, f'{name} {task["item"]}'), authorization=who)[1][
          'new'
        ]

  threads = [threading.Thread(target=work, args=(name,)) for name in seen]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  made.stop()
  log.close()
  assert len({*seen['ann'], *seen['ben']}) == len(seen['ann']) + len(seen['ben']) == 20


def test_items_of_another_process_come_too(tmp_path):
  log, found = Log(tmp_path / 'labels.sqlite'), candidates.items(enumerate(lines(8)))[0]
  log.put(found[:2])
  made = Server(log, tokens(tmp_path / 'tokens.json', ['ann']))
  made.folder = tmp_path
  made.start()
  try:
    other = Log(tmp_path / 'labels.sqlite')
    other.put(found)
    other.close()
    given = ask(made, '/next', {'count': 8})[1]['tasks']
    assert {task['item'] for task in given} == {one.id for one in found}
    for i, task in enumerate(given):
      assert ask(made, '/event', graded(task, str(i)))[0] == 200
  finally:
    made.stop()
    log.close()


# --- the job --------------------------------------------------------------------------------------


def test_it_ends_after_idle_seconds_and_exports_what_was_said(tmp_path, capsys):
  c = config_of(tmp_path, idle=0.1)
  run(c)
  told = capsys.readouterr().out
  assert 'me: http://127.0.0.1:' in told and '4 items' in told
  c.export = str(tmp_path / 'rows')
  with pytest.raises(BadInput, match='no label yet'):
    run(c)
  log = Log(tmp_path / 'label' / label.STORE)
  for i, name in enumerate(log.names()):
    value = {'grade': 2, 'better': 'r1'}
    shown = {'item': name, 'kind': 'compare', 'shown': ['r0', 'r1'], 'client': str(i)}
    log.add({**shown, 'value': value, 'seconds': 3}, 'me')
  log.close()
  capsys.readouterr()
  run(c)
  told = capsys.readouterr().out
  assert '4 of 4 items were seen; rows: 4 for reward, 4 for dpo, 8 for kto, 0 for sft' in told
  folder = tmp_path / 'rows'
  first = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != '.sqlite'}
  assert {'reward.jsonl', 'export.json', 'report.html', 'report.md', 'report.json'} <= {*first}
  run(c)
  again = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != '.sqlite'}
  assert again == first
  c.rows.held_out = 0.5
  run(c)
  assert (folder / 'sft_held_out.jsonl').is_file()
  c.rows.held_out = 0.0
  run(c)
  assert {path.name for path in folder.iterdir()} == {*first, label.STORE}
  assert len(Log(folder / label.STORE).events()) == 4
  run(config_of(tmp_path, idle=0.1))  # the same candidates add nothing
  assert '(0 new' in capsys.readouterr().out


def test_ctrl_c_ends_it_and_the_handler_is_what_it_was(tmp_path, capsys):
  before = signal.getsignal(signal.SIGINT)
  timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
  c, waits = config_of(tmp_path, idle=60.0), label._until_signal

  @contextlib.contextmanager
  def armed():
    with waits() as stopped:
      timer.start()
      yield stopped

  label._until_signal = armed
  try:
    run(c)
  finally:
    label._until_signal = waits
    timer.cancel()
  assert '0 events are in' in capsys.readouterr().out
  assert signal.getsignal(signal.SIGINT) == before


def test_sigterm_ends_the_command_with_all_on_disk(tmp_path):
  c = config_of(tmp_path)
  words = [f'--config.{name}={c[name]}' for name in ('candidates', 'workdir', 'port')]
  command = [sys.executable, '-m', 'llm_jax.main', '--config=label', '--config.mesh.fsdp=1', *words]
  made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
  while b'http://' not in (line := made.stdout.readline()):
    assert line
  made.terminate()
  out, error = made.communicate(timeout=60)
  assert made.returncode == 0 and b'0 events are in' in out and not error
  assert not (tmp_path / 'label' / 'labels.sqlite-wal').exists()


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'annotators': ()}, 'give one name or more'),
    ({'annotators': ('ann', 'ann')}, 'each once'),
    ({'annotators': ('a@b.example',)}, "annotators: 'a@b.example'"),
    ({'overlap': 2}, 'overlap 2 with 1 annotators'),
    ({'candidates': 'none.jsonl'}, "no file 'none.jsonl'"),
    ({'guideline': 'none.md'}, "no file 'none.md'"),
    ({'candidates': '', 'artifacts': ()}, 'nothing to label'),
    ({'export': 'x', 'workdir': 'none'}, 'label something first'),
    ({'export': 'same/../same', 'workdir': 'same'}, 'where the log itself lies'),
    ({'answers': 9}, 'answers 9'),
  ],
)
def test_what_cannot_work_is_said_before_anything_begins(given, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(BadInput) as error:
    run(config_of(tmp_path, **given))
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_port_that_is_taken_is_named(server, tmp_path):
  with pytest.raises(BadInput, match='cannot be listened on'):
    run(config_of(tmp_path, port=server.server_port))


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  tokenizer = Tokenizer.train(['user assistant: how much is left?'] * 20, vocab_size=290)
  write(root / 'a', tokenizer, 0)
  write(root / 'b', tokenizer, 1)
  write(root / 'reward', tokenizer, 3, head='scalar')
  questions = [{'prompt': f'Say {i}.', 'answer': str(i)} for i in range(4)]
  (root / 'questions.jsonl').write_text('\n'.join(map(json.dumps, questions)))
  return root


def test_candidates_are_sampled_once_from_models_in_turn(models, tmp_path, capsys):
  c = config_of(tmp_path, idle=0.1)
  c.candidates, c.artifacts = '', (str(models / 'a'), str(models / 'b'))
  c.reward, c.draws, c.temperatures = str(models / 'reward'), 3, (0.7, 1.3)
  c.data.sources = ConfigDict(dict(mine=str(models / 'questions.jsonl')))
  c.sample.max_new = 8
  label_candidates.check(c)
  found = label_candidates.sampled(c)
  assert len(found) == 4
  for item in found:
    assert len(item.answers) == 2 and item.why in ('close', 'random')
    for answer in item.answers:
      number = int(answer.id[1:])
      assert answer.about['artifact'] == str(models / 'ab'[number % 2])
      assert answer.about['temperature'] == (0.7, 1.3)[number % 2]
      assert {'reward', 'logp', 'seed', 'fingerprint'} <= answer.about.keys()
  capsys.readouterr()
  assert label_candidates.sampled(c) == found and capsys.readouterr().out == ''
  with pytest.raises(BadInput, match='is a reward model'):
    label_candidates.check(config_of(tmp_path, candidates='', artifacts=(str(models / 'reward'),)))
  with pytest.raises(BadInput, match='is no reward model'):
    label_candidates.check(
      config_of(tmp_path, candidates='', artifacts=(str(models / 'a'),), reward=str(models / 'b'))
    )
