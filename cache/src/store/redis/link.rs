//! Connections, to one Redis or to a cluster.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, Pipeline, RedisFuture,
    RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
    from_redis_value,
};

/// How long the cache waits for a connection, and for an answer where no query waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What can be connected to: one Redis, or a cluster.
#[derive(Clone)]
pub struct RedisTarget {
    kind: Kind,
    patience: Duration,
}

#[derive(Clone)]
enum Kind {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// Without the address, in which a password may stand.
impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTarget").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl RedisTarget {
    pub(super) fn new(addresses: &[ConnectionInfo], patience: Duration) -> RedisResult<Self> {
        let kind = match addresses {
            [one] => Kind::One(Box::new(Client::open(one.clone())?)),
            nodes => {
                let cluster = ClusterClient::builder(nodes.iter().cloned())
                    .connection_timeout(patience)
                    .response_timeout(patience)
                    // Enough to follow a slot that has moved; waiting is the caller's matter.
                    .retries(2);
                Kind::Cluster(Box::new(cluster.build()?))
            }
        };
        Ok(Self { kind, patience })
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// None can be had within the deadline.
    pub async fn connect(&self) -> RedisResult<RedisConnection> {
        match &self.kind {
            Kind::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(self.patience))
                    .set_response_timeout(Some(self.patience));
                let connection =
                    client.get_multiplexed_async_connection_with_config(&config).await?;
                Ok(RedisConnection(Shared::One(connection)))
            }
            Kind::Cluster(client) => {
                Ok(RedisConnection(Shared::Cluster(client.get_async_connection().await?)))
            }
        }
    }
}

/// What is connected.
#[derive(Clone)]
pub(super) struct Link {
    /// Tells this link from those before it.
    pub(super) id: u64,
    /// Queries wait for what goes over this one.
    pub(super) reads: RedisConnection,
    /// All else, which must not get in their way.
    pub(super) writes: RedisConnection,
}

impl Link {
    pub(super) async fn open(target: &RedisTarget, id: u64) -> RedisResult<Self> {
        let (reads, writes) = tokio::try_join!(target.connect(), target.connect())?;
        Ok(Self { id, reads, writes })
    }
}

/// A connection that many may use at once; clones share it.
#[derive(Clone)]
pub struct RedisConnection(Shared);

#[derive(Clone)]
enum Shared {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").field("cluster", &self.is_cluster()).finish()
    }
}

impl RedisConnection {
    /// Whether it is to a cluster: then it mends itself, and each command goes to its node.
    pub fn is_cluster(&self) -> bool {
        matches!(self.0, Shared::Cluster(_))
    }

    /// Sends commands as one pipeline, or in a cluster each to its node, and waits for what each
    /// comes to.
    ///
    /// # Errors
    ///
    /// The connection failed.
    pub async fn send<T: FromRedisValue>(
        &mut self,
        commands: Vec<Cmd>,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        if self.is_cluster() {
            let one = |command: Cmd| {
                let mut connection = self.clone();
                async move { command.query_async::<T>(&mut connection).await }
            };
            return Ok(futures::future::join_all(commands.into_iter().map(one)).await);
        }
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.ignore_errors();
        for command in commands {
            pipeline.add_command(command);
        }
        pipeline.query_async(self).await
    }

    /// The servers that hold keys.
    pub(super) async fn masters(&mut self) -> RedisResult<Vec<Node>> {
        match self.0 {
            Shared::One(_) => Ok(vec![Node(None)]),
            Shared::Cluster(_) => {
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
        match (&mut self.0, &node.0) {
            (Shared::Cluster(cluster), Some((host, port))) => {
                let to = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                cluster.route_command(command, RoutingInfo::SingleNode(to)).await
            }
            _ => command.query_async(self).await,
        }
    }

    /// What each master says to a command, by its address.
    ///
    /// # Errors
    ///
    /// One of them did not answer, or with an error.
    pub async fn all_masters(&mut self, command: Cmd) -> RedisResult<Vec<(String, Value)>> {
        match &mut self.0 {
            Shared::One(_) => Ok(vec![(String::new(), command.query_async(self).await?)]),
            Shared::Cluster(cluster) => {
                let to = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                Ok(from_redis_value(cluster.route_command(command, to).await?)?)
            }
        }
    }
}

/// A server that holds keys; `None`: the only one.
pub(super) struct Node(Option<(String, u16)>);

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Shared::One(one) => one.req_packed_command(cmd),
            Shared::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Shared::One(one) => one.req_packed_commands(pipeline, offset, count),
            Shared::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Shared::One(one) => one.get_db(),
            Shared::Cluster(cluster) => cluster.get_db(),
        }
    }
}
