"""Functions that write into the batch before the step what another model or program knows."""
