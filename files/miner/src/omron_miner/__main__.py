"""``python -m omron_miner``: the same commands as ``omron-miner``."""

from omron_miner.cli import main

if __name__ == "__main__":
    main()
