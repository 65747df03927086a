"""Nothing that was acknowledged is lost, nothing is kept twice, and no slot is given to two."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llm_jax.labels import candidates, event_file, log, order, tasks
from llm_jax.serving.feedback import Feedback
from llm_jax.types import BadInput


def items(count):
  lines = ((str(i), {'prompt': f'q{i}', 'responses': [f'a{i}', 'b']}) for i in range(count))
  return candidates.items(lines)[0]


def graded(item, client, grade=-2, **more):
  value = {'grade': grade, 'better': 'r0' if grade < 0 else 'r1'}
  return {'item': item, 'kind': 'compare', 'client': client, 'shown': ['r0', 'r1'], **more} | (
    {} if 'value' in more else {'value': value}
  )


@pytest.fixture
def made(tmp_path):
  found = log.Log(tmp_path / 'labels.sqlite')
  found.put(items(30))
  yield found
  found.close()


def test_the_same_items_add_nothing_and_the_same_event_is_kept_once(made):
  assert made.put(items(31)) == 1
  name = made.names()[0]
  first = made.add(graded(name, 'c1'), 'ann')
  assert first == {'seq': 1, 'new': True}
  assert made.add(graded(name, 'c1'), 'ann') == {'seq': 1, 'new': False}
  with pytest.raises(BadInput, match='somebody else'):
    made.add(graded(name, 'c1'), 'ben')
  assert [one['client'] for one in made.events()] == ['c1']
  with pytest.raises(BadInput, match='no item'):
    made.add(graded('nothing', 'c2'), 'ann')
  with pytest.raises(BadInput, match='no item'):
    made.add({'item': ['x']}, 'ann')


def test_undo_brings_an_item_back_and_history_stays(made):
  (task,) = made.tasks('ann', 1)
  made.add(graded(task.item, 'c1'), 'ann')
  assert made.last('ann')['client'] == 'c1' and made.last('ben') is None
  undo = {'item': task.item, 'kind': 'undo', 'client': 'c2', 'replaces': 'c1'}
  with pytest.raises(BadInput, match='not there'):
    made.add(undo, 'ben')
  made.add(undo, 'ann')
  assert made.last('ann') is None and made.progress('ann')['done'] == 0
  assert made.tasks('ann', 1) == [task] and task not in made.tasks('ben', 30)
  made.add(graded(task.item, 'c3', 1), 'ann')
  assert [one['kind'] for one in made.events()] == ['compare', 'undo', 'compare']
  assert made.events()[1]['replaces'] == 1 and made.progress('ann')['done'] == 1


def test_the_feedback_of_a_chat_may_be_in_the_same_file(made, tmp_path):
  said = {'messages': [{'role': 'user', 'content': 'Hi'}], 'answer': {'id': 'a', 'text': 'Ho'}}
  told = {
    'client': 'chat',
    'conversation': 'c',
    'item': 'a',
    'annotator': 'ann',
    'store': True,
    **said,
  }
  chats = Feedback(tmp_path / 'labels.sqlite')
  chats.add({**told, 'value': {'act': 'thumb', 'grade': 1}}, {'model': 'm'})
  made.add(graded(made.names()[0], 'c1'), 'ann')
  assert [one['client'] for one in made.events()] == ['c1']
  assert made.last('ann')['client'] == 'c1' and made.progress('ann')['done'] == 1
  assert [one['client'] for one in chats.events()] == ['chat']
  chats.close()


def test_a_lease_ends_and_a_reload_gives_back_what_it_lost(made):
  first = made.tasks('ann', 3, now=0.0)
  assert not {*first} & {*made.tasks('ben', 30, now=1.0)}
  held = [task.item for task in first]
  assert made.tasks('ann', 3, now=2.0) == sorted(first)
  made.tasks('ann', 0, held, now=500.0)  # the page is still there
  assert made.tasks('cem', 30, now=700.0)[0].item not in held
  assert {*held} <= {task.item for task in made.tasks('dan', 30, now=5000.0)}


def test_a_skipped_item_is_for_others(made):
  (task,) = made.tasks('ann', 1)
  made.add({'item': task.item, 'kind': 'skip', 'client': 'c', 'value': {'reason': ''}}, 'ann')
  assert task.item not in [one.item for one in made.tasks('ann', 30)]
  assert made.tasks('ben', 30) == [task]  # ann has leased what else there is
  assert len(made.tasks('ben', 40, now=time.time() + 2 * tasks.LEASE)) == 30
  assert made.progress('ann') == {'done': 1, 'labels': 0, 'wanted': 30}


def test_some_come_again_twenty_labels_later(tmp_path):
  made = log.Log(tmp_path / 'labels.sqlite', again=0.1)
  made.put(order.with_gold(items(60), 0.05, seed=0))
  seen: dict[str, int] = {}
  repeats, gold = 0, {name for name, item in made.items().items() if item.gold}
  for count in range(1000):
    tasks = made.tasks('ann', 1)
    if not tasks:
      break
    (task,) = tasks
    assert task.again == (task.item in seen)
    if task.again:
      assert count - seen[task.item] >= order.LATER
      repeats += 1
    seen[task.item] = count
    made.add(graded(task.item, f'c{count}', again=task.again), 'ann')
  assert len(seen) == 60 + len(gold) and gold <= seen.keys() and len(gold) == 3
  assert 3 <= repeats <= 6  # those of the last twenty have no later
  assert made.progress('ann') == {'done': 63, 'labels': 60, 'wanted': 60}
  made.close()


def test_eight_clients_never_share_the_last_slot(tmp_path):
  path, overlap = tmp_path / 'labels.sqlite', 3
  log.Log(path).put(items(50))
  errors = []

  def label(name):
    mine = log.Log(path, overlap=overlap, again=0.0)
    try:
      while tasks := mine.tasks(name, 2):
        for task in tasks:
          mine.add(graded(task.item, f'{name} {task.item}'), name)
    except Exception as error:
      errors.append(error)
    finally:
      mine.close()

  for _ in range(2):  # who left while others held the last ones comes again
    threads = [threading.Thread(target=label, args=(f'a{i}',)) for i in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert not errors
  by_item: dict[str, list[str]] = {}
  for one in log.Log(path).events():
    by_item.setdefault(one['item'], []).append(one['annotator'])
  assert len(by_item) == 50
  assert all(len(who) == len({*who}) == overlap for who in by_item.values())


WRITERS = """
import os, sys, time
from llm_jax.labels import log

