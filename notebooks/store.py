"""Runs notebooks from top to bottom and stores what they show, with the extra `test`.

python notebooks/store.py train loss
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
INLINE = 'module://matplotlib_inline.backend_inline'  # pictures appear below their cell


def run(
  path: Path, folder: Path, environ: Mapping[str, str], settings: str = ''
) -> nbformat.NotebookNode:
  """A notebook with the outputs of a kernel of its own; raises what a cell raises.

  Args:
    path: of the notebook.
    folder: the working directory of the kernel.
    environ: of the kernel.
    settings: code that runs after the cell with the tag `parameters`; it is not kept.
  """
  notebook = nbformat.read(path, as_version=4)
  about = dict(notebook.metadata)
  if settings:
    tags = [cell.metadata.get('tags', []) for cell in notebook.cells]
    place = next(i for i, of_cell in enumerate(tags) if 'parameters' in of_cell) + 1
    notebook.cells.insert(place, nbformat.v4.new_code_cell(settings))
  NotebookClient(
    notebook,
    timeout=None,
    kernel_name='python3',
    resources={'metadata': {'path': str(folder)}},
    record_timing=False,  # moments would differ each time
    coalesce_streams=True,
  ).execute(env={**environ, 'MPLBACKEND': INLINE})
  if settings:
    del notebook.cells[place]
  notebook.metadata = nbformat.from_dict(about)  # without the Python that ran it
  return notebook


def main() -> None:
  """Each of the notebooks that are named, one after the other."""
  names = sorted(path.stem for path in HERE.glob('*.ipynb'))
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('names', nargs='+', choices=names)
  for name in parser.parse_args().names:
    path = HERE / f'{name}.ipynb'
    nbformat.write(run(path, HERE, os.environ), path)


if __name__ == '__main__':
  main()
