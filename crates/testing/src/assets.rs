//! Where the servers' programs are.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The variable that names the folder, as in the tools of controller-runtime.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Where those tools look when it is not set.
const USUAL_PLACE: &str = "/usr/local/kubebuilder/bin";

/// A folder with `etcd` and `kube-apiserver`.
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// The folder that `KUBEBUILDER_ASSETS` names, or the usual place; the error says how to get one.
    pub fn find() -> Result<Self> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let assets = Self { folder: named.clone().unwrap_or_else(|| PathBuf::from(USUAL_PLACE)) };
        let missing = ["etcd", "kube-apiserver"].into_iter().find(|name| !assets.program(name).is_file());
        match (missing, named) {
            (None, _) => Ok(assets),
            (Some(name), Some(folder)) => {
                Err(Error(format!("{VARIABLE}={} has no {name}", folder.display())))
            }
            (Some(_), None) => Err(Error(format!(
                "{VARIABLE} is not set, and this test needs a real kube-apiserver: set it to a folder with etcd and \
                 kube-apiserver (`setup-envtest use -p path` fetches one), or run `make test`, which leaves the test \
                 programs `*_on_apiserver` out where there is none"
            ))),
        }
    }

    /// Path of a program in the folder.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
