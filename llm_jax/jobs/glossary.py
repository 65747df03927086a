"""What the words of a pipeline's report mean, for somebody who knows none of them."""

import re
from collections.abc import Iterable

# What a reader may not know: how the word is written, and what it means.
WORDS = {
  'stage': 'One part of the work. It starts from what an earlier stage left, and leaves a model, '
  'a text or a list for the next.',
  'token': 'A piece of text, such as a word, a part of one or a digit. A model reads tokens, and '
  'writes one token after the other.',
  'parameters': 'The numbers that a model is made of. Training changes them a little, many times.',
  'update': 'One such change: the model sees some rows of text, and its parameters move to where '
  'it would have predicted them better.',
  'held out': 'Kept away from training, so that nobody can know it by heart.',
  'loss': 'How wrong the model is on what it is trained on; lower is better.',
  'bits per byte': 'How much a text surprises the model: the bits it would need to store each byte '
  'of it. A byte has 8 bits, so 8 is a blind guess; lower is better.',
  'sampled': 'Each token is drawn at random, likely ones more often. The temperature says how '
  'freely: 0 always takes the likeliest token, which is also called greedy.',
  'base': 'A model that has only learnt to continue text.',
  'chat model': 'A model that has been shown conversations, and answers.',
  'SFT': 'Supervised fine-tuning: training on conversations whose answers somebody wrote.',
  'PPO': 'Proximal policy optimisation: the model tries answers, and those that get a better '
  'reward than expected become more likely.',
  'GRPO': 'Group relative policy optimisation: several answers to one question are compared, and '
  'those above the mean of their group become more likely.',
  'DPO': 'Direct preference optimisation: the better of two answers becomes more likely, the other '
  'one less, without a reward model in between.',
  'rollout': 'An answer that the model tried in training, with what it got for it.',
  'reward': 'The number by which an answer is judged in training; higher is better.',
  'reward model': 'A model that gives an answer a number for how good it seems. It has learnt that '
  'from pairs of answers of which one was preferred, and it can be wrong.',
  'KL': 'Kullback-Leibler divergence: how far a model has moved from another one, here from the '
  'first chat model, in nats an answer. 0 is the same model.',
  'nats': 'A measure of surprise, as bits are: one nat is 1.44 bits.',
  'expected answer': 'The answer that counts as right, also called gold.',
  'interval': 'In brackets behind a number. Had other questions of the same kind been asked, the '
  'number would lie in such an interval 95 times of 100.',
  'FLOPs': 'Multiplications and additions of numbers. GFLOP/s are billions of them in a second.',
  'MFU': 'Model FLOPs utilisation: the share of what the device can compute at best.',
}


PLURAL = ('parameters', 'nats', 'FLOPs')  # words that are used in the singular as well


def words(texts: Iterable[str]) -> list[list[str]]:
  """The words of WORDS that some texts use, and what they mean; and those that these use."""
  said, found = ' '.join(texts), {}
  while new := [w for w in WORDS if w not in found and _uses(said, w)]:
    found |= {word: WORDS[word] for word in new}
    said = ' '.join(WORDS[word] for word in new)
  return [[word, WORDS[word]] for word in WORDS if word in found]


def _uses(text: str, word: str) -> bool:
  single = word.removesuffix('s') if word in PLURAL else word
  return bool(re.search(rf'\b{re.escape(single)}s?\b', text, re.IGNORECASE))
