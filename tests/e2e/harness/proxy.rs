//! A TCP proxy on loopback that can be closed: connections are refused and present ones cut, as when a server is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy to one server.
pub struct Proxy {
    /// Where to connect.
    pub port: u16,
    target: String,
    open: Option<JoinHandle<()>>,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy on a free port, closed at first.
    pub fn new(target: &str) -> Proxy {
        Proxy {
            port: super::servers::free_port(),
            target: target.to_owned(),
            open: None,
            cut: Arc::default(),
        }
    }

    /// Connections are taken from now on.
    pub async fn open(&mut self) -> Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        self.cut = Arc::default();
        let (target, cut) = (self.target.clone(), self.cut.clone());
        self.open = Some(tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass(near, target.clone(), cut.clone()));
            }
        }));
        Ok(())
    }

    /// Nothing is taken any more, and what is open is cut.
    pub async fn close(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        if let Some(open) = self.open.take() {
            open.abort();
            // The port is free once the listener is gone.
            open.await.ok();
        }
    }
}

async fn pass(mut near: TcpStream, target: String, cut: Arc<AtomicBool>) {
    let Ok(mut far) = TcpStream::connect(&target).await else { return };
    let cut = async {
        while !cut.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = cut => {}
    }
}
