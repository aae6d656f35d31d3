"""`python -m tests.cluster.nodes COUNT`: a Ray cluster of nodes with a core each, on this machine.

Prints its address, and ends when its standard input is closed.
"""

import sys

from ray.cluster_utils import Cluster


def main(count: int) -> None:
    """Run the cluster."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(count - 1):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
