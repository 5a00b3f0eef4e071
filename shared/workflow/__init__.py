"""What `make` runs: finding out what is stale, executing, accepting and validating notebooks. Notebooks never import it."""

import sys

# Spares each notebook 2.5 s: jsonschema (behind nbformat) checks internationalised addresses, of which a notebook has none,
# where it can import this, and the import builds their grammar.
sys.modules.setdefault("rfc3987_syntax", None)
