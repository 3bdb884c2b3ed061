//! `xdp-lb controller`: addresses and status of Services of a Kubernetes cluster.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

use crate::{
    agent::log,
    kube::{
        self, CLASS,
        controller::{Controller, Judge, Settings},
        io::{Candidate, Pace, Standing},
    },
    model::{Delivery, Log, LogFormat, LogLevel},
    scrape,
};

/// Arguments of `controller`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How the API server is reached. In a pod: leave it out, the service account is used
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease; without it the pod's own, or that of the kubeconfig
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// Lease that says who of several controllers writes
    #[arg(long, value_name = "NAME", default_value = "xdp-lb-controller")]
    lease: String,
    /// A controller that has not renewed the Lease for so many seconds leads no more
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=3600))]
    lease_duration: u64,
    /// This controller's name, that no other has; without it the host's name
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// Services of this loadBalancerClass
    #[arg(long, value_name = "CLASS", default_value = CLASS)]
    load_balancer_class: String,
    /// Services without a loadBalancerClass, too
    #[arg(long)]
    classless: bool,
    /// What the edge nodes' `kubernetes.delivery` says
    #[arg(long, value_name = "WHERE", default_value = "node")]
    delivery: Where,
    /// Where /healthz, /readyz and /metrics answer; without it nowhere
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Form of the log
    #[arg(long, value_name = "FORM", default_value = "text")]
    log_format: Form,
}

/// `--delivery`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Where {
    /// Tunnels end at the node, the service proxy takes over
    Node,
    /// Tunnels end at the pod, whose node translates
    Pod,
    /// Pods with hostNetwork listen on the VIP
    Host,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// For people
    Text,
    /// For machines
    Json,
}

/// Runs until it is told to end.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = match args.log_format {
        Form::Text => LogFormat::Text,
        Form::Json => LogFormat::Json,
    };
    log::init(&Log { format, level: LogLevel::Info });
    super::runtime()?.block_on(until_signal(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn until_signal(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    // Who cannot listen says so before anything is asked.
    let listener = args.listen.map(|address| scrape::bind("--listen", address)).transpose()?;
    let client = kube::io::client(args.kubeconfig.as_deref()).await?;
    let host = || {
        let name =
            nix::unistd::gethostname().context("ask for the host's name; --identity names this controller");
        Ok::<_, anyhow::Error>(name?.to_string_lossy().into_owned())
    };
    let candidate = Candidate {
        namespace: args.namespace.unwrap_or_else(|| client.default_namespace().to_owned()),
        lease: args.lease,
        identity: args.identity.map_or_else(host, Ok)?,
        duration: Duration::from_secs(args.lease_duration),
    };
    let delivery = match args.delivery {
        Where::Node => Delivery::Node,
        Where::Pod => Delivery::Pod,
        Where::Host => Delivery::Host,
    };
    let cluster = kube::Settings {
        class: args.load_balancer_class,
        classless: args.classless,
        delivery,
        hints_for: None,
        own: None,
        reaches_own: false,
    };
    let judge = Judge::new()
        .map_err(|errors| anyhow::anyhow!("the judge's own file: {errors:?}; please report this"))?;
    let controller = Controller::new(Settings { cluster }, judge);
    info!(?candidate, class = controller.class(), "controller starts");
    let (end, ended) = watch::channel(false);
    let standing = watch::Sender::new(Standing::default());
    if let Some(listener) = listener {
        let (source, ended) = (Arc::new(standing.subscribe()), ended.clone());
        tokio::spawn(scrape::serve(listener, source, ended));
    }
    let work = kube::io::steer(&client, controller, candidate, Pace::default(), standing, ended);
    tokio::pin!(work);
    tokio::select! {
        outcome = &mut work => return outcome.context("renew the Lease: the task has died"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("told to end: gives the Lease back");
    end.send_replace(true);
    work.await.context("renew the Lease: the task has died")
}
