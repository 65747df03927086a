"""Rows that are single messages of trees, as OpenAssistant publishes them (arXiv:2304.07327).

A row has `message_id`, `parent_id` (None at a root), `text`, `role` and, for replies that were
compared, `rank` from 0, the best. The rows of all files are put together before they are read, and
become conversations, rankings of the answers to one prompt, or questions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_jax.types import BadInput

Place = tuple[str, Any]  # of a row, and the row
_NEEDED = {'message_id', 'parent_id', 'text', 'role'}
COLUMNS = (*sorted(_NEEDED), 'rank', 'deleted', 'review_result')


def grown(rows: Iterable[Place], kind: str) -> Iterator[Place]:
  """Records made of the rows of trees; other rows are given as they are.

  Messages that were deleted or failed their review are left out with all replies to them.

  Args:
    rows: places and rows.
    kind: 'conversations': the paths along the best reply of the assistant, in which each message is
      trained once. 'preferences': the ranked replies to each prompt. 'questions': each prompt.

  Raises:
    BadInput: a row is no message, or one comes again.
  """
  rows = iter(rows)
  first = next(rows, None)
  if first is None:
    return
  if not _is_message(first[1]):
    yield first
    yield from rows
    return
  replies: dict[Any, list[Place]] = defaultdict(list)
  seen = set()
  for where, row in (first, *rows):
    if not _is_message(row):
      raise BadInput(f'{where}: no message of a tree; it needs {", ".join(sorted(_NEEDED))}')
    if row['message_id'] in seen:
      raise BadInput(f'{where}: message_id {row["message_id"]!r} comes again')
    seen.add(row['message_id'])
    if not row.get('deleted') and row.get('review_result') is not False:
      replies[row['parent_id']].append((where, row))
  yield from {'conversations': _paths, 'preferences': _rankings, 'questions': _prompts}[kind](
    replies
  )


def _is_message(row: Any) -> bool:
  return isinstance(row, Mapping) and row.keys() >= _NEEDED


def _paths(replies: Mapping[Any, list[Place]]) -> Iterator[Place]:
  """Each path ends with an answer that is the last one on it, and trains what no other path did."""
  trained = set()
  for path, below in _walk(replies, best=True):
    where, row = path[-1]
    if row['role'] != 'assistant' or any(replies.get(asked['message_id']) for _, asked in below):
      continue
    messages = [
      {**message, 'train': False} if node['message_id'] in trained else message
      for (_, node), message in zip(path, _said(path), strict=True)
    ]
    trained.update(node['message_id'] for _, node in path if node['role'] == 'assistant')
    yield where, {'messages': messages}


def _rankings(replies: Mapping[Any, list[Place]]) -> Iterator[Place]:
  for path, below in _walk(replies):
    ranked = [row for _, row in below if row.get('rank') is not None]
    if path[-1][1]['role'] != 'assistant' and len(ranked) > 1:
      yield (
        path[-1][0],
        {
          'prompt': _said(path),
          'answers': [[{'role': row['role'], 'content': row['text']}] for row in ranked],
          'ranks': [row['rank'] for row in ranked],
        },
      )


def _prompts(replies: Mapping[Any, list[Place]]) -> Iterator[Place]:
  for path, _ in _walk(replies):
    if path[-1][1]['role'] != 'assistant':
      yield path[-1][0], {'prompt': _said(path)}


def _walk(
  replies: Mapping[Any, list[Place]], best: bool = False
) -> Iterator[tuple[list[Place], list[Place]]]:
  """Every message as the path from its root, and its replies; with `best` one answer each."""
  waiting = [[root] for root in reversed(replies.get(None, []))]
  while waiting:
    path = waiting.pop()
    below = replies.get(path[-1][1]['message_id'], [])
    if best and path[-1][1]['role'] != 'assistant':
      rank = lambda place: float('inf') if place[1].get('rank') is None else place[1]['rank']
      below = sorted(below, key=rank)[:1]
    yield path, below
    waiting += [[*path, reply] for reply in reversed(below)]


def _said(path: list[Place]) -> list[dict[str, Any]]:
  return [{'role': row['role'], 'content': row['text']} for _, row in path]
