//! The wish of an operator or service manager that this program ends.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT and answers which one came, for the log. The handlers are in place from the first poll on.
///
/// Where a handler cannot be installed that signal keeps its default effect, which ends the process too.
pub async fn shutdown_signal() -> &'static str {
    let mut terminate = listen(SignalKind::terminate());
    let mut interrupt = listen(SignalKind::interrupt());
    tokio::select! {
        () = receive(&mut terminate) => "SIGTERM",
        () = receive(&mut interrupt) => "SIGINT",
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| tracing::error!(signal = kind.as_raw_value(), %error, "signal handler not installed"))
        .ok()
}

async fn receive(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_signal_that_came_is_named() {
        for (flag, name) in [("-TERM", "SIGTERM"), ("-INT", "SIGINT")] {
            let mut waiting = Box::pin(shutdown_signal());
            // The first poll installs the handlers; without it the signal would end the test binary.
            assert!(futures_poll(&mut waiting).await, "no signal yet");
            let sent = Command::new("kill").args([flag, &std::process::id().to_string()]).status().unwrap();
            assert!(sent.success());
            assert_eq!(tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap(), name);
        }
    }

    /// Polls once; true when the future is still pending.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }
}
