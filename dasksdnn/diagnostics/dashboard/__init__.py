"""The page /sdnn of a Dask scheduler's dashboard: what is kept of runs, and the panels that draw it."""
