//! One member of a cluster: how it is started, and its process while it runs.

use std::time::Duration;

use crate::client::{CallError, Client};
use crate::launch::Launch;
use crate::pb::etcdserverpb as pb;
use crate::server::{Exit, Server};
use crate::work_dir::WorkDir;

/// A call that asks a member how it is.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

pub struct Member {
    pub launch: Launch,
    /// Its last process, which may have been killed; none before the first start and after an end of its own.
    server: Option<Server>,
}

impl Member {
    /// The binary under test, with this name and a data directory of that name.
    pub fn new(work: &WorkDir, name: &str) -> Self {
        Self { launch: Launch::new(work.join(name)).named(name), server: None }
    }

    pub(crate) fn started(launch: Launch, server: Server) -> Self {
        Self { launch, server: Some(server) }
    }

    pub(crate) fn runs_as(&mut self, server: Server) {
        self.server = Some(server);
    }

    pub fn name(&self) -> &str {
        &self.launch.name
    }

    pub fn peer_url(&self) -> String {
        self.launch.peer_url()
    }

    pub fn client_url(&self) -> String {
        self.launch.client_url()
    }

    /// How it is started as one of `members`, in this `--initial-cluster-state`.
    pub fn with(&self, state: &str, members: &[&Self]) -> Launch {
        let mut launch = self.launch.clone().flag(format!("--initial-cluster-state={state}"));
        launch.initial_cluster = Some(Launch::listed(members.iter().map(|member| &member.launch)));
        launch
    }

    /// Whether it was started and neither killed nor found to have ended.
    pub fn runs(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.has_ended())
    }

    /// Whether it was started and has not been found to have ended by itself.
    pub(crate) fn was_started(&self) -> bool {
        self.server.is_some()
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the member was started")
    }

    pub fn server_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("the member was started")
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        self.server().connect().await
    }

    /// Starts it and waits for nothing. What is left of an earlier process is killed.
    pub fn spawn(&mut self) -> &mut Server {
        let launch = self.launch.clone();
        self.spawn_as(&launch)
    }

    /// The same, this time in another way.
    pub fn spawn_as(&mut self, launch: &Launch) -> &mut Server {
        // Before the new process asks for its ports.
        self.server = None;
        self.server.insert(launch.spawn())
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) {
        let launch = self.launch.clone();
        self.start_as(&launch).await;
    }

    /// The same, this time in another way.
    pub async fn start_as(&mut self, launch: &Launch) {
        self.spawn_as(launch);
        self.wait_ready().await;
    }

    pub async fn wait_ready(&mut self) {
        let ready = self.server_mut().wait_ready().await;
        ready.unwrap_or_else(|why| panic!("{}: {why}", self.name()));
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        self.server_mut().kill();
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self) -> Exit {
        self.server.take().expect("the member was started").terminate().await
    }

    /// Waits until it has ended by itself.
    pub async fn wait_exit(&mut self) -> Exit {
        let exit = self.server_mut().wait_exit().await;
        self.server = None;
        exit
    }

    /// What it has written since its last start.
    pub fn output(&self) -> String {
        self.server.as_ref().map(Server::output).unwrap_or_default()
    }

    /// A call that is given up soon, on a connection of its own: for members that may be frozen or gone.
    pub async fn probe<T>(
        &self,
        call: impl AsyncFnOnce(Client) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let call = async { call(Client::connect(self.launch.client_port).await?).await };
        tokio::time::timeout(PROBE_DEADLINE, call).await.unwrap_or(Err(CallError::Deadline))
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, CallError> {
        self.probe(async |client| client.status().await).await
    }
}
