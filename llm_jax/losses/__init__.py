"""One loss a file: `loss_fn(params, batch, rng, *, model, **hyper) -> (Mean, Metrics)`."""
