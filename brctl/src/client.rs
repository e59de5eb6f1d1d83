//! The connection to a controller: TLS that knows only the context's authority, the operator token on every call, a
//! deadline on every answer.

use std::future::Future;
use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_proto::convert::{CLASS_KEY, class_of};
use breakwater_proto::v1::Json;
use breakwater_proto::v1::operator_client::OperatorClient;
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::context::Context;
use crate::failure::Failure;

/// A quiet connection is probed this often, and dropped when the probe is not answered.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Larger answers are not read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Shows the operator token.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The generated client with our token.
pub(crate) type Operator = OperatorClient<InterceptedService<Channel, Bearer>>;

/// A controller to talk to. Connects when first used, and again when the connection is lost.
#[derive(Clone)]
pub(crate) struct Client {
    operator: Operator,
    address: String,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for `context` whose every answer may take `timeout`.
    pub(crate) fn new(context: &Context, timeout: Duration) -> Result<Self, Failure> {
        let address = context.controller.clone();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&context.ca_pem));
        let endpoint = Endpoint::from_shared(address.clone())
            .map_err(|error| Failure::usage(format!("`{address}` is not the address of a controller: {error}")))?
            .tls_config(tls)
            .map_err(|error| {
                let message = format!("the certificate authority of {address} is not usable");
                Failure::of(ErrorClass::Denied, &error).doing(message)
            })?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", context.token.trim())
            .parse()
            .map_err(|_| Failure::new(ErrorClass::Denied, "the operator token holds characters that no token has"))?;
        bearer.set_sensitive(true);
        let operator = OperatorClient::with_interceptor(endpoint.connect_lazy(), Bearer(bearer))
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Client { operator, address, timeout })
    }

    /// The controller's address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The generated client.
    pub(crate) fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// One call and its answer: `client.call(client.operator().status(request)).await`.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(self.silent()),
        }
    }

    /// The documents that an agent answers with, pieces put together.
    pub(crate) async fn documents(
        &self,
        call: impl Future<Output = Result<Response<Streaming<Json>>, Status>>,
    ) -> Result<Vec<Value>, Failure> {
        let mut stream = self.call(call).await?;
        let mut bytes = Vec::new();
        loop {
            match tokio::time::timeout(self.timeout, stream.message()).await {
                Ok(Ok(Some(piece))) => bytes.extend_from_slice(&piece.piece),
                Ok(Ok(None)) => break,
                Ok(Err(status)) => return Err(self.failure(&status)),
                Err(_) => return Err(self.silent()),
            }
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Failure::refused(format!(
                    "the answer is larger than {ANSWER_BYTES_MAX} bytes (hint: --limit N)"
                )));
            }
        }
        serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<Vec<Value>, _>>()
            .map_err(|error| Failure::internal(format!("the answer is not JSON: {error}")))
    }

    fn silent(&self) -> Failure {
        let message = format!("the controller at {} did not answer within {:?}", self.address, self.timeout);
        Failure::new(ErrorClass::Unavailable, message).hint("try again, or give it more time: --timeout 2m")
    }

    /// What an answer that is an error means.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        if status.metadata().get(CLASS_KEY).is_some() {
            return Failure::new(class_of(status), status.message());
        }
        let causes = causes(status);
        if let Some(certificate) = causes.iter().find(|cause| cause.contains("certificate")) {
            let message =
                format!("the server at {} is not the controller of this context: {certificate}", self.address);
            return Failure::new(ErrorClass::Denied, message)
                .hint("the controller's address or its authority changed: take its context file anew");
        }
        let class = class_of(status);
        if class == ErrorClass::Unavailable || !causes.is_empty() {
            let why = causes.last().cloned().unwrap_or_else(|| status.message().to_owned());
            let message = format!("the controller at {} cannot be reached: {why}", self.address);
            return Failure::new(ErrorClass::Unavailable, message).hint("is it running? `brctl doctor` looks closer");
        }
        Failure::new(class, status.message())
    }
}

/// The texts of all causes, the innermost last.
fn causes(status: &Status) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}
