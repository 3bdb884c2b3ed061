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
use tokio::time::{Instant, sleep};

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
    let first = Following { stream: begin(&api, &streaming, pace), config: streaming, anew: None };
    let state = (first, Some(config), Pauses::new(pace));
    futures::stream::unfold(state, move |(mut following, mut fallback, mut pauses)| {
        let api = api.clone();
        async move {
            if let Some(pause) = following.anew.take() {
                sleep(pause).await;
                following.stream = begin(&api, &following.config, pace);
            }
            let event = following.stream.next().await?;
            match &event {
                Err(error) if is_unknown(error) => {
                    if let Some(config) = fallback.take() {
                        following = Following { stream: begin(&api, &config, pace), config, anew: None };
                    }
                }
                Err(error) if is_gone(error) => following.anew = pauses.next(),
                _ => {}
            }
            Some((event, (following, fallback, pauses)))
        }
    })
    .boxed()
}

/// What is followed, and how.
struct Following<K> {
    stream: BoxStream<'static, Result<Event<K>, Error>>,
    config: Config,
    /// To be begun anew after so long.
    anew: Option<Duration>,
}

fn begin<K>(api: &Api<K>, config: &Config, pace: Pace) -> BoxStream<'static, Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api.clone(), config.clone()).backoff(Pauses::new(pace)).boxed()
}

/// Pauses after errors: they double, and begin again after a while without one. A success alone means little: a watcher
/// also tells that it is about to ask for a list.
struct Pauses {
    pace: Pace,
    next: Duration,
    last: Option<Instant>,
}

impl Pauses {
    fn new(pace: Pace) -> Self {
        Self { pace, next: pace.retry, last: None }
    }
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
    matches!(code(error), Some(400 | 422))
}

/// What happened since is forgotten: everything is listed again, and whoever says so is there. The pause of those who find
/// nobody is not for that; and a watcher that hears it by the answer's status would ask for ever.
fn is_gone(error: &Error) -> bool {
    code(error) == Some(410)
}

/// What the API server says of a watch.
fn code(error: &Error) -> Option<u16> {
    match error {
        Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}
