"""What people did with answers, kept in one SQLite file as events that are only added to.

An event of the chat page has the kind 'chat', and in `value` what was done:

  {'act': 'thumb', 'grade': 1, -1, or 0 to take it back, 'tags': [...], 'comment': '...'}
  {'act': 'regenerate', 'kept': the id of the answer that the user went on with}
  {'act': 'pick', 'kept': an id, 'shown': ids in the order on the page}
  {'act': 'edit', 'text': '...'}, {'act': 'retry'}, {'act': 'copy'}

Beside it stands all that training needs: the messages before the answer, the answer, the model's
name and fingerprint, how it was sampled, and tool calls with their results. An event is
acknowledged once it is on the disk. One that is sent twice is kept once, by the id that the page
gave it. An event is kept only with `store: true`, by which the client says that the user agreed.
Conversations can be deleted, and what was exported from them before is marked as stale.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jax.labels import acts, event_file
from llm_jax.serving.errors import invalid
from llm_jax.serving.fields import Fields
from llm_jax.serving.messages import messages, tools
from llm_jax.types import BadInput

ACTS = ('thumb', 'regenerate', 'pick', 'edit', 'retry', 'copy')
LONGEST = 200  # characters of an id
_TABLES = """
create table if not exists deleted (conversation text not null, at text not null, rows integer);
create table if not exists exports (
  folder text not null, conversation text not null, stale text not null default '',
  primary key (folder, conversation)) without rowid;
