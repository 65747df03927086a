"""`python -m llm_jax` is `python -m llm_jax.main`."""

from llm_jax.main import command

if __name__ == '__main__':
  command()
