#!/usr/bin/env python3
"""Searches the vectors of `atom-bench search` with faiss.

    target/release/atom-bench search --peer "python3 models/peer_search.py [INDEX]"

INDEX is one of faiss's factory strings, Flat (an exact scan in f32) when absent; HNSW32 is a graph, which takes minutes to
build for a million vectors. One thread. `python3 models/setup.py bench` installs faiss. The job comes as JSON in the last argument.
"""

import json
import sys
import time

sys.dont_write_bytecode = True

import cache  # noqa: E402

cache.own_python("bench", "peers")

import faiss  # noqa: E402
import numpy as np  # noqa: E402


def main():
    job = json.loads(sys.argv[-1])
    kind = sys.argv[1] if len(sys.argv) > 2 else "Flat"
    faiss.omp_set_num_threads(1)
    vectors = np.fromfile(job["vectors"], "<f4").reshape(job["count"], job["dim"])
    queries = np.fromfile(job["queries"], "<f4").reshape(job["query_count"], job["dim"])
    # All are of unit length, so that the largest inner product is the nearest.
    index = faiss.index_factory(job["dim"], kind, faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    print(f"{kind}: built in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    found = [index.search(query[None], job["k"])[1][0].tolist() for query in queries]
    rounds = []
    for _ in range(job["rounds"]):
        ms = []
        for query in queries:
            start = time.perf_counter()
            index.search(query[None], job["k"])
            ms.append((time.perf_counter() - start) * 1e3)
        rounds.append(ms)
    # An index that finds fewer pads with -1, which is no vector.
    found = [[at for at in row if at >= 0] for row in found]
    print(json.dumps({"name": f"faiss {faiss.__version__} {kind}", "ms": rounds, "found": found}))


if __name__ == "__main__":
    main()
