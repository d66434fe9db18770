"""Parts of the schema of configs: what every run has stands in `mkd.config.schema`."""
