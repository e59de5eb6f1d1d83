//! Connections of the service: reads a request whole, lets its fault happen, writes the answer. One request changes the state
//! in one go.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::answer::{Answer, refuse};
use super::route::Asked;
use super::store::damaged;
use super::{Fault, State, lock};

/// Serves until it is aborted.
pub(crate) async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            // A client that goes away in the middle, or a fault that closes the connection, ends here.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Closes the connection without an answer.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is closed on purpose")
    }
}

impl std::error::Error for Hangup {}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<BoxBody<Bytes, Hangup>>, Hangup> {
    let (head, body) = request.into_parts();
    // A request that is cut short is no request.
    let body = body.collect().await.map_err(|_| Hangup)?.to_bytes();
    let asked = Asked::new(&head, body);
    let mut state = lock(&state);
    let kind = asked.kind();
    state.log.push(kind);
    let at = state.faults.iter().position(|(operation, _)| *operation == "*" || *operation == kind);
    let fault = at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault);
    let (asked, mut cut) = match &fault {
        Some(Fault::Reset) => return Err(Hangup),
        Some(Fault::Refuse(status, retry_after)) => {
            let mut refused = refuse(*status, "backendError", "a fault of the test");
            refused.headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
            return Ok(response(*refused, &state, false));
        }
        Some(Fault::StorePart(bytes)) => (asked.cut(*bytes), false),
        Some(Fault::DamageRequest) => (asked.damaged(), false),
        _ => (asked, false),
    };
    let mut answer = asked.handle(&mut state).unwrap_or_else(|refused| *refused);
    match fault {
        Some(Fault::LoseAnswer | Fault::StorePart(_)) => return Err(Hangup),
        Some(Fault::CutAnswer) => cut = true,
        Some(Fault::DamageAnswer) => answer.body = damaged(&answer.body),
        _ => {}
    }
    Ok(response(answer, &state, cut))
}

fn response(answer: Answer, state: &State, cut: bool) -> Response<BoxBody<Bytes, Hangup>> {
    let now = Duration::from_micros(u64::try_from(state.now().as_micros()).unwrap_or(0));
    let mut response =
        Response::builder().status(answer.status).header("date", httpdate::fmt_http_date(UNIX_EPOCH + now));
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let body = if cut {
        Half(Some(answer.body)).boxed()
    } else {
        Full::new(answer.body).map_err(|never: Infallible| match never {}).boxed()
    };
    response.body(body).expect("names and values of headers are those of this service")
}

/// A body that ends with an error after half of what it promised.
struct Half(Option<Bytes>);

impl Body for Half {
    type Data = Bytes;
    type Error = Hangup;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Hangup>>> {
        match self.0.take() {
            Some(whole) => Poll::Ready(Some(Ok(Frame::data(whole.slice(..whole.len() / 2))))),
            None => {
                context.waker().wake_by_ref();
                Poll::Ready(Some(Err(Hangup)))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, |whole| SizeHint::with_exact(whole.len() as u64))
    }
}