def write(name):
  made = log.Log(sys.argv[1])
  names = made.names()
  os.write(1, f'{name} pid {os.getpid()}\\n'.encode())
  for i in range(10**6):
    value = {'grade': 1, 'better': 'r1'}
    event = {'item': names[i % len(names)], 'kind': 'compare', 'shown': ['r0', 'r1']}
    made.add({**event, 'value': value, 'client': f'{name}-{i}'}, name)
    os.write(1, f'{name} kept {name}-{i}\\n'.encode())
    time.sleep(0.01)  # as a person would; else the others starve on a slow disk

for i in range(4):
  if not os.fork():
    write(f'w{i}')
for i in range(4):
  os.wait()
"""


def test_what_was_acknowledged_outlives_kill_9(tmp_path):
  path = tmp_path / 'labels.sqlite'
  made = log.Log(path)
  made.put(items(10))
  command = [sys.executable, '-c', WRITERS, str(path)]
  writers = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
  pids, acknowledged = {}, []
  for text in writers.stdout:  # until the last one is dead
    name, what, word = text.decode().split()
    if what == 'pid':
      pids[name] = int(word)
    else:
      acknowledged.append(word)
      if word == f'{name}-14':
        os.kill(pids[name], signal.SIGKILL)
  assert writers.wait() == 0
  kept = [one['client'] for one in made.events()]
  assert len(acknowledged) >= 60 and {*acknowledged} <= {*kept}
  assert len(kept) == len({*kept})
  assert made._open.execute('pragma integrity_check').fetchone() == ('ok',)
  made.close()
  lines = path.with_suffix('.jsonl').read_bytes().splitlines()
  assert [json.loads(line)['client'] for line in lines] == kept


def test_the_lines_beside_grow_by_a_hundred_and_a_cut_one_is_written_again(tmp_path):
  path = tmp_path / 'labels.sqlite'
  made = log.Log(path)
  made.put(items(1))
  lines = path.with_suffix('.jsonl')
  (name,) = made.names()
  for i in range(99):
    made.add(graded(name, f'c{i}'), 'ann')
  assert not lines.is_file()
  made.add(graded(name, 'c99'), 'ann')
  whole = lines.read_bytes()
  assert whole.count(b'\n') == 100
  lines.write_bytes(whole[:-20])
  made.close()
  assert lines.read_bytes() == whole
  copy = tmp_path / 'copy.sqlite'
  again = log.Log(path)
  again.backup(copy)
  again.close()
  assert log.read(copy) == log.read(path)


def test_what_cannot_be_opened_is_named(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('no database, and longer than any header of one' * 9)
  with pytest.raises(BadInput, match='cannot be opened'):
    log.Log(tmp_path / 'file')
  with pytest.raises(BadInput, match='label something first'):
    log.read(tmp_path / 'none.sqlite')
  log.Log(tmp_path / 'empty.sqlite').close()
  with pytest.raises(BadInput, match='no label yet'):
    log.read(tmp_path / 'empty.sqlite')
  assert event_file.file_system(tmp_path) == ''
  monkeypatch.setattr(event_file, 'file_system', lambda folder: 'nfs4')
  for kind in (log.Log, Feedback):
    with pytest.raises(BadInput, match=r'on a drive of the network \(nfs4\)'):
      kind(tmp_path / 'x.sqlite')


def test_the_lines_beside_are_of_this_log_and_others_are_moved_aside(tmp_path):
  path, lines = tmp_path / 'labels.sqlite', tmp_path / 'labels.jsonl'
  left = [b'{"seq": 1, "client": "of another log"}\n', b'no JSON\n', b'[]\n', b'"\n{"seq": 1e9}\n']
  for number, before in enumerate(left, 1):
    lines.write_bytes(before)
    made = log.Log(path)
    made.put(items(1))
    made.add(graded(made.names()[0], f'c{number}'), 'ann')
    made.close()
    assert (tmp_path / f'labels.{number}.jsonl').read_bytes() == before
    clients = [json.loads(line)['client'] for line in lines.read_bytes().splitlines()]
    assert clients == [f'c{i}' for i in range(1, number + 1)]
  for blank in (b'\n', b'\n \n\n'):
    lines.write_bytes(lines.read_bytes() + blank)
    log.Log(path).close()
    assert [json.loads(line)['seq'] for line in lines.read_bytes().split(b'\n') if line.strip()]
  assert not (tmp_path / f'labels.{len(left) + 1}.jsonl').exists()


def test_a_log_stays_itself_and_its_copy_never_takes_its_place(made, tmp_path):
  path = tmp_path / 'labels.sqlite'
  before = made.id
  made.put(items(35))
  other = log.Log(tmp_path / 'other.sqlite')
  assert made.id == before != other.id and len(before) == 16
  other.close()
  (tmp_path / 'linked.sqlite').hardlink_to(path)
  for place in (path, tmp_path / '..' / tmp_path.name / path.name, tmp_path / 'linked.sqlite'):
    with pytest.raises(BadInput, match='the log itself'):
      made.backup(place)
  made.add(graded(made.names()[0], 'one'), 'ann')
  made.backup(tmp_path / 'copy.sqlite')
  made.backup(tmp_path / 'copy.sqlite')
  assert len(log.read(tmp_path / 'copy.sqlite')[1]) == len(made.events()) == 1


def test_deleting_a_conversation_takes_no_labels(made, tmp_path):
  made.add(graded(made.names()[0], 'one'), 'ann')
  feedback = Feedback(tmp_path / 'labels.sqlite')
  assert feedback.delete('') == 0 and len(made.events()) == 1
  feedback.close()


def test_a_clock_that_is_put_back_makes_no_lease_longer(made):
  (first, *_) = made.tasks('ann', 30, now=10_000.0)
  assert made.tasks('ben', 30, now=5_000.0) == []
  assert first in made.tasks('ben', 30, now=5_000.0 + tasks.LEASE + 1)
