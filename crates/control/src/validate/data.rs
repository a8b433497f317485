//! Data sets: what the producer sends, what the evaluation looks at.

use std::path::PathBuf;

use scadles_api::{
    job::{
        DatasetSpec, DistributionSpec, EvaluationSpec, PartitionName, ProducerSpec, RatesSpec, ScadlesJobSpec,
    },
    worker::{
        DatasetConfig, DatasetName, EvaluationConfig, ModelConfig, PartitionRule, ProducerConfig,
        RecordFormat,
    },
};

use super::HIGHEST_RATE;
use crate::{
    dataset,
    mistake::{Allowed, Findings},
    rates::{self, Shape},
};

/// What data sets must fit.
pub(super) struct Data<'a> {
    pub(super) model: &'a ModelConfig,
    pub(super) format: RecordFormat,
    pub(super) seed: u64,
    pub(super) devices: usize,
}

impl Data<'_> {
    pub(super) fn producer(&self, found: &mut Findings, given: &ProducerSpec) -> ProducerConfig {
        let has_coarse_labels = matches!(given.dataset.name, DatasetName::Cifar100 | DatasetName::Files);
        if self.format == RecordFormat::Cifar100 && !has_coarse_labels {
            found.add(
                "spec.producer.dataset.name",
                format!("{:?}", given.dataset.name),
                "has no coarse labels, which records of spec.stream.format Cifar100 begin with",
                "write spec.stream.format: CifarBinary, or send the data set Cifar100 or Files",
            );
        }
        ProducerConfig {
            dataset: self.dataset(found, "spec.producer.dataset", &given.dataset),
            rates: self.rates(found, &given.rates),
            partition: self.partition(found, given),
            seed: self.seed,
        }
    }

    fn dataset(&self, found: &mut Findings, path: &str, given: &DatasetSpec) -> DatasetConfig {
        let own_files = given.name == DatasetName::Files;
        let file = given.files.as_ref().map(|files| files.path.clone());
        if own_files && file.as_ref().is_none_or(String::is_empty) {
            found.add(
                format!("{path}.files"),
                "",
                "the data set Files needs the path of a file of records",
                format!("give {path}.files.path"),
            );
        }
        if !own_files && file.is_some() {
            found.add(
                format!("{path}.files"),
                "",
                format!("belongs to the data set Files; the name is {:?}", given.name),
                format!("remove it, or set {path}.name: Files"),
            );
        }
        if let Some(facts) = dataset::facts(given.name) {
            self.fits(found, &format!("{path}.name"), facts);
        }
        DatasetConfig { name: given.name, path: file.filter(|_| own_files).map(PathBuf::from) }
    }

    fn fits(&self, found: &mut Findings, path: &str, facts: dataset::DatasetFacts) {
        if facts.input_shape != self.model.input_shape {
            found.add(
                path,
                facts.label,
                format!(
                    "its pictures are {:?}, spec.model.inputShape is {:?}",
                    facts.input_shape, self.model.input_shape
                ),
                format!("set spec.model.inputShape: {:?}", facts.input_shape),
            );
        }
        if facts.num_classes != self.model.num_classes {
            found.add(
                path,
                facts.label,
                format!(
                    "it has {} labels, spec.model.numClasses is {}",
                    facts.num_classes, self.model.num_classes
                ),
                format!("set spec.model.numClasses: {}", facts.num_classes),
            );
        }
    }

    fn rates(&self, found: &mut Findings, given: &RatesSpec) -> Vec<f64> {
        let path = "spec.producer.rates";
        found.exactly_one(
            path,
            &[
                ("list", given.list.is_some()),
                ("constant", given.constant.is_some()),
                ("uniform", given.uniform.is_some()),
                ("normal", given.normal.is_some()),
            ],
        );
        let allowed = Allowed::Positive(HIGHEST_RATE);
        let mut rates = vec![1.0; self.devices];
        if let Some(list) = &given.list {
            // Without devices there is a mistake to be told already.
            if list.len() != self.devices && self.devices > 0 {
                found.add(
                    format!("{path}.list"),
                    format!("{list:?}"),
                    format!("has {} rates for {} devices of spec.devices", list.len(), self.devices),
                    "give one rate per device",
                );
            }
            for (index, rate) in list.iter().enumerate() {
                found.number(&format!("{path}.list[{index}]"), Some(*rate), 50.0, allowed);
            }
            rates.clone_from(list);
        }
        if let Some(constant) = given.constant {
            found.number(&format!("{path}.constant"), Some(constant), 50.0, allowed);
            rates.fill(constant);
        }
        for (name, shape, given) in
            [("uniform", Shape::Uniform, &given.uniform), ("normal", Shape::Normal, &given.normal)]
        {
            if let Some(distribution) = given {
                rates = self.drawn(found, &format!("{path}.{name}"), shape, distribution);
            }
        }
        rates
    }

    fn drawn(&self, found: &mut Findings, path: &str, shape: Shape, given: &DistributionSpec) -> Vec<f64> {
        // Leaves room for the tail above the mean.
        let most = HIGHEST_RATE / 10.0;
        let mean = found.number(&format!("{path}.mean"), Some(given.mean), 38.0, Allowed::Positive(most));
        let deviation = found.number(
            &format!("{path}.standardDeviation"),
            Some(given.standard_deviation),
            24.0,
            Allowed::NotNegative(most),
        );
        if mean > 0.0 && mean.is_finite() && deviation.is_finite() {
            rates::draw(shape, (mean, deviation), self.seed, self.devices)
        } else {
            vec![1.0; self.devices]
        }
    }

    fn partition(&self, found: &mut Findings, given: &ProducerSpec) -> PartitionRule {
        let name = given.partition.unwrap_or(PartitionName::Iid);
        if given.label_skew.is_some() && name != PartitionName::LabelSkew {
            found.add(
                "spec.producer.labelSkew",
                "",
                format!("belongs to the partition LabelSkew; the partition is {name:?}"),
                "remove it, or set spec.producer.partition: LabelSkew",
            );
        }
        match name {
            PartitionName::Iid => PartitionRule::Iid,
            PartitionName::LabelSkew => PartitionRule::LabelSkew {
                labels_per_device: found.integer_32(
                    "spec.producer.labelSkew.labelsPerDevice",
                    given.label_skew.as_ref().and_then(|skew| skew.labels_per_device),
                    1,
                    1..=self.model.num_classes,
                ),
            },
        }
    }

    pub(super) fn evaluation(
        &self,
        found: &mut Findings,
        given: &EvaluationSpec,
        spec: &ScadlesJobSpec,
    ) -> EvaluationConfig {
        let path = "spec.evaluation.dataset";
        let of_producer = spec.producer.as_ref().map(|producer| &producer.dataset);
        let dataset = match (&given.dataset, of_producer) {
            (Some(own), _) => self.dataset(found, path, own),
            (None, Some(sent)) if sent.name != DatasetName::Files => {
                DatasetConfig { name: sent.name, path: None }
            }
            (None, sent) => {
                let problem = match sent {
                    Some(_) => "the producer's data set Files has no held-out pictures",
                    None => "evaluation needs a data set, and there is no producer to take it from",
                };
                found.add(path, "", problem, "name a data set there, or remove spec.evaluation");
                DatasetConfig { name: DatasetName::Cifar10, path: None }
            }
        };
        let most = dataset::facts(dataset.name).map_or(1_000_000_000, |facts| facts.test_samples);
        EvaluationConfig {
            every_steps: given.every_steps.unwrap_or(40),
            samples: found.integer("spec.evaluation.samples", given.samples, 2000.min(most), 1..=most),
            top_k: self.top_k(found, given.top_k.as_deref()),
            dataset,
        }
    }

    fn top_k(&self, found: &mut Findings, given: Option<&[u32]>) -> Vec<u32> {
        let classes = self.model.num_classes;
        let Some(given) = given else {
            return [1, 5].into_iter().filter(|k| *k == 1 || *k <= classes).collect();
        };
        let mut sorted = given.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let fine = sorted.first() == Some(&1) && sorted.last().is_some_and(|k| *k <= classes);
        if !fine || sorted.len() != given.len() {
            found.add(
                "spec.evaluation.topK",
                format!("{given:?}"),
                format!("needs 1 and any others of 2 to {classes} (spec.model.numClasses), each once"),
                "give for instance [1, 5]",
            );
        }
        sorted
    }
}
