//! Connections, to one Redis or to a cluster.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
    from_redis_value,
};

/// How long it may take to connect, and to be answered where no query waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Where Redis is.
pub(super) enum Target {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

impl Target {
    pub(super) fn new(addresses: &[ConnectionInfo]) -> RedisResult<Self> {
        match addresses {
            [one] => Ok(Self::One(Box::new(Client::open(one.clone())?))),
            nodes => {
                let cluster = ClusterClient::builder(nodes.iter().cloned())
                    .connection_timeout(PATIENCE)
                    .response_timeout(PATIENCE)
                    // Enough to follow a slot that has moved; the circuit is what waits.
                    .retries(2);
                Ok(Self::Cluster(Box::new(cluster.build()?)))
            }
        }
    }

    async fn connect(&self) -> RedisResult<Connection> {
        match self {
            Self::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(PATIENCE));
                let connection =
                    client.get_multiplexed_async_connection_with_config(&config).await?;
                Ok(Connection::One(connection))
            }
            Self::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
        }
    }
}

/// What is connected.
#[derive(Clone)]
pub(super) struct Link {
    /// Tells this link from those before it.
    pub(super) id: u64,
    /// Queries wait for what goes over this one.
    pub(super) reads: Connection,
    /// All else, which must not get in their way.
    pub(super) writes: Connection,
}

impl Link {
    pub(super) async fn open(target: &Target, id: u64) -> RedisResult<Self> {
        let (reads, writes) = tokio::try_join!(target.connect(), target.connect())?;
        Ok(Self { id, reads, writes })
    }
}

/// A connection that many may use at once; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The servers that hold keys.
    pub(super) async fn masters(&mut self) -> RedisResult<Vec<Node>> {
        match self {
            Self::One(_) => Ok(vec![Node(None)]),
            Self::Cluster(_) => {
                let answers = self.all_masters(redis::cmd("PING")).await?;
                let node = |(address, _): (String, Value)| {
                    let (host, port) = address.rsplit_once(':')?;
                    Some(Node(Some((host.to_owned(), port.parse().ok()?))))
                };
                Ok(answers.into_iter().filter_map(node).collect())
            }
        }
    }

    /// Asks one of the masters.
    pub(super) async fn ask(&mut self, node: &Node, command: Cmd) -> RedisResult<Value> {
        match (self, &node.0) {
            (Self::Cluster(cluster), Some((host, port))) => {
                let to = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                cluster.route_command(command, RoutingInfo::SingleNode(to)).await
            }
            (connection, _) => command.query_async(connection).await,
        }
    }

    /// What each master says to a command, by its address.
    pub(super) async fn all_masters(&mut self, command: Cmd) -> RedisResult<Vec<(String, Value)>> {
        match self {
            Self::One(_) => Ok(vec![(String::new(), command.query_async(self).await?)]),
            Self::Cluster(cluster) => {
                let to = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                Ok(from_redis_value(cluster.route_command(command, to).await?)?)
            }
        }
    }
}

/// A server that holds keys; `None`: the only one.
pub(super) struct Node(Option<(String, u16)>);

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}
