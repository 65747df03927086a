"""From logits to tokens: how to pick one, and the loop that generates."""
