"""A Ray cluster in a process of its own, for tests: a head without processors, so that no task runs
there, and nodes of one processor each. Prints its address; ``kill N`` on stdin ends a node without a
word, the end of stdin all of them. (Ray leaves handles behind that the suite would take for leaks.)"""

import importlib
import sys

MEMORY = 80 * 2**20


def main(count: int) -> None:
    cluster_utils = importlib.import_module("ray.cluster_utils")
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(count)]
    print(f"address {cluster.address}", flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line.split()[1])], allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
