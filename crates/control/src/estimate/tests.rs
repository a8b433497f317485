use super::*;
use crate::{
    parse_job,
    plan::{
        plan,
        tests::{JOB, embedded},
    },
    validate,
};

const TWO_CORES: Machine = Machine { cores: 2, seconds_per_sample: Some(1e-3) };

fn planned(text: &str) -> Plan {
    plan(&validate(&parse_job(text).unwrap()).unwrap(), &embedded(24 << 30)).unwrap()
}

#[test]
fn every_rule_is_estimated_and_the_jobs_own_is_marked() {
    let plan = planned(JOB);
    let estimate = estimate(&plan, &TWO_CORES).unwrap();
    let chosen: Vec<bool> = estimate.rules.iter().map(|rule| rule.chosen).collect();
    assert_eq!(chosen, [false, false, true]);
    assert_eq!(estimate.rates, Some(vec![200.0, 152.0, 48.0, 144.0]));
    assert_eq!(estimate.model_bytes, 3 * 4 * 33_946);
    // 4 workers share 2 cores: a sample takes twice as long.
    assert!((estimate.cost.seconds_per_sample - 2e-3).abs() < 1e-12);
}

#[test]
fn compression_takes_memory_for_what_it_keeps_back_on_each_worker_and_on_rank_0() {
    let without = estimate(&planned(JOB), &TWO_CORES).unwrap();
    let job = JOB.replacen("  devices:", "  compression: {mode: Adaptive}\n  devices:", 1);
    let plan = planned(&job);
    let with = estimate(&plan, &TWO_CORES).unwrap();
    assert_eq!((with.residual_bytes, with.gathered_bytes), (2 * 4 * 33_946, 4 * 2 * 4 * 33_946));
    assert_eq!(with.total_bytes - without.total_bytes, 4 * with.residual_bytes + with.gathered_bytes);
    let text = render(&plan, &with);
    assert!(
        text.contains("compressed steps whose energy loss is at most 0.3: 10 % of the elements"),
        "{text}"
    );
}

#[test]
fn the_conventional_run_is_what_the_slowest_stream_allows() {
    let run = conventional(&[200.0, 152.0, 48.0, 144.0], 120.0, CONVENTIONAL_BATCH).unwrap();
    assert_eq!((run.batch, run.steps, run.samples), (64, 90, 90 * 4 * 64));
    assert!((run.step_seconds - 64.0 / 48.0).abs() < 1e-12);
    assert_eq!(conventional(&[], 10.0, 64), None);
}

/// Compares with a stored text; `SCADLES_WRITE_GOLDEN=1` stores it anew.
fn assert_golden(name: &str, text: &str) {
    let path = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap(),
        "{path}; SCADLES_WRITE_GOLDEN=1 stores it anew"
    );
}

#[test]
fn the_plan_reads_as_a_tidy_table() {
    let plan = planned(JOB);
    assert_golden("plan-line-rate.txt", &render(&plan, &estimate(&plan, &TWO_CORES).unwrap()));
    let fixed =
        JOB.replacen("  devices: {count: 4}", "  stream: {batch: {rule: Fixed}}\n  devices: {count: 40}", 1);
    let fixed =
        fixed.replacen("{list: [200, 152, 48, 144]}", "{uniform: {mean: 38, standardDeviation: 24}}", 1);
    let plan = planned(&fixed);
    assert_golden("plan-fixed-40.txt", &render(&plan, &estimate(&plan, &TWO_CORES).unwrap()));
}

#[test]
fn the_simulator_settles_to_what_the_plan_estimates() {
    use scadles_core::sim::{
        ExchangeModel, RateProfile, SimDevice, SimLimits, SimSettings, SimStep, Simulation,
    };
    let plan = planned(JOB);
    let job = plan.job().unwrap();
    let estimate = estimate(&plan, &TWO_CORES).unwrap();
    for rule in &estimate.rules {
        let settings = SimSettings {
            rule: rule.rule,
            bounds: job.stream.batch_bounds,
            policy: job.stream.policy,
            aggregation: job.training.aggregation,
            exchange: ExchangeModel::constant(estimate.cost.exchange_seconds),
            injection: None,
            compute_noise: 0.0,
            seed: 0,
            limits: SimLimits::seconds(300.0),
        };
        let device = |&rate: &f64| SimDevice {
            stream: RateProfile::Constant(rate),
            seconds_per_sample: estimate.cost.seconds_per_sample,
        };
        let devices: Vec<SimDevice> = estimate.rates.iter().flatten().map(device).collect();
        let steps = Simulation::new(settings, &devices).steps();
        let late = &steps[steps.len() / 2..];
        let seconds: f64 = late.iter().map(|step| step.step_seconds).sum();
        let samples: u64 = late.iter().map(SimStep::global_batch).sum();
        let settled = &rule.settled;
        let step_seconds = seconds / late.len() as f64;
        assert!((step_seconds / settled.step_seconds - 1.0).abs() < 0.01, "{rule:?}: {step_seconds} s");
        let per_second = samples as f64 / seconds;
        assert!((per_second / settled.samples_per_second - 1.0).abs() < 0.01, "{rule:?}: {per_second}/s");
    }
}
