"""What recourse methods share: a table that knows its features, a problem to solve on it, and the measures of an answer."""
