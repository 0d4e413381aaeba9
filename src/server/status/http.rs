//! The HTTP side: a few fixed answers, to few clients at a time, none of which can cost much.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::metrics;
use super::sampling::{Board, Phase};

/// Most connections at a time: a person has some, each Prometheus one. Further ones are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// Most bytes of a request's head, and so of what is read ahead for a connection.
const HEAD_BYTES_MAX: usize = 16 << 10;

const HEADERS_MAX: usize = 64;

/// How long a client may take to send a request's head; also how long a connection may be idle.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);

/// How long a connection serves requests, ...
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(120);

/// ... and how long the last reply may take. A client that does not read is cut off then.
const LAST_REPLY_TIME_MAX: Duration = Duration::from_secs(10);

/// How long accepting rests when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const PAGE: &str = include_str!("page.html");

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The page has all that it needs, and nothing else may be loaded or sent anywhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves until `stopped`.
pub(super) async fn serve(listener: StdListener, board: &Arc<Board>, stopped: oneshot::Receiver<()>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("metrics and the status page are not served: {error}"),
    };
    tokio::select! {
        _ = stopped => {}
        () = accept_all(&listener, board) => {}
    }
}

async fn accept_all(listener: &TcpListener, board: &Arc<Board>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("a request for the status was not accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else { continue };
        let board = Arc::clone(board);
        tokio::spawn(async move {
            converse(stream, board).await;
            drop(seat);
        });
    }
}

async fn converse(stream: TcpStream, board: Arc<Board>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&board, request.method(), request.uri().path());
        async { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
    server.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // What a client has done wrong concerns nobody else.
        ended = connection.as_mut() => drop(ended),
        () = sleep(CONNECTION_TIME_MAX) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(LAST_REPLY_TIME_MAX, connection).await;
        }
    }
}

fn answer(board: &Board, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are answered here\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/" => reply(StatusCode::OK, HTML, PAGE),
        "/metrics" => match metrics::text(board) {
            Ok(text) => reply(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/healthz" => reply(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => ready(board),
        "/status.json" => json(board.status_json()),
        "/history.json" => json(board.history_json()),
        _ => reply(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /, /metrics, /healthz, /readyz, /status.json and /history.json\n",
        ),
    }
}

/// Whether clients are served. One who does not get everything that he should (`degraded`) is served all the same.
fn ready(board: &Board) -> Response<Full<Bytes>> {
    let complaints = board.complaints();
    match board.phase() {
        Phase::Starting => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "starting\n"),
        Phase::Stopping => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
        Phase::Ready if complaints.is_empty() => reply(StatusCode::OK, TEXT, "ready\n"),
        Phase::Ready => reply(StatusCode::OK, TEXT, format!("ready, degraded: {}\n", complaints.join("; "))),
    }
}

fn json(text: serde_json::Result<String>) -> Response<Full<Bytes>> {
    match text {
        Ok(text) => reply(StatusCode::OK, JSON, text),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let fixed = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
