"""Which items an annotator gets next, by the tables of `llm_jax.labels.log`.

A lease says that an annotator has an item on the page. It ends after ten minutes unless the page
asks again, and an item is given to nobody else as long as labels and leases make up `overlap`. All
is called inside of a transaction of the log, so what is found cannot change before it is leased.
"""

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from llm_jax.labels import order
from llm_jax.labels.event import LABELS

LEASE = 600.0  # seconds


class Task(NamedTuple):
  """An item for an annotator; `again` if it was labelled before, and comes the other way round."""

  item: str
  again: bool


class Tasks:
  """What is handed out.

  Args:
    overlap: annotators who label each item.
    seed: of which items come again.
    again: the share of items that come again.
  """

  def __init__(self, overlap: int, seed: int, again: float) -> None:
    self._overlap, self._seed, self._share = overlap, seed, again
    self._again: dict[tuple[str, int], set[str]] = {}
    self._known: tuple[int, list[str], list[tuple[str, int]]] = 0, [], []

  def lease(
    self,
    write: sqlite3.Connection,
    annotator: str,
    count: int,
    held: Collection[str],
    now: float,
  ) -> list[Task]:
    """Items for an annotator, leased until ten minutes after `now`; see `Log.tasks`."""
    write.execute('delete from leases where until < ?', (now,))
    # A clock that was put back makes no lease longer.
    write.execute('update leases set until = ? where until > ?', (now + LEASE, now + LEASE))
    renew = [(now + LEASE, annotator, one) for one in held]
    write.executemany('update leases set until = ? where annotator = ? and item = ?', renew)
    found = self._chosen(write, annotator, count, {*held})
    for task in found:
      hold(write, annotator, task.item, now)
    return found

  def _chosen(
    self, write: sqlite3.Connection, annotator: str, count: int, held: set[str]
  ) -> list[Task]:
    """For `tasks`: own leases that a reload lost, what comes again, gold, then the others."""
    count = max(count, 0)
    mine = write.execute(
      'select l.item, exists (select 1 from done d where d.item = l.item and d.annotator = ?) '
      'from leases l where l.annotator = ? order by l.item',
      (annotator, annotator),
    ).fetchall()
    found = [Task(name, bool(again)) for name, again in mine if name not in held][:count]
    taken = held | {name for name, _ in mine}
    labelled = write.execute(
      'select count(*) from done where annotator = ? and labels', (annotator,)
    ).fetchone()[0]
    if len(found) < count and self._share:
      found += self._due(write, annotator, taken)[: count - len(found)]
    if len(found) < count:
      found += self._gold(write, annotator, labelled, taken)[: count - len(found)]
    if len(found) < count:
      rows = write.execute(
        'select i.item from items i where i.gold = 0 and i.labels < ? '
        'and not exists (select 1 from done d where d.item = i.item and d.annotator = ?) '
        'and i.labels + (select count(*) from leases l where l.item = i.item '
        '  and l.annotator != ? and not exists '
        '  (select 1 from done d where d.item = l.item and d.annotator = l.annotator)) < ? '
        'order by i.labels, i.place limit ?',
        (self._overlap, annotator, annotator, self._overlap, count + len(taken)),
      ).fetchall()
      fresh = [Task(name, False) for (name,) in rows if name not in taken]
      found += fresh[: count - len(found)]
    return found

  def _due(self, write: sqlite3.Connection, annotator: str, taken: set[str]) -> list[Task]:
    """What an annotator labelled 20 labels ago or more, and is to label again."""
    total, names, _ = self._places(write)
    if (annotator, total) not in self._again:
      self._again[annotator, total] = order.repeated(self._seed, names, annotator, self._share)
    wanted = self._again[annotator, total]
    rows = write.execute(
      'select item from done where annotator = ? and labels and not again and ordinal <= ? '
      'order by ordinal',
      (annotator, labels_of(write, annotator) - order.LATER),
    ).fetchall()
    return [Task(name, True) for (name,) in rows if name in wanted and name not in taken]

  def _gold(
    self, write: sqlite3.Connection, annotator: str, labelled: int, taken: set[str]
  ) -> list[Task]:
    """The items made as gold whose place among the others the annotator has come to."""
    rows = write.execute('select item from done where annotator = ?', (annotator,)).fetchall()
    seen = taken | {name for (name,) in rows}
    _, _, gold = self._places(write)
    return [Task(name, False) for name, at in gold if at <= labelled and name not in seen]

  def _places(self, write: sqlite3.Connection) -> tuple[int, list[str], list[tuple[str, int]]]:
    """How many items there are, those that are not gold, and gold with how many are before it."""
    total = write.execute('select coalesce(max(place), 0) from items').fetchone()[0]
    if self._known[0] != total:
      names: list[str] = []
      gold: list[tuple[str, int]] = []
      for name, is_gold in write.execute('select item, gold from items order by place').fetchall():
        gold += [(name, len(names))] * is_gold
        names += [name] * (not is_gold)
      self._known = total, names, gold
    return self._known


def hold(write: sqlite3.Connection, annotator: str, item: str, now: float) -> None:
  """Leases one item."""
  write.execute(
    'insert or replace into leases (item, annotator, until) values (?, ?, ?)',
    (item, annotator, now + LEASE),
  )


def labels_of(write: sqlite3.Connection, annotator: str) -> int:
  """How many labels an annotator has given, also those that were taken back."""
  return write.execute(
    'select count(*) from events where annotator = ? and kind in (?, ?, ?)',
    (annotator, *LABELS),
  ).fetchone()[0]
