"""Does transformers say of a folder that we exported what we say of the artifact?

python -m experiments.interop.transformers_peer ARTIFACT

Needs torch and transformers. The artifact is exported, loaded by AutoModelForCausalLM and
AutoTokenizer, and compared: logits of one row, the ids of hard texts with their begin, texts back
from ids, a conversation by the chat template. Warnings while it is loaded are counted.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_jax import artifact, main
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import chat, tokenizer_export

TURNS = [{'role': 'user', 'content': 'What is 2 + 2?'}, {'role': 'assistant', 'content': '4'}]


class Heard(logging.Handler):
  """Keeps what was warned of."""

  def __init__(self) -> None:
    super().__init__(logging.WARNING)
    self.lines: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    """See logging."""
    self.lines.append(record.getMessage())


def compare(source: str, folder: Path) -> None:
  """Prints what is the same."""
  import torch
  import transformers

  main.main(['', '--config=convert', '--config.source=', f'--config.artifact={source}',
             f'--config.workdir={folder}'])  # fmt: skip
  ours = artifact.load(source, make_mesh(data=1))
  heard = Heard()
  transformers.utils.logging.get_logger('transformers').addHandler(heard)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
  print('warnings:', [*heard.lines, *(str(w.message) for w in caught)] or 'none')
  size = ours.tokenizer.vocab_size
  ids = np.random.default_rng(0).integers(0, size, (1, 48))
  with torch.no_grad():
    theirs = model(torch.tensor(ids)).logits.float().numpy()
  worst = np.abs(theirs - np.asarray(ours.model.apply(ours.params, jnp.array(ids))[0])).max()
  print(f'logits to {worst:.1e}; stops {model.generation_config.eos_token_id}')
  texts = [t for t in tokenizer_export.HARD if not any(n in t for n in ours.tokenizer.specials)]
  same = [
    tokenizer(t).input_ids == [*ours.tokenizer.begin, *ours.tokenizer.encode(t)] for t in texts
  ]
  back = [
    tokenizer.decode(ours.tokenizer.encode(t)) == ours.tokenizer.decode(ours.tokenizer.encode(t))
    for t in texts
  ]
  print(f'ids of {sum(same)} of {len(texts)} hard texts, and {sum(back)} texts back from them')
  if tokenizer.chat_template:
    pieces = chat.pieces(TURNS, template=chat.find_template(chat.FOLDER, ours.tokenizer))
    wanted, _ = chat.encode(ours.tokenizer, pieces)
    print('conversation:', tokenizer.apply_chat_template(TURNS, return_dict=False) == wanted)


if __name__ == '__main__':
  try:
    import transformers  # noqa: F401
  except ImportError:
    sys.exit("skipped: needs transformers; pip install 'llm_jax[bench]'")
  with tempfile.TemporaryDirectory() as place:
    compare(sys.argv[1], Path(place) / 'out')
