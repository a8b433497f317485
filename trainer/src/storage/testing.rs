//! A bucket on a real server, for tests.

use std::{fs, path::PathBuf};

use scadles_api::worker::BucketConfig;
use scadles_testing::ObjectStoreServer;
use tempfile::TempDir;

/// A server with one bucket, and the files with the keys to it.
pub(crate) struct Bucket {
    _server: ObjectStoreServer,
    folder: TempDir,
    pub(crate) config: BucketConfig,
}

impl Bucket {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (buckets, keys) = (folder.path().join("buckets"), folder.path().join("keys"));
        fs::create_dir_all(buckets.join("results")).unwrap();
        fs::create_dir_all(&keys).unwrap();
        fs::write(keys.join("accessKeyId"), "reader\n").unwrap();
        fs::write(keys.join("secretAccessKey"), "and-writer\n").unwrap();
        let server = ObjectStoreServer::start(&buckets, ("reader", "and-writer")).unwrap();
        let config = BucketConfig {
            name: "results".to_owned(),
            prefix: "team/a".to_owned(),
            endpoint: Some(server.endpoint()),
            region: "us-east-1".to_owned(),
            credentials: Some(keys),
        };
        Self { _server: server, folder, config }
    }

    /// Where the server keeps an object below the prefix.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("buckets/results/team/a").join(name)
    }

    /// Where the keys are.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }
}
