//! Reads Secrets that hold passwords of routers: by name, so that a Role need allow nothing but `get` of those names.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::bgp::io::Secrets;

/// How often they are read: a watch would want a right to list.
const AGAIN: Duration = Duration::from_secs(30);
/// The same while one cannot be read.
const SOON: Duration = Duration::from_secs(5);
/// How long the API server may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The task that reads them.
#[derive(Debug)]
pub struct Keys {
    wanted: watch::Sender<BTreeSet<String>>,
    task: JoinHandle<()>,
}

impl Keys {
    /// Reads what is wanted in the namespace, now and again.
    #[must_use]
    pub fn start(client: &Client, namespace: Option<&str>, secrets: Secrets) -> Self {
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        let api = Api::namespaced(client.clone(), &namespace);
        let (wanted, names) = watch::channel(BTreeSet::new());
        Self { wanted, task: tokio::spawn(run(api, namespace, names, secrets)) }
    }

    /// These are wanted from now on.
    pub fn want(&self, names: BTreeSet<String>) {
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != names;
            *wanted = names;
            differs
        });
    }

    /// Ends it.
    pub async fn end(self) {
        self.task.abort();
        // Cancelled, as it was told.
        drop(self.task.await);
    }
}

async fn run(
    api: Api<Secret>,
    namespace: String,
    mut names: watch::Receiver<BTreeSet<String>>,
    secrets: Secrets,
) {
    let mut failing: BTreeSet<String> = BTreeSet::new();
    loop {
        let wanted = names.borrow_and_update().clone();
        secrets.keep(|name| wanted.contains(name));
        failing.retain(|name| wanted.contains(name));
        for name in &wanted {
            let answer = timeout(ANSWER, api.get(name)).await;
            let is_known = secrets.has(name);
            let known = match answer.unwrap_or(Err(kube::Error::Service("no answer".into()))) {
                Ok(secret) => Ok(values(secret)),
                Err(error) => match why(&error, &namespace) {
                    // What is known stays while the API server is away.
                    Fault::Away(_) if is_known => continue,
                    Fault::Away(why) | Fault::Refused(why) => Err(why),
                },
            };
            match &known {
                Err(why) if failing.insert(name.clone()) => {
                    warn!(secret = name, "the password of a router cannot be read: {why}");
                }
                Ok(_) if failing.remove(name) => info!(secret = name, "the password of a router is there"),
                _ => {}
            }
            secrets.put(name, known);
        }
        let pause = if failing.is_empty() { AGAIN } else { SOON };
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

fn values(secret: Secret) -> std::collections::BTreeMap<String, Vec<u8>> {
    secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
}

/// Why one is not read.
enum Fault {
    /// Nobody answers, or not now.
    Away(String),
    /// That is the answer.
    Refused(String),
}

fn why(error: &kube::Error, namespace: &str) -> Fault {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            Fault::Refused(format!("there is none in the namespace {namespace}"))
        }
        kube::Error::Api(status) if status.code == 403 => Fault::Refused(format!(
            "not allowed in the namespace {namespace}: name it in the Role xdp-lb-agent"
        )),
        other => Fault::Away(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_remedy_and_no_value() {
        let status =
            |code: u16| kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }));
        let said = |code| match why(&status(code), "xdp-lb-system") {
            Fault::Refused(why) => why,
            Fault::Away(_) => "away".to_owned(),
        };
        assert!(said(404).contains("xdp-lb-system") && said(403).contains("Role"));
        assert_eq!(said(503), "away");
    }

    #[test]
    fn values_are_the_secrets_bytes() {
        let secret: Secret =
            serde_json::from_value(serde_json::json!({ "data": { "leaf": "czNjcmV0" } })).unwrap();
        assert_eq!(values(secret)["leaf"], b"s3cret");
    }
}
