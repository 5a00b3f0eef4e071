"""What `make` runs: finding out what is stale, executing, accepting and validating notebooks. Notebooks never import it."""
