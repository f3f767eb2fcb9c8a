"""Several prover hosts behind one miner: which host proves what, what one says of itself, and Dask between them.

    miner_session ──> MultiHostPool ── placement.plan (pure) ──> LocalHost ──> ProverPool          this host
                                                          └──> DaskHost ══ TLS ══> ProverActor      another host
                                                                                  └──> ProverService ──> ProverPool

Only the modules `dask_…` import `distributed`, and only when they are used: the rest works with any engine.
"""

__all__ = ["certificates", "dask_client", "dask_server", "open_pool", "status"]
