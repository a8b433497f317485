//! What carries a job's sums, why, and what does not go with it. No I/O.

use std::fmt;

use scadles_api::{
    job::{BackendChoice, DeviceTemplate, ModelName},
    worker::Backend,
};

use crate::mistake::Findings;

/// The resource of Kubernetes that stands for a GPU.
pub const GPU: &str = "nvidia.com/gpu";

/// What carries the sums of a job's workers, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPlan {
    /// What.
    pub backend: Backend,
    /// Why, as the rest of a sentence.
    pub why: String,
}

impl BackendPlan {
    /// Of a job that began under an operator which knew of no choice.
    pub fn of_older_operator() -> Self {
        Self { backend: Backend::Gloo, why: "the job began under an operator without GPUs".to_owned() }
    }
}

impl fmt::Display for BackendPlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {}", self.backend, self.why)
    }
}

/// GPUs that the pod of every device asks for; what is no whole number counts as none, and is found wrong by
/// [`check_template`].
pub(crate) fn gpus(template: Option<&DeviceTemplate>) -> u64 {
    quantity(template, Bound::Limit).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Backend of a job that chooses so and whose devices ask for `gpus` each.
pub(crate) fn backend_plan(choice: BackendChoice, gpus: u64, cluster: bool) -> BackendPlan {
    let (backend, why) = match (choice, cluster, gpus) {
        (BackendChoice::Gloo, ..) => (Backend::Gloo, "as spec.backend says".to_owned()),
        (BackendChoice::Nccl, ..) => (Backend::Nccl, "as spec.backend says".to_owned()),
        (BackendChoice::Auto, true, 0) => (Backend::Gloo, format!("spec.devices.template asks for no {GPU}")),
        (BackendChoice::Auto, true, gpus) => {
            (Backend::Nccl, format!("spec.devices.template asks for {gpus} {GPU} per device"))
        }
        (BackendChoice::Auto, false, _) => {
            let why = "outside of a cluster GPUs are used where spec.backend or --backend asks for Nccl";
            (Backend::Gloo, why.to_owned())
        }
    };
    BackendPlan { backend, why }
}

/// What a GPU cannot compute yet.
pub(crate) fn check_model(found: &mut Findings, plan: &BackendPlan, model: ModelName) {
    if plan.backend == Backend::Nccl && model == ModelName::TorchScript {
        found.add(
            "spec.backend",
            plan,
            "networks of TorchScript compute on the CPU only",
            "write backend: Gloo and ask for no GPU, or name a built-in network",
        );
    }
}

#[derive(Clone, Copy)]
enum Bound {
    Request,
    Limit,
}

fn quantity(template: Option<&DeviceTemplate>, bound: Bound) -> Option<&str> {
    let resources = template?.resources.as_ref()?;
    let list = match bound {
        Bound::Request => resources.requests.as_ref(),
        Bound::Limit => resources.limits.as_ref(),
    };
    list?.get(GPU).map(|quantity| quantity.0.as_str())
}

/// GPUs that a template asks for as Kubernetes would refuse it, or that do not go with the job's choice.
pub(crate) fn check_template(found: &mut Findings, choice: BackendChoice, template: &DeviceTemplate) {
    const LIMIT: &str = "spec.devices.template.resources.limits[nvidia.com/gpu]";
    let [request, limit] = [Bound::Request, Bound::Limit].map(|bound| quantity(Some(template), bound));
    let whole = |text: &str| text.parse::<u64>().is_ok();
    if let Some(limit) = limit.filter(|limit| !whole(limit)) {
        found.add(LIMIT, limit, "GPUs are counted in whole numbers", "write for instance 1");
        return;
    }
    if let Some(request) = request.filter(|request| limit != Some(request)) {
        let problem = format!(
            "requests has {request}; Kubernetes sets GPUs aside by limits, and a request must equal its limit"
        );
        found.add(
            LIMIT,
            limit.unwrap_or_default(),
            problem,
            "give the number under limits, and leave out the request",
        );
        return;
    }
    match (choice, gpus(Some(template))) {
        (BackendChoice::Nccl, 0) => found.add(
            "spec.backend",
            "Nccl",
            format!("needs a GPU for every device; spec.devices.template.resources.limits asks for no {GPU}"),
            format!("add limits: {{{GPU}: 1}} there, or write backend: Auto"),
        ),
        (BackendChoice::Gloo, 1..) => found.add(
            "spec.backend",
            "Gloo",
            format!(
                "computes on the CPU; the GPUs that spec.devices.template.resources.limits asks for ({GPU}) would lie idle"
            ),
            format!("write backend: Auto, or take {GPU} out of the template"),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_nccl_in_a_cluster_where_all_devices_have_gpus_and_gloo_elsewhere_and_says_why() {
        use BackendChoice::{Auto, Gloo, Nccl};
        for (choice, gpus, cluster, expected, why) in [
            (Auto, 1, true, Backend::Nccl, "spec.devices.template asks for 1 nvidia.com/gpu per device"),
            (Auto, 0, true, Backend::Gloo, "spec.devices.template asks for no nvidia.com/gpu"),
            (Auto, 1, false, Backend::Gloo, "outside of a cluster"),
            (Gloo, 0, true, Backend::Gloo, "as spec.backend says"),
            (Nccl, 1, true, Backend::Nccl, "as spec.backend says"),
            (Nccl, 0, false, Backend::Nccl, "as spec.backend says"),
        ] {
            let plan = backend_plan(choice, gpus, cluster);
            assert_eq!(plan.backend, expected, "{choice:?}, {gpus}, {cluster}");
            assert!(plan.why.starts_with(why), "{plan}");
        }
    }
}
