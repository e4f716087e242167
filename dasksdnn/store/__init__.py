"""The on-disk format: a Zarr v3 hierarchy cut by part and window, sealed by a manifest that is written last."""
