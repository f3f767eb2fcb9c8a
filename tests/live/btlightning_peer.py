"""The real btlightning as the other side; run by a Python 3.12 that has it, not by pytest.

btlightning_peer.py server PORT SEED HOTKEY open|permits   serves until it is killed
btlightning_peer.py client PORT SEED HOTKEY MINER          asks a miner once, prints the answer as JSON
"""

from __future__ import annotations

import json
import sys

from btlightning import RustLightning, RustLightningServer  # type: ignore[import-not-found]


def serve(port: str, seed: str, hotkey: str, who: str) -> None:
    server = RustLightningServer(hotkey, "127.0.0.1", int(port), require_validator_permit=who == "permits")
    server.set_miner_keypair(list(bytes.fromhex(seed)))
    server.register_synapse_handler("dsperse-proof-generation", lambda data: data)
    if who == "permits":
        server.set_validator_permit_resolver(lambda: {"nobody"})
    server.start()
    print("listening", flush=True)
    server.serve_forever()


def ask(port: str, seed: str, hotkey: str, miner: str) -> None:
    client = RustLightning(hotkey)
    client.set_validator_keypair(list(bytes.fromhex(seed)))
    axon = {"hotkey": miner, "ip": "127.0.0.1", "port": int(port), "protocol": 4}
    client.initialize_connections([axon])
    data = {"circuit": "1" * 64, "slice_num": "slice_1", "component_sha": "2" * 64, "inputs": {"input_data": [1.0]}}
    answer = client.query_axon(axon, {"synapse_type": "dsperse-proof-generation", "data": data}, timeout_secs=10.0)
    print(json.dumps({"success": answer["success"], "error": answer.get("error"), "data": sorted(answer["data"])}))
    client.close_all_connections()


{"server": serve, "client": ask}[sys.argv[1]](*sys.argv[2:])
