"""A tree of arrays in a folder, to which every host writes the parts that its devices have."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from llm_jax import storage
from llm_jax.files import manifest
from llm_jax.parallel.hosts import apart, barrier, exchange

TOPIC = 'saved'


class Saving:
  """Writes trees below a folder, asynchronously.

  Hosts that share the folder write one OCDBT store. Where each has a copy of it to itself, every
  part of an array is a file, which the host that wrote it brings to the store: their union is the
  tree, and `ocp.StandardCheckpointer` restores both forms.

  Args:
    folder: what is saved is below it.
  """

  def __init__(self, folder: Path) -> None:
    self.apart = apart(folder)
    self._orbax: Any = _apart() if self.apart else ocp.StandardCheckpointer()

  def save(self, target: Path, name: str, tree: Any) -> None:
    """Starts writing `tree` to `target/name`; returns once the device arrays are not needed."""
    if (self.apart or jax.process_index() == 0) and (target / name).exists():
      shutil.rmtree(target / name)
      if self.apart:
        storage.push()  # it goes from the store, too, before others write there
    if self.apart:
      barrier(TOPIC)
      self._orbax.save(target / name, args=ocp.args.PyTreeSave(tree))
    else:
      self._orbax.save(target / name, tree)

  def finish(self, target: Path, name: str) -> dict[str, str]:
    """Waits until it is whole; returns the sha256 sum of every file, by its name in `target/name`.

    Hosts that are apart have brought their parts to the store then, but for the first, whose files
    are pushed as all others are.
    """
    self._orbax.wait_until_finished()
    folder = target / name
    if not self.apart:
      return manifest(folder) if jax.process_index() == 0 else {}
    host = jax.process_index()
    sums = [json.loads(text) for text in exchange(json.dumps(manifest(folder)), TOPIC)]
    whole = {k: v for one in reversed(sums) for k, v in one.items()}  # of the first that has it
    mine = sums[host].keys() - {k for one in sums[:host] for k in one}
    for extra in sums[host].keys() - mine:  # as the first host has written it, too
      (folder / extra).unlink()
    versions = storage.give(folder, mine) if host else {}
    for text in exchange(json.dumps(versions), TOPIC)[1:]:
      if host == 0:
        storage.given(folder, json.loads(text))
    return whole


def _apart() -> ocp.AsyncCheckpointer:
  """Of hosts each of which has a folder of its own."""
  from orbax.checkpoint import type_handlers

  handler = type_handlers.ArrayHandler(primary_host=None, array_metadata_store=None)
  options = ocp.options.MultiprocessingOptions(primary_host=None)
  pytree = ocp.PyTreeCheckpointHandler(
    use_ocdbt=False,
    multiprocessing_options=options,
    type_handler_registry=type_handlers.create_type_handler_registry((jax.Array, handler)),
  )
  return ocp.AsyncCheckpointer(pytree, multiprocessing_options=options)
