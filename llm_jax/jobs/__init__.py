"""What `--config.job` runs. Only jobs read a config."""
