"""Changes of a store that many ranks make together: each writes what it holds, rank 0 makes it count."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.shares import Share
from dasksdnn.engines.transport import gather, tell
from dasksdnn.store.checkpoints import Values, changing, replace_manifest, write_state
from dasksdnn.store.reader import Store, reopen
from dasksdnn.training.rewriting import with_attributes


def commit_together(store: Store, grid: Grid, share: Share, values: Values, extra: list[str], **how: Any) -> Store:
    """Commit what every rank writes of its own parts; replicas share the work. See `store.checkpoints.commit`."""
    transport = grid.transport
    leads, committed = transport.rank == 0, store
    with changing(store) if leads else nullcontext(0) as number:
        generation = tell(transport, number)
        held = [w for w in store.iter_windows() if w.part in share.parts]
        mine = held[grid.replica :: grid.replicas]
        written = [write_state(store, w, generation, values, extra) for w in mine]
        windows = [w for rank in gather(transport, written) for w in rank]
        if leads:
            committed = replace_manifest(store, windows, **how)
    return agreed(grid, committed)


def agreed(grid: Grid, store: Store) -> Store:
    """Rank 0's store, opened at every rank."""
    digest = tell(grid.transport, store.digest)
    return store if grid.transport.rank == 0 else reopen(str(store.path), digest)


def return_to(store: Store, best: Store, **how: Any) -> Store:
    with changing(store):
        return replace_manifest(with_attributes(store, best.manifest.attributes), best.manifest.windows, **how)


def replace_record(store: Store, **how: Any) -> Store:
    """Replace what the manifest says of training, and nothing else."""
    with changing(store):
        return replace_manifest(store, store.manifest.windows, **how)
