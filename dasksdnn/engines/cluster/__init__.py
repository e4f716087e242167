"""The Dask engine: all that needs `distributed`."""
