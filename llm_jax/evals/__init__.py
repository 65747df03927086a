"""Evaluations: `make(model, tokenizer, **hyper) -> (params) -> Metrics`."""
