//! etcd and kube-apiserver on free loopback ports, with data of their own.

use std::{
    ffi::OsString,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};

use crate::{Assets, Error, Result, failed, guarded::Guarded};

/// How long the servers may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// How long the API server may take to serve a new definition.
const ESTABLISH_DEADLINE: Duration = Duration::from_secs(30);

/// A Kubernetes API without nodes and controllers: objects are stored, checked and watched, and nothing happens to them.
/// Pods need no service account; nothing is collected when its owner goes, and a deleted namespace stays `Terminating`.
///
/// Several may run at once. All of it goes with this value.
pub struct ControlPlane {
    client: Client,
    folder: PathBuf,
    // Fields drop in this order: the server before its storage, whose guard removes the folder.
    _server: Guarded,
    _etcd: Guarded,
}

impl ControlPlane {
    /// Starts one and waits until it is ready, in about five seconds.
    pub async fn start() -> Result<Self> {
        let assets = Assets::find()?;
        let folder = new_folder()?;
        let [storage, peers, api] = free_ports()?;
        let etcd = Guarded::start(
            &assets.program("etcd"),
            etcd_arguments(&folder, storage, peers),
            &folder.join("etcd.log"),
            Some(&folder),
        )?;
        let prepare = |error| failed("prepare a control plane's folder", error);
        fs::write(folder.join("tokens.csv"), "secret,admin,admin,\"system:masters\"\n").map_err(prepare)?;
        fs::write(folder.join("kubeconfig"), kubeconfig(&folder, api)).map_err(prepare)?;
        let mut server = Guarded::start(
            &assets.program("kube-apiserver"),
            server_arguments(&folder, storage, api),
            &folder.join("kube-apiserver.log"),
            None,
        )?;
        let client = await_ready(&folder, &mut server).await?;
        Ok(Self { client, folder, _server: server, _etcd: etcd })
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig file for programs, with the same rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Installs a custom resource definition and waits until it is served.
    pub async fn install(&self, definition: serde_json::Value) -> Result<()> {
        let what = "install a custom resource definition";
        let definition: CustomResourceDefinition =
            serde_json::from_value(definition).map_err(|error| failed(what, error))?;
        let name = definition.name_any();
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client());
        definitions.create(&PostParams::default(), &definition).await.map_err(|error| failed(what, error))?;
        let established = await_condition(definitions, &name, conditions::is_crd_established());
        match tokio::time::timeout(ESTABLISH_DEADLINE, established).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(what, error)),
            Err(_) => Err(failed(what, format!("{name} was not served within {ESTABLISH_DEADLINE:?}"))),
        }
    }
}

fn etcd_arguments(folder: &Path, port: u16, peers: u16) -> Vec<OsString> {
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
    let mut arguments = arguments(&[
        ("name", "default"),
        ("listen-client-urls", &clients),
        ("advertise-client-urls", &clients),
        ("listen-peer-urls", &peers),
        ("initial-advertise-peer-urls", &peers),
        ("initial-cluster", &format!("default={peers}")),
        ("log-level", "warn"),
        ("unsafe-no-fsync", "true"),
    ]);
    arguments.push(with_path("--data-dir=", &folder.join("etcd")));
    arguments
}

fn server_arguments(folder: &Path, storage: u16, port: u16) -> Vec<OsString> {
    let mut arguments = arguments(&[
        ("etcd-servers", &format!("http://127.0.0.1:{storage}")),
        ("bind-address", "127.0.0.1"),
        ("advertise-address", "127.0.0.1"),
        ("secure-port", &port.to_string()),
        ("endpoint-reconciler-type", "none"),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("authorization-mode", "RBAC"),
        // Nobody is here to make accounts for the namespaces.
        ("disable-admission-plugins", "ServiceAccount"),
    ]);
    // The server makes a key and a certificate for itself where it finds none; the key signs account tokens, too.
    let key = folder.join("pki/apiserver.key");
    arguments.push(with_path("--cert-dir=", &folder.join("pki")));
    arguments.push(with_path("--token-auth-file=", &folder.join("tokens.csv")));
    arguments.push(with_path("--service-account-key-file=", &key));
    arguments.push(with_path("--service-account-signing-key-file=", &key));
    arguments
}

fn arguments(pairs: &[(&str, &str)]) -> Vec<OsString> {
    pairs.iter().map(|(name, value)| OsString::from(format!("--{name}={value}"))).collect()
}

fn with_path(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

fn kubeconfig(folder: &Path, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: \"{ca}\"}}}}]\n\
         users: [{{name: test, user: {{token: secret}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
        ca = folder.join("pki/apiserver.crt").display(),
    )
}

async fn await_ready(folder: &Path, server: &mut Guarded) -> Result<Client> {
    let end = Instant::now() + START_DEADLINE;
    loop {
        let problem = match connect(&folder.join("kubeconfig")).await {
            Ok(client) => return Ok(client),
            Err(problem) => problem,
        };
        let ended = server.ended().map(|status| format!("kube-apiserver ended: {status}"));
        if ended.is_some() || Instant::now() >= end {
            return Err(Error(format!(
                "the control plane did not start: {}; {}; {}",
                ended.unwrap_or(problem),
                log_end(&folder.join("kube-apiserver.log")),
                log_end(&folder.join("etcd.log"))
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client of the ready server, or why there is none yet.
async fn connect(kubeconfig: &Path) -> std::result::Result<Client, String> {
    let config = Kubeconfig::read_from(kubeconfig).map_err(|error| error.to_string())?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    let client =
        Client::try_from(config.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    client.apiserver_version().await.map_err(|error| error.to_string())?;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    // Made by the server itself once it is up.
    namespaces.get("default").await.map_err(|error| error.to_string())?;
    Ok(client)
}

fn log_end(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    format!("{} ends:\n{}", path.display(), lines[lines.len().saturating_sub(10)..].join("\n"))
}

fn new_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("scadles-control-plane-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| failed("make a control plane's folder", error))?;
    Ok(folder)
}

/// Ports that were free a moment ago, all held until all are known.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let find = |error| failed("find a free port", error);
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(find)?;
        *port = listener.local_addr().map_err(find)?.port();
        held.push(listener);
    }
    Ok(ports)
}