"""


class Feedback:
  """The events in a file.

  Args:
    path: of the SQLite file, which is made if it is not there.

  Raises:
    BadInput: it lies on a drive of the network, or cannot be opened.
  """

  def __init__(self, path: str | Path) -> None:
    self._path, self._lock = Path(path), threading.Lock()
    self._open = event_file.opened(self._path, _TABLES, where='serve: config.events')

  def add(self, found: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, Any]:
    """Keeps an event; what the page is told.

    Args:
      found: the body of the request.
      about: what the server knows of the model.

    Raises:
      ApiError: naming the field.
    """
    read = _read(Fields(found))
    client, conversation, item = (read.pop(name) for name in ('client', 'conversation', 'item'))
    at, event = event_file.now(), json.dumps({**read, **about}, ensure_ascii=False)
    facts = {'seq': 0, 'at': at, 'kind': 'chat', 'conversation': conversation}
    if reason := acts.unusable({**json.loads(event), **facts}):
      raise invalid('event', f'this event would make no row: {reason}')
    row = (at, read['annotator'], item, 'chat', client, conversation, event)
    with self._lock, event_file.writing(self._open):
      known = self._open.execute('select seq from events where client = ?', (client,)).fetchone()
      if known:
        return {'object': 'event', 'seq': known[0], 'new': False}
      done = self._open.execute(
        'insert into events (at, annotator, item, kind, client, conversation, event) '
        'values (?, ?, ?, ?, ?, ?, ?)',
        row,
      )
    return {'object': 'event', 'seq': done.lastrowid, 'new': True}

  def delete(self, conversation: str) -> int:
    """Removes all events of a conversation and marks its exports as stale; how many there were."""
    with self._lock, event_file.writing(self._open):
      done = self._open.execute(
        "delete from events where conversation = ? and kind = 'chat'", (conversation,)
      )
      if done.rowcount:
        row = (conversation, event_file.now(), done.rowcount)
        self._open.execute('insert into deleted values (?, ?, ?)', row)
        self._open.execute(
          "update exports set stale = ? where conversation = ? and stale = ''", (row[1], row[0])
        )
    return done.rowcount

  def exported(self, folder: str, conversations: Iterable[str]) -> None:
    """Writes down whose events have rows in a folder, in the place of what was known of it."""
    rows = [(folder, one) for one in conversations]
    with self._lock, event_file.writing(self._open):
      self._open.execute('delete from exports where folder = ?', (folder,))
      self._open.executemany('insert into exports (folder, conversation) values (?, ?)', rows)
      # Those that were deleted while the rows were made.
      self._open.execute(
        'update exports set stale = ? where folder = ? and not exists '
        '(select 1 from events e where e.conversation = exports.conversation)',
        (event_file.now(), folder),
      )

  def stale(self, folder: str) -> int:
    """How many conversations that have rows in a folder were deleted since."""
    with self._lock:
      return self._open.execute(
        "select count(*) from exports where folder = ? and stale != ''", (folder,)
      ).fetchone()[0]

  def events(self) -> Iterator[dict[str, Any]]:
    """All events of chats, the oldest first.

    Raises:
      BadInput: one is no JSON, as nobody but this class writes them.
    """
    try:
      with self._lock, contextlib.closing(self._open.cursor()) as cursor:
        rows = cursor.execute(
          'select seq, at, item, kind, client, conversation, event from events '
          "where kind = 'chat' order by seq"
        ).fetchall()
    except sqlite3.Error as error:
      raise BadInput(f'{self._path} cannot be read: {error}; take a copy of it') from None
    names = ('seq', 'at', 'item', 'kind', 'client', 'conversation')
    for *given, event in rows:
      try:
        yield {**json.loads(event), **dict(zip(names, given, strict=True))}
      except (ValueError, TypeError, RecursionError):
        raise BadInput(f'{self._path}: event {given[0]} is no JSON object; remove it') from None

  def deleted(self) -> list[tuple[str, str]]:
    """(conversation, when) of all that was deleted."""
    with self._lock:
      return self._open.execute('select conversation, at from deleted').fetchall()

  def close(self) -> None:
    """Closes the file."""
    with self._lock:
      self._open.close()


def _read(body: Fields) -> dict[str, Any]:
  """The fields of an event."""

  def word(name: str) -> str:
    text = body.text(name, longest=LONGEST)
    if not text:
      raise body.wrong(name, f'give a string of 1 to {LONGEST} characters')
    return text

  if body.get('store') is not True:
    raise body.wrong('store', 'give true, once the user has agreed that this is kept')
  answer = body.group('answer')
  if answer is None or not answer.text('id') or answer.text('text') is None:
    raise body.wrong('answer', 'give an object with the id and the text of the answer')
  sampling = body.group('sampling')
  return {
    'client': word('client'),
    'conversation': word('conversation'),
    'item': word('item'),
    'annotator': body.text('annotator', '', longest=LONGEST),
    'page': body.text('page', '', longest=LONGEST),
    'turn': body.integer('turn', 0, 2**31, default=0),
    'value': _value(body.group('value')),
    'messages': messages(body),
    'tools': tools(body),
    'store': True,
    'answer': body.get('answer'),
    'sampling': body.get('sampling') if sampling else {},
  }


def _value(value: Fields | None) -> dict[str, Any]:
  act = value.get('act') if value is not None else None
  if value is None or act not in ACTS:
    raise invalid('value.act', f'value.act has to be one of: {", ".join(ACTS)}')
  found: dict[str, Any] = {'act': act}
  if act == 'thumb':
    if value.get('grade') not in (1, 0, -1) or isinstance(value.get('grade'), bool):
      raise value.wrong('grade', 'choose 1 or -1, or 0 to take it back')
    tags = value.get('tags') or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
      raise value.wrong('tags', 'give an array of strings')
    found |= {'grade': value.get('grade'), 'tags': tags, 'comment': value.text('comment', '')}
  elif act in ('regenerate', 'pick'):
    found['kept'] = value.text('kept', longest=LONGEST)
    shown = value.get('shown') or []
    if not isinstance(shown, list) or not all(isinstance(one, str) for one in shown):
      raise value.wrong('shown', 'give an array of ids')
    found['shown'] = shown
    if not found['kept']:
      raise value.wrong('kept', 'give the id of an answer')
  elif act == 'edit':
    if value.text('text') is None:
      raise value.wrong('text', 'give a string')
    found['text'] = value.text('text')
  return found
