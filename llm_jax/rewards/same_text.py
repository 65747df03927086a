"""1 where an answer is word for word the expected one: exact match, arXiv:1606.05250, sec. 6.1."""

from llm_jax.rewards.thoughts import said


def reward(answer: str, gold: str) -> float:
  """1.0 if the texts are the same but for case and white space, else 0.0."""
  return float(said(answer).answer.lower().split() == gold.lower().split())
