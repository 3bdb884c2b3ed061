//! An API server that takes requests and says nothing, as one that hangs behind a load balancer: whoever asks it asks another
//! one in time.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::ListParams;
use kube::{Api, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::kube::io::client::patient;

const BOUND: Duration = Duration::from_secs(20);

/// Answers so many requests with an empty list, and then none.
async fn serve(mut stream: TcpStream, answers: usize) {
    let mut request = Vec::new();
    for _ in 0..answers {
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.unwrap() == 0 {
                return;
            }
        }
        request.clear();
        let list =
            r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}", list.len());
        stream.write_all(format!("{head}\r\n\r\n{list}").as_bytes()).await.unwrap();
    }
    while stream.read_buf(&mut request).await.is_ok_and(|length| length > 0) {}
}

#[tokio::test]
async fn whoever_does_not_answer_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    tokio::spawn(async move {
        for answers in [0, 1, usize::MAX] {
            tokio::spawn(serve(listener.accept().await.unwrap().0, answers));
        }
    });
    let services = Api::<core::Service>::all(patient(config, Duration::from_millis(200)).unwrap());
    let all = ListParams::default();
    let ask = async || timeout(BOUND, services.list(&all)).await.expect("it waits for ever").is_ok();
    assert!(!ask().await, "a connection that never answers");
    assert!(ask().await, "another one");
    assert!(!ask().await, "the same, which hangs by now");
    assert!(ask().await, "a third one");
}
