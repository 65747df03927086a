"""What an answer is worth: plain functions `reward(answer, gold, **hyper) -> float`."""
