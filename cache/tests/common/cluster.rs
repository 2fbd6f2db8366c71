//! A real Redis Cluster of three masters.

use super::redis::{RedisServer, command, until};

pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub(crate) async fn start() -> Self {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-require-full-coverage",
            "no",
        ];
        let nodes: Vec<_> = (0..3).map(|_| RedisServer::with(&arguments)).collect();
        let mut create = command("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        let created = create.args(["--cluster-yes"]).output().unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            until("the nodes agree", async || {
                node.say(&["cluster", "info"]).contains("cluster_state:ok")
            })
            .await;
        }
        cluster
    }

    pub(crate) fn url(&self) -> String {
        self.nodes.iter().map(RedisServer::url).collect::<Vec<_>>().join(",")
    }

    /// The node that holds a key, as the slots were dealt out: in equal parts, in order.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let slot: usize = self.nodes[0].say(&["cluster", "keyslot", key]).parse().unwrap();
        (slot * 3 / 16_384).min(2)
    }
}
