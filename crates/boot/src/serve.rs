//! A listener and the loop that serves a router on it. hyper is driven here directly because `axum::serve` has no
//! deadline for a request's head: a client that sends one byte a minute would hold a connection for ever.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::{config::Limits, shutdown::Shutdown};

/// Ceilings of one listener.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// From the first byte of a connection, or the end of the last answer, to the end of the next request's head.
    pub head: Duration,
    pub connections: usize,
    /// How long answers in flight may take once the end was asked for. Streams that never end are cut then.
    pub grace: Duration,
}

impl From<&Limits> for ServeLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            head: Duration::from_secs(limits.request_head_seconds),
            connections: limits.connections,
            grace: limits.drain() / 2,
        }
    }
}

/// Why a listener could not be had. `flag` is the command line flag that chooses the address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "{address} is taken by another process. Choose another address with `--{flag} 127.0.0.1:PORT` or the environment \
         variable {}; port 0 takes any free one.",
        env_name(flag)
    )]
    Taken { address: String, flag: &'static str },
    #[error("cannot listen on {address} (--{flag}): {source}")]
    Other { address: String, flag: &'static str, source: io::Error },
}

fn env_name(flag: &str) -> String {
    format!("TOLLGATE_{}", flag.to_uppercase().replace('-', "_"))
}

/// Binds `address`, which is `host:port`. Port 0 takes a free one; ask the listener which.
pub async fn bind(address: &str, flag: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { address: address.to_owned(), flag },
        _ => BindError::Other { address: address.to_owned(), flag, source },
    })
}

/// Serves until the end is asked for, then lets answers in flight finish within `limits.grace`. Handlers find the peer's
/// address as `ConnectInfo<SocketAddr>`.
pub async fn serve(listener: TcpListener, router: Router, limits: ServeLimits, shutdown: &Shutdown) {
    let seats = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let builders = Arc::new(Builders::new(limits));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            accepted = accept(&listener, &seats) => accepted,
            // Collected as they end, so that the set does not grow with every connection ever made.
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, peer, seat)) = accepted else { continue };
        let service = TowerToHyperService::new(with_peer(router.clone(), peer));
        let (builders, watcher, shutdown) = (Arc::clone(&builders), graceful.watcher(), shutdown.clone());
        connections.spawn(async move {
            let _seat = seat;
            let builder = tokio::select! {
                builder = builders.of(&stream) => builder,
                // Nothing has been asked yet.
                () = shutdown.requested() => return,
            };
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%peer, error, "connection ended early");
            }
        });
    }
    drop(listener);
    if timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::info!(open = connections.len(), "closing connections that did not end by themselves");
    }
    connections.shutdown().await;
}

/// What a connection over HTTP/2 begins with, and none of HTTP/1 does: no method has a blank behind these three letters.
const HTTP2: &[u8] = b"PRI ";

/// A connection whose version is known from its first bytes before any of them are read is served with buffers half as large: read by
/// whoever finds out, they would come to HTTP/1 in two pieces, and it makes more room for the second.
#[derive(Debug)]
struct Builders {
    any: auto::Builder<TokioExecutor>,
    http1: auto::Builder<TokioExecutor>,
}

impl Builders {
    fn new(limits: ServeLimits) -> Self {
        let mut any = auto::Builder::new(TokioExecutor::new());
        any.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
        any.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(Duration::from_secs(30));
        Self { http1: any.clone().http1_only(), any }
    }

    async fn of(&self, stream: &TcpStream) -> &auto::Builder<TokioExecutor> {
        let mut begins = [0; HTTP2.len()];
        match stream.peek(&mut begins).await {
            Ok(read) if read > 0 && !HTTP2.starts_with(&begins[..read]) => &self.http1,
            // What has ended or failed does so again there.
            _ => &self.any,
        }
    }
}

/// Waits for a seat before it accepts: connections beyond the ceiling queue in the kernel instead of in our memory.
async fn accept(
    listener: &TcpListener,
    seats: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let seat = Arc::clone(seats).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and complete; waiting to fill a packet only adds latency.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, seat))
        }
        Err(error) => {
            // A client that went away again costs nothing; out of file descriptors needs a pause, or this loop spins.
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(200)).await;
            }
            None
        }
    }
}

fn with_peer(
    router: Router,
    peer: SocketAddr,
) -> impl tower::Service<Request<Incoming>, Response = axum::response::Response, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(limits: ServeLimits) -> (SocketAddr, Shutdown, tokio::task::JoinHandle<()>) {
        let listener = bind("127.0.0.1:0", "api").await.expect("free port");
        let address = listener.local_addr().expect("bound");
        let router =
            Router::new().route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }));
        let shutdown = Shutdown::new();
        let inner = shutdown.clone();
        let task = tokio::spawn(async move { serve(listener, router, limits, &inner).await });
        (address, shutdown, task)
    }

    fn limits() -> ServeLimits {
        ServeLimits { head: Duration::from_millis(200), connections: 4, grace: Duration::from_millis(200) }
    }

    #[tokio::test]
    async fn a_taken_port_names_the_way_out() {
        let first = bind("127.0.0.1:0", "api").await.expect("free port");
        let address = first.local_addr().expect("bound").to_string();
        let error = bind(&address, "api").await.expect_err("taken").to_string();
        assert!(error.contains(&address) && error.contains("TOLLGATE_API"), "{error}");
    }

    #[tokio::test]
    async fn answers_and_then_ends() {
        let (address, shutdown, task) = start(limits()).await;
        let mut stream = TcpStream::connect(address).await.expect("listening");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut buffer = [0; 512];
        let read = stream.read(&mut buffer).await.expect("answered");
        assert!(String::from_utf8_lossy(&buffer[..read]).ends_with("127.0.0.1"));
        shutdown.trigger("test");
        timeout(Duration::from_secs(2), task).await.expect("ends in time").expect("no panic");
    }

    #[tokio::test]
    async fn a_head_that_never_ends_loses_its_connection() {
        let (address, _shutdown, _task) = start(limits()).await;
        let mut stream = TcpStream::connect(address).await.expect("listening");
        stream.write_all(b"GET / HTTP/1.1\r\nho").await.expect("sent");
        let mut rest = Vec::new();
        timeout(Duration::from_secs(2), stream.read_to_end(&mut rest)).await.expect("closed by the server").expect("readable");
    }

    #[tokio::test]
    async fn both_versions_are_known_by_their_first_bytes() {
        let (address, shutdown, task) = start(limits()).await;
        let mut second = TcpStream::connect(address).await.expect("listening");
        second.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
        let mut frame = [0; 9];
        second.read_exact(&mut frame).await.expect("answered");
        assert_eq!(frame[3], 4, "it begins with its settings");
        drop(second);
        for (begins, rest, status) in [("G", "ET", "200"), ("PRI", "NT", "405"), ("GET", "", "200")] {
            let mut first = TcpStream::connect(address).await.expect("listening");
            first.write_all(begins.as_bytes()).await.expect("sent");
            sleep(Duration::from_millis(20)).await;
            first.write_all(format!("{rest} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("sent");
            let mut answer = String::new();
            first.read_to_string(&mut answer).await.expect("answered");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{begins}{rest}: {answer}");
        }
        let _silent = TcpStream::connect(address).await.expect("listening");
        shutdown.trigger("test");
        timeout(Duration::from_secs(2), task).await.expect("ends in time").expect("no panic");
    }
}
