//! Object stores that speak the protocol of Amazon S3: where checkpoints lie and results are copied to when no folder
//! outlives the worker. Shell.

pub mod mirror;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{path::Path as FilePath, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder, path::Path,
    prefix::PrefixStore,
};
use scadles_api::worker::BucketConfig;
use tokio::runtime::Runtime;

pub use mirror::Mirror;

/// A server that is there answers a connection by then.
const CONNECT: Duration = Duration::from_secs(5);
/// One request, a model's upload included, takes no longer.
const REQUEST: Duration = Duration::from_mins(5);
/// A server that is away is asked again for so long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Times that it is asked within that.
const RETRIES: usize = 8;
/// Of what a server says, this much is told.
const LONGEST_REASON: usize = 300;

/// Opens a bucket: its objects below the prefix, and a runtime on which to wait for them. Nothing is sent yet.
pub fn open(bucket: &BucketConfig) -> Result<(Arc<dyn ObjectStore>, Runtime), String> {
    // The process may have one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = match &bucket.credentials {
        Some(folder) => with_keys(AmazonS3Builder::new(), folder)?,
        None => AmazonS3Builder::from_env(),
    };
    builder = builder
        .with_client_options(ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST))
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: PATIENCE,
        })
        .with_bucket_name(&bucket.name)
        .with_region(&bucket.region);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = builder.build().map_err(|error| reason(&error))?;
    // No worker threads: every call blocks its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for its requests: {error}"))?;
    Ok((Arc::new(PrefixStore::new(store, Path::from(bucket.prefix.as_str()))), runtime))
}

/// What the object store said, on one line.
pub fn reason(error: &object_store::Error) -> String {
    let text = error.to_string();
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST_REASON) {
        line.truncate(end);
        line.push('…');
    }
    line
}

fn with_keys(builder: AmazonS3Builder, folder: &FilePath) -> Result<AmazonS3Builder, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let place = path.display();
            format!("{place}: {error}; its Secret must have the keys accessKeyId and secretAccessKey")
        })?;
        Ok::<_, String>(text.trim().to_owned())
    };
    let builder =
        builder.with_access_key_id(read("accessKeyId")?).with_secret_access_key(read("secretAccessKey")?);
    Ok(if folder.join("sessionToken").exists() { builder.with_token(read("sessionToken")?) } else { builder })
}
