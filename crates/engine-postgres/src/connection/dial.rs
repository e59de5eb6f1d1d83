//! The socket to a server: Unix or loopback TCP, with the settings that let a dead peer be noticed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::{ConnectionError, ConnectionSettings, Host};

/// A connected socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Connects to the server within the settings' timeout; answers with the name of the place for messages.
pub(crate) async fn dial(settings: &ConnectionSettings) -> Result<(Socket, String), ConnectionError> {
    let target = match settings.host() {
        Host::SocketDir(dir) => dir.join(format!(".s.PGSQL.{}", settings.port())).display().to_string(),
        Host::Loopback(address) => SocketAddr::new(*address, settings.port()).to_string(),
        Host::Localhost => format!("localhost:{}", settings.port()),
    };
    let timeout = settings.connect_timeout();
    match tokio::time::timeout(timeout, connect(settings, &target)).await {
        Ok(Ok(socket)) => Ok((socket, target)),
        Ok(Err(source)) => Err(ConnectionError::Unreachable { target, source }),
        Err(_) => Err(ConnectionError::Timeout { target, timeout }),
    }
}

async fn connect(settings: &ConnectionSettings, target: &str) -> io::Result<Socket> {
    match settings.host() {
        Host::SocketDir(_) => Ok(Socket::Unix(UnixStream::connect(target).await?)),
        Host::Loopback(address) => prepare(TcpStream::connect((*address, settings.port())).await?),
        Host::Localhost => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "localhost has no loopback address");
            // A name service may say anything; only loopback is let through.
            let addresses = tokio::net::lookup_host(("localhost", settings.port())).await?;
            for address in addresses.filter(|address| address.ip().is_loopback()) {
                match TcpStream::connect(address).await {
                    Ok(stream) => return prepare(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

fn prepare(stream: TcpStream) -> io::Result<Socket> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(&stream, 4)?;
    sockopt::set_tcp_user_timeout(&stream, 30_000)?;
    Ok(Socket::Tcp(stream))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
