//! A server that speaks the protocol of Amazon S3, over a folder of this machine.

use std::{io, net::SocketAddr, path::Path, thread::JoinHandle, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{Result, failed};

/// A server on a port of loopback that ends with its owner.
pub struct ObjectStoreServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ObjectStoreServer {
    /// Serves `folder`, whose folders are the buckets, to who has `keys` (access key, secret key).
    pub fn start(folder: &Path, keys: (&str, &str)) -> Result<Self> {
        Self::start_slow(folder, keys, Duration::ZERO)
    }

    /// The same, where every connection is looked at only after `delay`.
    pub fn start_slow(folder: &Path, keys: (&str, &str), delay: Duration) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| failed("listen", error))?;
        let address = listener.local_addr().map_err(|error| failed("listen", error))?;
        listener.set_nonblocking(true).map_err(|error| failed("listen", error))?;
        let (folder, keys) = (folder.to_owned(), (keys.0.to_owned(), keys.1.to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed("make a runtime", error))?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let serving = async {
                    let listener =
                        TcpListener::from_std(listener).map_err(|error| failed("listen", error))?;
                    serve(&folder, (&keys.0, &keys.1), &listener, delay).await
                };
                tokio::select! {
                    ended = serving => drop(ended),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for ObjectStoreServer {
    fn drop(&mut self) {
        // A server that has ended already hears nothing.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves until an error of the listener, every connection after `delay`.
pub async fn serve(folder: &Path, keys: (&str, &str), listener: &TcpListener, delay: Duration) -> Result<()> {
    let files = FileSystem::new(folder).map_err(|error| failed("open the folder", format!("{error:?}")))?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(keys.0, keys.1));
    let service = service.build();
    loop {
        let (stream, _) = listener.accept().await.map_err(|error: io::Error| failed("accept", error))?;
        let service = service.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // A client that breaks off is its own affair.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
