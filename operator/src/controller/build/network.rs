//! Who may talk to whom: a job's pods among themselves, the operator to them, they to DNS, the brokers and the buckets'
//! servers. Pure.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use scadles_api::names::{ENDPOINT_PORT, labels};

use super::{Prepared, metadata, names};

/// Port of DNS.
const DNS: i32 = 53;

/// The policy of a job. Brokers are known by their ports alone: their addresses come from the brokers themselves. So are
/// the servers of buckets: their names stand for changing addresses.
pub fn network_policy(prepared: &Prepared, operator_namespace: &str) -> NetworkPolicy {
    let own = selector(&[(labels::JOB_UID, &prepared.uid)]);
    let peers =
        || vec![NetworkPolicyPeer { pod_selector: Some(own.clone()), ..NetworkPolicyPeer::default() }];
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(selector(&[("kubernetes.io/metadata.name", operator_namespace)])),
        pod_selector: Some(selector(&[
            ("app.kubernetes.io/part-of", "scadles"),
            ("app.kubernetes.io/component", "operator"),
        ])),
        ..NetworkPolicyPeer::default()
    };
    let ingress = vec![
        NetworkPolicyIngressRule { from: Some(peers()), ports: None },
        NetworkPolicyIngressRule {
            from: Some(vec![operator]),
            ports: Some(vec![port("TCP", ENDPOINT_PORT.into())]),
        },
    ];
    let buckets = [&prepared.job.checkpoints, &prepared.job.output];
    let buckets = buckets.into_iter().filter_map(|storage| Some(i32::from(storage.bucket()?.port)));
    let outside: BTreeSet<i32> = broker_ports(&prepared.job.bootstrap_servers).chain(buckets).collect();
    let outside = outside.into_iter().map(|number| port("TCP", number)).collect();
    let egress = vec![
        NetworkPolicyEgressRule { to: Some(peers()), ports: None },
        NetworkPolicyEgressRule { to: None, ports: Some(vec![port("UDP", DNS), port("TCP", DNS)]) },
        NetworkPolicyEgressRule { to: None, ports: Some(outside) },
    ];
    NetworkPolicy {
        metadata: metadata(prepared, names::shared(prepared.name())),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(own),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

fn broker_ports(servers: &str) -> impl Iterator<Item = i32> {
    servers.split(',').filter_map(|server| server.trim().rsplit_once(':')?.1.parse().ok())
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number)),
        ..NetworkPolicyPort::default()
    }
}

fn selector(labels: &[(&str, &str)]) -> LabelSelector {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    LabelSelector { match_labels: Some(labels.collect()), ..LabelSelector::default() }
}
