//! Connections: accepting, TLS, HTTP/1.1 and HTTP/2, and the limits that keep a bad client from
//! harming the others.
//!
//! Knows nothing of what is asked on them.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::flight::{Flights, InFlight};

/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// After the system refused a connection, for want of file descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const HTTP2_STREAMS_MAX: u32 = 256;
const HTTP2_PING: Duration = Duration::from_secs(20);
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// What answers requests.
pub trait Serve: Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The body of an answer that counts as under way until it has been sent or given up.
struct Counted<B> {
    body: B,
    _in_flight: InFlight,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long things may take, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub connections_max: usize,
    pub idle: Duration,
    pub write: Duration,
}

/// Accepts until `stop` says so, then says goodbye on all connections.
pub async fn serve<S: Serve>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Arc<S>,
    all: Flights,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let stopped = stop.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        tokio::select! {
            () = told(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = accepted => match accepted {
                Some((permit, Ok((stream, _)))) => {
                    let connection = Connection {
                        tls: tls.clone(),
                        service: Arc::clone(&service),
                        all: all.clone(),
                        limits,
                        stop: stopped.clone(),
                        _permit: permit,
                    };
                    connections.spawn(connection.run(stream));
                }
                Some((_, Err(error))) => {
                    tracing::warn!(target: "fungible::http", %error, "a connection was refused");
                    sleep(ACCEPT_AGAIN).await;
                }
                None => break,
            },
        }
    }
    drop(listener);
    let _ = timeout(GOODBYE, async { while connections.join_next().await.is_some() {} }).await;
}

struct Connection<S> {
    tls: Option<TlsAcceptor>,
    service: Arc<S>,
    all: Flights,
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl<S: Serve> Connection<S> {
    async fn run(self, stream: TcpStream) {
        // Tokens are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        let stream = Watched::new(stream, self.limits.write);
        match self.tls.clone() {
            None => self.speak(stream).await,
            Some(tls) => match timeout(self.limits.idle, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.speak(stream).await,
                Ok(Err(error)) => {
                    tracing::debug!(target: "fungible::http", %error, "a TLS handshake failed");
                }
                Err(_) => {
                    tracing::debug!(target: "fungible::http", "a TLS handshake took too long")
                }
            },
        }
    }

    async fn speak(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            .max_buf_size(HEADER_BYTES_MAX as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_concurrent_streams(HTTP2_STREAMS_MAX);
        let here = Flights::new();
        let mut count = here.watch();
        let service = {
            let (service, all, here) = (Arc::clone(&self.service), self.all.clone(), here.clone());
            service_fn(move |request| {
                let in_flight = all.begin(&here);
                let service = Arc::clone(&service);
                async move {
                    Ok::<_, std::convert::Infallible>(answer(service, request, in_flight).await)
                }
            })
        };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let leave = async {
            tokio::select! {
                () = told(&mut self.stop) => {}
                () = idle(&mut count, self.limits.idle) => {}
            }
        };
        tokio::select! {
            _ = connection.as_mut() => return,
            () = leave => connection.as_mut().graceful_shutdown(),
        }
        // What is under way is finished; who sends nothing more is not waited for.
        let goodbye = async {
            here.none().await;
            sleep(GOODBYE).await;
        };
        tokio::select! {
            _ = connection => {}
            () = goodbye => {}
        }
    }
}

async fn answer<S: Serve>(
    service: Arc<S>,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> Response<Counted<S::Body>> {
    service.call(request).await.map(|body| Counted { body, _in_flight: in_flight })
}

/// Returns once the server stops.
async fn told(stop: &mut watch::Receiver<bool>) {
    // A server that is gone has stopped.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Returns once there has been no request for so long.
async fn idle(count: &mut watch::Receiver<usize>, limit: Duration) {
    loop {
        if count.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        if timeout(limit, count.wait_for(|count| *count > 0)).await.is_err() {
            return;
        }
    }
}

/// A stream that fails if nothing of what is written to it is taken for too long.
struct Watched<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    fn new(stream: S, limit: Duration) -> Watched<S> {
        Watched { stream, limit, waiting: None }
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let sleep = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        if sleep.as_mut().poll(context).is_ready() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
