//! The operator's key: a file, or a Secret that is made when it is missing. I/O.

use std::io::Read;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use crate::args::Args;

/// Shorter keys are refused.
const SHORTEST: usize = 16;
/// Length of a key made here, in bytes.
const LENGTH: usize = 32;
/// Its place in the Secret.
const FIELD: &str = "key";

/// Reads or makes the key.
pub async fn load(args: &Args, client: &Client) -> Result<Vec<u8>, String> {
    let key = match (&args.key_file, &args.key_secret) {
        (Some(path), _) => std::fs::read(path)
            .map_err(|error| format!("failed to read --key-file {}: {error}", path.display()))?,
        (None, Some(name)) => from_secret(args, client, name).await?,
        // Without a place to keep it: fine for one replica, whose restart then restarts the workers' tokens too.
        (None, None) => return Err("no key: give --key-file FILE or --key-secret NAME".to_owned()),
    };
    if key.len() < SHORTEST {
        return Err(format!("the operator's key has {} bytes; it needs at least {SHORTEST}", key.len()));
    }
    Ok(key)
}

async fn from_secret(args: &Args, client: &Client, name: &str) -> Result<Vec<u8>, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &args.lease_namespace);
    let failed =
        |error: kube::Error| format!("failed to read Secret {}/{name}: {error}", args.lease_namespace);
    if let Some(secret) = secrets.get_opt(name).await.map_err(failed)? {
        return key_of(secret, name);
    }
    let made = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([(FIELD.to_owned(), ByteString(random()?))].into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &made).await {
        Ok(secret) => key_of(secret, name),
        // Another replica was quicker.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            key_of(secrets.get(name).await.map_err(failed)?, name)
        }
        Err(error) => Err(failed(error)),
    }
}

fn key_of(secret: Secret, name: &str) -> Result<Vec<u8>, String> {
    let bytes = secret.data.and_then(|mut data| data.remove(FIELD)).map(|bytes| bytes.0);
    bytes.ok_or_else(|| format!("Secret {name} has no key `{FIELD}`"))
}

fn random() -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; LENGTH];
    let file = std::fs::File::open("/dev/urandom");
    file.and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| format!("no random numbers: {error}"))?;
    Ok(bytes)
}
