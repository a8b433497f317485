//! One replica acts: a Lease says which. Fail-stop: who loses it ends, and its successor begins from the objects.
//!
//! Assumption: clocks of replicas run at about the same speed; they need not show the same time. A candidate waits for the
//! whole duration of a lease that it has seen unchanged.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};

/// A lease that was not renewed for this long may be taken.
const DURATION: Duration = Duration::from_secs(15);
/// The holder renews it this often.
const RENEW: Duration = Duration::from_secs(4);
/// The holder that could not renew for this long ends, well before another may begin.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A candidate looks this often.
const LOOK: Duration = Duration::from_secs(2);

/// The right to act.
pub struct Leadership {
    leases: Api<Lease>,
    name: String,
    identity: String,
}

/// The lease was lost, or could not be renewed in time.
#[derive(Debug, thiserror::Error)]
#[error("the lease {name} is lost: {reason}")]
pub struct Lost {
    name: String,
    reason: String,
}

/// What a look at the lease came to.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ours,
    Theirs { holder: String, version: Option<String> },
}

impl Leadership {
    /// A candidate for the lease `name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.to_owned(), identity: identity.to_owned() }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&self) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            let expired = seen.as_ref().filter(|(_, since)| since.elapsed() >= DURATION);
            let expired = expired.and_then(|(version, _)| version.as_deref());
            match self.try_take(expired).await {
                Ok(Look::Ours) => return,
                Ok(Look::Theirs { holder, version }) => {
                    if seen.as_ref().is_none_or(|(known, _)| *known != version) {
                        tracing::info!(holder, "standing by");
                        seen = Some((version, Instant::now()));
                    }
                }
                Err(error) => tracing::warn!(%error, lease = self.name, "failed to look at the lease"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps the lease for as long as that is possible; returns when it is not.
    pub async fn keep(&self) -> Lost {
        let mut renewed = Instant::now();
        let lost = |reason: String| Lost { name: self.name.clone(), reason };
        loop {
            tokio::time::sleep(RENEW).await;
            match tokio::time::timeout(RENEW, self.try_take(None)).await {
                Ok(Ok(Look::Ours)) => renewed = Instant::now(),
                Ok(Ok(Look::Theirs { holder, .. })) => return lost(format!("{holder} holds it")),
                Ok(Err(error)) => tracing::warn!(%error, "failed to renew the lease"),
                Err(_) => tracing::warn!("the lease was not renewed in time"),
            }
            if renewed.elapsed() >= GIVE_UP {
                return lost(format!("not renewed for {} s", renewed.elapsed().as_secs()));
            }
        }
    }

    /// Gives the lease back, so that a successor need not wait.
    pub async fn release(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await else { return };
        let Some(spec) =
            lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return;
        };
        spec.holder_identity = None;
        if let Err(error) = self.leases.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "the lease was not given back");
        }
    }

    /// Takes or renews the lease if it is free, ours, or still of the version that has `expired`: another candidate may have
    /// taken it since.
    async fn try_take(&self, expired: Option<&str>) -> Result<Look, kube::Error> {
        let post = PostParams::default();
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(0)),
            };
            return outcome(self.leases.create(&post, &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        let version = lease.resource_version();
        let has_expired = expired.is_some() && version.as_deref() == expired;
        match holder {
            Some(holder) if holder != self.identity && !has_expired => Ok(Look::Theirs { holder, version }),
            holder => {
                let kept = holder.as_ref() == Some(&self.identity);
                let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!kept);
                let fresh = self.spec(transitions);
                let acquire_time = if kept { spec.acquire_time } else { fresh.acquire_time.clone() };
                lease.spec = Some(LeaseSpec { acquire_time, ..fresh });
                outcome(self.leases.replace(&self.name, &post, &lease).await)
            }
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// Somebody who was quicker shows as a conflict.
fn outcome(written: Result<Lease, kube::Error>) -> Result<Look, kube::Error> {
    match written {
        Ok(_) => Ok(Look::Ours),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok(Look::Theirs { holder: "another replica".to_owned(), version: None })
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// The one lease of an API server: versions, and conflicts where one is given that is not the present one.
    #[derive(Clone, Default)]
    struct Leases(Arc<Mutex<Option<Value>>>);

    impl Leases {
        fn candidate(&self, identity: &str) -> Leadership {
            let server = self.clone();
            let service = tower::service_fn(move |request| server.clone().answer(request));
            Leadership::new(Client::new(service, "demo"), "demo", "scadles", identity)
        }

        async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
            let mut lease = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
            let (code, answer) = if parts.method == http::Method::GET {
                lease.clone().map_or_else(|| refusal(404, "NotFound"), |lease| (200, lease))
            } else {
                let mut given: Value = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
                let present = lease.as_ref().map_or(Value::Null, version);
                if version(&given) == present {
                    let next = present.as_str().and_then(|it| it.parse::<u32>().ok()).unwrap_or(0) + 1;
                    given["metadata"]["resourceVersion"] = json!(next.to_string());
                    *lease = Some(given.clone());
                    (200, given)
                } else {
                    refusal(409, "Conflict")
                }
            };
            let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
            Ok(response)
        }
    }

    fn refusal(code: u16, reason: &str) -> (u16, Value) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
        (code, status)
    }

    fn theirs(holder: &str, version: &str) -> Look {
        Look::Theirs { holder: holder.to_owned(), version: Some(version.to_owned()) }
    }

    #[tokio::test]
    async fn of_two_who_saw_a_lease_expire_one_takes_it() {
        let leases = Leases::default();
        let [dead, quick, slow] = ["dead", "quick", "slow"].map(|identity| leases.candidate(identity));
        assert_eq!(dead.try_take(None).await.unwrap(), Look::Ours, "nobody had it");
        assert_eq!(quick.try_take(None).await.unwrap(), theirs("dead", "1"));
        assert_eq!(slow.try_take(None).await.unwrap(), theirs("dead", "1"));
        // Both have waited for its whole duration. The second to look finds another version than the one that it saw.
        assert_eq!(quick.try_take(Some("1")).await.unwrap(), Look::Ours);
        assert_eq!(slow.try_take(Some("1")).await.unwrap(), theirs("quick", "2"));
        assert_eq!(quick.try_take(None).await.unwrap(), Look::Ours, "it is renewed");
        assert_eq!(slow.try_take(Some("2")).await.unwrap(), theirs("quick", "3"));
    }

    #[tokio::test]
    async fn a_lease_that_was_given_back_is_free_and_one_of_another_is_not_given_back() {
        let leases = Leases::default();
        let [first, second] = ["first", "second"].map(|identity| leases.candidate(identity));
        assert_eq!(first.try_take(None).await.unwrap(), Look::Ours);
        second.release().await;
        assert_eq!(second.try_take(None).await.unwrap(), theirs("first", "1"));
        first.release().await;
        assert_eq!(second.try_take(None).await.unwrap(), Look::Ours);
    }
}
