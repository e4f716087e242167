"""The page /sdnn on a Dask scheduler's dashboard, and its panels among JupyterLab's Dask buttons.

One setting, where the scheduler starts, adds it (in a file of ~/.config/dask, or by an environment variable,
``DASK_DISTRIBUTED__SCHEDULER__PRELOAD=dasksdnn.dashboard``)::

    distributed:
      scheduler:
        preload: [dasksdnn.dashboard]

or one call does, on a scheduler that runs: `register`.
"""

from __future__ import annotations

from typing import Any


def register(client: Any = None) -> str:
    """Add the page to a running scheduler: a LocalCluster's, one of dask-jobqueue's, any other.

    Runs that begin afterwards are drawn. Once is enough: more calls change nothing.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current one. dasksdnn and Bokeh have to be installed where the scheduler runs.

    Returns
    -------
    str
        Where the page is.

    Raises
    ------
    InputError
        There is no client.
    ClusterError
        The scheduler has no dashboard, or no Bokeh.

    Examples
    --------
    >>> from distributed import Client, LocalCluster
    >>> import dasksdnn.dashboard
    >>> cluster = LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0")
    >>> with cluster, Client(cluster) as client:
    ...     dasksdnn.dashboard.register(client).endswith("/sdnn")
    True
    """
    from dasksdnn.engines.cluster.workers import find_client

    client = find_client(client)
    refused = client.run_on_scheduler(_install)
    if refused is not None:
        raise refused
    return str(client.dashboard_link).removesuffix("/status") + "/sdnn"


def dask_setup(scheduler: Any) -> None:
    """Add the page to a scheduler that starts: Dask calls this for the setting."""
    from dasksdnn.diagnostics.dashboard.plugin import install

    install(scheduler)


async def _install(dask_scheduler: Any) -> Any:
    """On the scheduler, in its loop; gives an error that is to be expected, which Dask would log with all that led to it."""
    from dasksdnn.errors import DaskSDNNError

    try:
        dask_setup(dask_scheduler)
    except DaskSDNNError as error:
        return error
    return None
