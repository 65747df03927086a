"""Job `sample`: continues prompts with a trained model and prints them."""

import sys
from typing import Any

import jax

from llm_jax import artifact
from llm_jax.find import call
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete
from llm_jax.types import BadInput


def main(config: Any) -> None:
  """Prints each of `config.prompts` with its continuation, or the answer of a chat model."""
  prompts = (config.prompts,) if isinstance(config.prompts, str) else tuple(config.prompts)
  if not prompts:
    raise BadInput('sample: no prompts; give --config.prompts="(\'Once upon a time\',)"')
  mesh = make_mesh(**config.mesh)
  with jax.set_mesh(mesh):
    made = artifact.load(config.artifact, mesh)
    if not made.model.shape.causal:
      raise BadInput(f'sample: {config.artifact!r} is a masked language model, it cannot continue')
    run = call(
      complete.make,
      config.sample,
      made.model,
      made.tokenizer,
      where='sample',
      prompts=prompts,
      offered={'template': made.template},
      seed=config.seed,
    )
    answers = run(made.params)
  bold, plain = ('\033[1m', '\033[0m') if sys.stdout.isatty() else ('', '')
  for prompt, answer in zip(prompts, answers, strict=True):
    gap = '\n' if made.template else ''
    print(f'{prompt}{gap}{bold}{answer}{plain}\n{"-" * 40}')
