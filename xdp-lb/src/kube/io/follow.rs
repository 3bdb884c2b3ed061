//! One kind of object, followed for ever: watch lists where the API server has them, else lists and watches.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Error, Event, InitialListStrategy, watcher};
use kube::{Api, Resource};
use tokio::time::Instant;

use super::feed::Pace;

/// A watch that says nothing for so long is begun again where it was, so a connection that died silently is noticed.
const WATCH_SECONDS: u32 = 60;

/// Events of all objects of a kind that the labels select. Errors are told and tried again after a pause that grows.
pub(super) fn follow<K>(
    api: Api<K>,
    labels: Option<&str>,
    pace: Pace,
) -> BoxStream<'static, Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_as(api, Config { label_selector: labels.map(str::to_owned), ..Config::default() }, pace)
}

/// The same of objects that a configuration selects.
pub(super) fn follow_as<K>(
    api: Api<K>,
    config: Config,
    pace: Pace,
) -> BoxStream<'static, Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(WATCH_SECONDS);
    let streaming = Config { initial_list_strategy: InitialListStrategy::StreamingList, ..config.clone() };
    let first = begin(api.clone(), streaming, pace);
    let state = (first, Some((api, config)));
    futures::stream::unfold(state, move |(mut stream, mut fallback)| async move {
        let event = stream.next().await?;
        if let Err(error) = &event
            && is_unknown(error)
            && let Some((api, config)) = fallback.take()
        {
            stream = begin(api, config, pace);
        }
        Some((event, (stream, fallback)))
    })
    .boxed()
}

fn begin<K>(api: Api<K>, config: Config, pace: Pace) -> BoxStream<'static, Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).backoff(Pauses { pace, next: pace.retry, last: None }).boxed()
}

/// Pauses after errors: they double, and begin again after a while without one. A success alone means little: a watcher
/// also tells that it is about to ask for a list.
struct Pauses {
    pace: Pace,
    next: Duration,
    last: Option<Instant>,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.replace(now).is_none_or(|last| now - last > self.pace.retry_limit * 2) {
            self.next = self.pace.retry;
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.pace.retry_limit);
        // Edge nodes that lost the API server together do not come back together.
        let part = RandomState::new().hash_one(()) % 512;
        Some(pause / 2 + pause * u32::try_from(part).unwrap_or_default() / 1024)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {}
}

/// The API server does not know watch lists (before 1.27), or they are off: it says that the request is wrong.
fn is_unknown(error: &Error) -> bool {
    let code = match error {
        Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 400 | 422)
}
