//! Keeps a container registered with one front end: registers, beats, registers again when the
//! front end has forgotten it or was away, and deregisters at the end.

use std::time::Duration;

use skysail_proto::pb::v1::{self, registry_client::RegistryClient};
use tokio::sync::watch;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::status::code_name;

/// Between attempts to reach a front end that is away: at first, and at the most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A call to a front end takes no longer, a registration excepted: that tries the container.
const CALL: Duration = Duration::from_secs(5);
const REGISTER: Duration = Duration::from_secs(120);

/// How it stands with one front end.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It has not answered yet.
    Trying,
    /// It gives batches, to the container of that id.
    Registered(String),
    /// It refused, and why. It is asked again all the same.
    Refused(String),
}

/// Runs until `stop` is true; tells in `standing` how it stands. `drain`: how long the front end is
/// to let the container finish what it has, at the end.
pub async fn run(
    front_end: String,
    request: v1::RegisterRequest,
    drain: Duration,
    standing: watch::Sender<Standing>,
    mut stop: watch::Receiver<bool>,
) {
    let mut registrar = Registrar {
        front_end,
        request,
        standing,
        client: None,
        container: None,
        pause: PAUSE,
        said: String::new(),
    };
    let mut next = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        next = tokio::select! {
            next = registrar.step() => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
    }
    registrar.leave(drain).await;
}

struct Registrar {
    front_end: String,
    request: v1::RegisterRequest,
    standing: watch::Sender<Standing>,
    client: Option<RegistryClient<Channel>>,
    container: Option<String>,
    /// Before the next attempt after one that failed.
    pause: Duration,
    /// The trouble that was told, so that it is told once.
    said: String,
}

impl Registrar {
    /// Registers or beats; tells when to come again.
    async fn step(&mut self) -> Duration {
        let done = match self.container.clone() {
            None => self.register().await,
            Some(container) => self.beat(container).await,
        };
        match done {
            Ok(next) => {
                if !std::mem::take(&mut self.said).is_empty() {
                    tracing::info!(front_end = self.front_end, "the front end is there again");
                }
                self.pause = PAUSE;
                next
            }
            Err(status) => {
                self.trouble(&status);
                let pause = self.pause;
                self.pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        }
    }

    async fn register(&mut self) -> Result<Duration, Status> {
        let request = timed(self.request.clone(), REGISTER);
        let response = self.client()?.register(request).await?.into_inner();
        let lease = response.lease.and_then(|lease| Duration::try_from(lease).ok());
        tracing::info!(front_end = self.front_end, container = response.container_id, "registered");
        self.container = Some(response.container_id.clone());
        self.standing.send_replace(Standing::Registered(response.container_id));
        Ok(next_beat(lease))
    }

    async fn beat(&mut self, container_id: String) -> Result<Duration, Status> {
        let request = timed(v1::HeartbeatRequest { container_id }, CALL);
        let response = self.client()?.heartbeat(request).await?.into_inner();
        if !response.known {
            tracing::info!(front_end = self.front_end, "not known any more: registering again");
            self.container = None;
            return Ok(Duration::ZERO);
        }
        Ok(next_beat(response.lease.and_then(|lease| Duration::try_from(lease).ok())))
    }

    fn client(&mut self) -> Result<&mut RegistryClient<Channel>, Status> {
        if self.client.is_none() {
            let address = &self.front_end;
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
                Status::invalid_argument(format!("'{address}': expected HOST:PORT ({error})"))
            })?;
            let endpoint = endpoint.connect_timeout(CALL).tcp_nodelay(true);
            self.client = Some(RegistryClient::new(endpoint.connect_lazy()));
        }
        self.client.as_mut().ok_or_else(|| Status::internal("no client"))
    }

    fn trouble(&mut self, status: &Status) {
        let said = format!("{}: {}", code_name(status.code()), status.message());
        if is_refusal(status.code()) && self.container.is_none() {
            self.standing.send_replace(Standing::Refused(said.clone()));
        }
        if self.said != said {
            tracing::warn!(
                front_end = self.front_end,
                error = said,
                "the front end does not take the container; trying again"
            );
            self.said = said;
        }
    }

    async fn leave(mut self, drain: Duration) {
        let Some(container_id) = self.container.take() else { return };
        let request = v1::DeregisterRequest { container_id, drain: drain.try_into().ok() };
        let request = timed(request, drain + CALL);
        let left = match self.client() {
            Ok(client) => client.deregister(request).await.map(|_| ()),
            Err(status) => Err(status),
        };
        if let Err(status) = left {
            let error = status.message();
            tracing::warn!(front_end = self.front_end, error, "could not deregister");
        }
    }
}

/// Whether the same again would be refused again, unlike when nobody answers.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::AlreadyExists
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

/// A third of the lease. Without one a beat still tells when the front end has forgotten.
fn next_beat(lease: Option<Duration>) -> Duration {
    lease.map_or(LONGEST_PAUSE, |lease| lease / 3)
}

fn timed<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}
