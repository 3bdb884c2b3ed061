//! Keys that a cluster's Secrets hold: put here by whoever reads them, taken when a router is dialled. They are shown nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::bgp::settings::SecretKey;

/// How long a connection waits for a Secret that nobody has read yet.
const ANSWER: Duration = Duration::from_secs(5);

/// What is known of one Secret: its values by key, or why it cannot be read.
pub type Known = Result<BTreeMap<String, Vec<u8>>, String>;

/// Secrets by name. Clones are of the same.
#[derive(Clone, Default)]
pub struct Secrets(Arc<watch::Sender<BTreeMap<String, Known>>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.borrow().keys()).finish()
    }
}

impl Secrets {
    /// A Secret has been read, or cannot be.
    pub fn put(&self, name: &str, known: Known) {
        self.0.send_modify(|all| _ = all.insert(name.to_owned(), known));
    }

    /// Whether its values are known.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.borrow().get(name).is_some_and(Result::is_ok)
    }

    /// Waits until something is known of all of these, be it that they cannot be read.
    #[cfg(test)]
    pub(crate) async fn told(&self, names: &[&str]) {
        drop(self.0.subscribe().wait_for(|all| names.iter().all(|name| all.contains_key(*name))).await);
    }

    /// Forgets all that are not `wanted`.
    pub fn keep(&self, wanted: impl Fn(&str) -> bool) {
        self.0.send_modify(|all| all.retain(|name, _| wanted(name)));
    }

    /// The value, without an end of line.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn get(&self, wanted: &SecretKey) -> Result<Vec<u8>, String> {
        let SecretKey { name, key } = wanted;
        let mut known = self.0.subscribe();
        let read = timeout(ANSWER, known.wait_for(|all| all.contains_key(name))).await;
        let Ok(Ok(all)) = read else { return Err(format!("Secret {name} has not been read yet")) };
        let mut value = match &all[name] {
            Err(why) => return Err(format!("read Secret {name}: {why}")),
            Ok(values) => {
                values.get(key).cloned().ok_or_else(|| format!("Secret {name} has no key {key}"))?
            }
        };
        while matches!(value.last(), Some(b'\n' | b'\r')) {
            value.pop();
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_waited_for_and_shown_nowhere() {
        let secrets = Secrets::default();
        let wanted = SecretKey { name: "bgp".into(), key: "password".into() };
        let later = secrets.clone();
        // Polled second: the first waits by then.
        let asked = async { later.put("bgp", Ok([("password".to_owned(), b"s3cret\n".to_vec())].into())) };
        let (got, ()) = tokio::join!(secrets.get(&wanted), asked);
        assert_eq!(got.unwrap(), b"s3cret");
        assert_eq!((secrets.has("bgp"), format!("{secrets:?}").as_str()), (true, "[\"bgp\"]"));
        let other = SecretKey { key: "other".into(), ..wanted.clone() };
        assert_eq!(secrets.get(&other).await.unwrap_err(), "Secret bgp has no key other");
        secrets.put("bgp", Err("not found".into()));
        assert_eq!(secrets.get(&wanted).await.unwrap_err(), "read Secret bgp: not found");
        secrets.keep(|name| name != "bgp");
        assert!(!secrets.has("bgp") && format!("{secrets:?}") == "[]");
    }
}
