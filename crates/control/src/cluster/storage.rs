//! Where a cluster's job keeps checkpoints and results: a claim, or a bucket. No I/O.

use std::net::IpAddr;

use scadles_api::{
    job::{ClaimSpec, S3Spec, StorageSpec},
    names,
    worker::BucketConfig,
};

use crate::{mistake::Findings, validate::one_kind_of_storage};

/// Amazon's first region; servers of others take any.
const DEFAULT_REGION: &str = "us-east-1";
/// Ports of `https://` and `http://`.
const SCHEMES: [(&str, u16); 2] = [("https://", 443), ("http://", 80)];

/// Where a job keeps files.
#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    /// A volume that rank 0 mounts.
    Claim(ClaimSpec),
    /// An object store that rank 0 talks to.
    Bucket(Bucket),
}

impl Storage {
    /// The claim, if it is one.
    pub fn claim(&self) -> Option<&ClaimSpec> {
        match self {
            Self::Claim(claim) => Some(claim),
            Self::Bucket(_) => None,
        }
    }

    /// The bucket, if it is one.
    pub fn bucket(&self) -> Option<&Bucket> {
        match self {
            Self::Bucket(bucket) => Some(bucket),
            Self::Claim(_) => None,
        }
    }
}

/// A bucket, and the Secret with the keys to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Where it is; `credentials` are left to who mounts the Secret.
    pub config: BucketConfig,
    /// Name of the Secret.
    pub secret: Option<String>,
    /// Port of the server.
    pub port: u16,
}

/// The place of `storage`, if it is right. Without any: `None`, and a mistake if it is `required`.
pub(super) fn storage(
    found: &mut Findings,
    path: &str,
    storage: Option<&StorageSpec>,
    required: bool,
) -> Option<Storage> {
    let Some(storage) = storage else {
        if required {
            found.add(
                format!("{path}.persistentVolumeClaim"),
                "",
                "is missing: without it a restart would find no checkpoint",
                "give the name of a PersistentVolumeClaim in claimName (ReadWriteOnce is enough), or a bucket in s3",
            );
        }
        return None;
    };
    one_kind_of_storage(found, path, storage);
    if let Some(folder) = &storage.path {
        let problem = "a folder of a machine is for `scadles run` only; pods come and go between machines";
        let remedy = format!("give {path}.persistentVolumeClaim.claimName or {path}.s3.url instead");
        found.add(format!("{path}.path"), folder, problem, remedy);
    }
    let claim = storage.persistent_volume_claim.as_ref();
    check_claim(found, &format!("{path}.persistentVolumeClaim"), claim);
    let bucket =
        storage.s3.as_ref().map(|given| Storage::Bucket(bucket(found, &format!("{path}.s3"), given)));
    claim.cloned().map(Storage::Claim).or(bucket)
}

/// What is wrong with a claim.
pub(super) fn check_claim(found: &mut Findings, path: &str, claim: Option<&ClaimSpec>) {
    let Some(claim) = claim else { return };
    if !names::is_object_name(&claim.claim_name) {
        let problem = "is no name of a claim: 1 to 253 of the characters a-z, 0-9, - and .";
        found.add(format!("{path}.claimName"), &claim.claim_name, problem, "give the claim's name");
    }
    let folder = claim.sub_path.as_deref().unwrap_or_default();
    if folder.starts_with('/') || folder.split('/').any(|step| step == "..") {
        let remedy = "give a relative path without ..";
        found.add(format!("{path}.subPath"), folder, "must stay within the volume", remedy);
    }
}

fn bucket(found: &mut Findings, path: &str, given: &S3Spec) -> Bucket {
    let (name, prefix) = bucket_and_folder(&given.url).unwrap_or_else(|| {
        let problem = "is no bucket: s3://BUCKET or s3://BUCKET/FOLDER, the bucket 3 to 63 of the characters a-z, 0-9, - and .";
        found.add(format!("{path}.url"), &given.url, problem, "write for instance s3://results/team-a");
        (String::new(), String::new())
    });
    let port = given.endpoint.as_deref().map_or(Ok(SCHEMES[0].1), port_of).unwrap_or_else(|problem| {
        let endpoint = given.endpoint.as_deref().unwrap_or_default();
        found.add(
            format!("{path}.endpoint"),
            endpoint,
            problem,
            "write for instance https://minio.store.svc:9000",
        );
        0
    });
    if let Some(secret) = given.secret.as_deref().filter(|name| !names::is_object_name(name)) {
        let problem = "is no name of a Secret: 1 to 253 of the characters a-z, 0-9, - and .";
        found.add(format!("{path}.secret"), secret, problem, "give the Secret's name");
    }
    Bucket {
        config: BucketConfig {
            name,
            prefix,
            endpoint: given.endpoint.clone(),
            region: given.region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            credentials: None,
        },
        secret: given.secret.clone(),
        port,
    }
}

fn bucket_and_folder(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("s3://")?;
    let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let steps: Vec<&str> = folder.split('/').filter(|step| !step.is_empty()).collect();
    let plain = |step: &&str| ![".", ".."].contains(step) && step.bytes().all(|byte| byte.is_ascii_graphic());
    let fine = (3..=63).contains(&name.len()) && name.bytes().all(known) && steps.iter().all(plain);
    fine.then(|| (name.to_owned(), steps.join("/")))
}

/// The port of a server's address, or what is wrong with that.
fn port_of(endpoint: &str) -> Result<u16, String> {
    let wrong = || {
        "is no address of a server: http:// or https://, a name, and a port if it is not the usual one"
            .to_owned()
    };
    let scheme = SCHEMES.iter().find(|(scheme, _)| endpoint.starts_with(scheme));
    let (scheme, usual) = scheme.ok_or_else(wrong)?;
    let authority = &endpoint[scheme.len()..];
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (authority, *usual),
    };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return Err(format!("`{host}` is the pod itself"));
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(known) { Err(wrong()) } else { Ok(port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_bucket_and_a_folder_within_it() {
        let parts = |name: &str, folder: &str| Some((name.to_owned(), folder.to_owned()));
        assert_eq!(bucket_and_folder("s3://results"), parts("results", ""));
        assert_eq!(bucket_and_folder("s3://results//team-a/x/"), parts("results", "team-a/x"));
        for bad in [
            "results",
            "https://results",
            "s3://",
            "s3://ab",
            "s3://Results/x",
            "s3://results/a/../b",
            "s3://results/a b",
        ] {
            assert_eq!(bucket_and_folder(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_port_is_given_or_follows_from_the_scheme() {
        assert_eq!(port_of("http://minio.store.svc:9000"), Ok(9000));
        assert_eq!(port_of("https://[2001:db8::1]:9000"), Ok(9000));
        assert_eq!((port_of("https://minio"), port_of("http://[2001:db8::1]")), (Ok(443), Ok(80)));
        for bad in [
            "minio:9000",
            "ftp://minio",
            "http://",
            "http://minio:port",
            "http://minio/bucket",
            "http://localhost:9000",
            "http://[::1]",
        ] {
            assert!(port_of(bad).is_err(), "{bad}");
        }
    }
}
