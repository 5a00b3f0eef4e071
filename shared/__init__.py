"""The small utility package that the replications share. It never imports `replications`."""
