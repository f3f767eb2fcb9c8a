"""Several prover hosts behind one miner: placement, status reports, and the connection through Dask.

    miner_session ──> MultiHostPool ── placement.plan (pure) ──> LocalHost ──> ProverPool          this host
                                                          └──> DaskHost ══ TLS ══> ProverActor      another host
                                                                                  └──> ProverService ──> ProverPool

Only the modules `dask_…` import `distributed`, and only when they are used: the rest is independent of the engine.
"""

__all__ = ["certificates", "dask_client", "dask_server", "open_pool", "status"]
