//! Which element of a data set a simulated device sends as its k-th record: a pure function with random access, so that
//! a producer can restart anywhere and a replay can regenerate any record (ARCHITECTURE.md, "Life of a sample"). No I/O.
//!
//! `Iid`: one shuffled pass after another over the whole data set, dealt out to the devices in turn, so that devices never
//! hold the same element in one pass. `LabelSkew`: device d holds only the labels d·L … d·L + L − 1 (modulo their number), in
//! shuffled passes of its own.
//!
//! The record of device d at offset o of partition p of P is its record number k = o·P + p.

pub use scadles_api::worker::PartitionRule;

use crate::random::{Permutation, RandomStream};

/// Keeps these words apart from all others drawn from the job's seed.
const STREAM: u64 = 0x5ced_0001;

/// A schedule that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No data.
    #[error("failed to plan the streams: the data set is empty")]
    EmptyDataset,
    /// No devices.
    #[error("failed to plan the streams: there are no devices")]
    NoDevices,
    /// A share of labels that does not fit the data set.
    #[error(
        "failed to plan the streams: labelSkew.labelsPerDevice is {labels_per_device}, the data set has {num_classes} \
         labels; give 1 to {num_classes}"
    )]
    LabelsPerDevice {
        /// What was asked.
        labels_per_device: u32,
        /// Labels in the data set.
        num_classes: u32,
    },
    /// A label without pictures.
    #[error(
        "failed to plan the streams: device {device} would hold the labels {labels:?}, of which the data set has no record"
    )]
    EmptyLabels {
        /// The device.
        device: usize,
        /// Its labels.
        labels: Vec<u32>,
    },
}

/// The plan of all devices' streams.
#[derive(Debug, Clone)]
pub struct SampleSchedule {
    stream: RandomStream,
    devices: u64,
    dataset_len: u64,
    /// Elements by device; empty for `Iid`, where every device draws from all.
    elements: Vec<Vec<u32>>,
}

impl SampleSchedule {
    /// Plans the streams of `devices` devices over a data set whose element i has the label `labels[i]`.
    pub fn new(seed: u64, partition: PartitionRule, labels: &[u32], devices: usize) -> Result<Self, Error> {
        if labels.is_empty() {
            return Err(Error::EmptyDataset);
        }
        if devices == 0 {
            return Err(Error::NoDevices);
        }
        let elements = match partition {
            PartitionRule::Iid => Vec::new(),
            PartitionRule::LabelSkew { labels_per_device } => {
                split_by_label(labels, labels_per_device, devices)?
            }
        };
        let stream = RandomStream::new(seed, STREAM);
        Ok(Self { stream, devices: devices as u64, dataset_len: labels.len() as u64, elements })
    }

    /// The element that `device` sends as its record `number`.
    pub fn sample_index(&self, device: usize, number: u64) -> u64 {
        match self.elements.get(device) {
            None => {
                let dealt = number * self.devices + device as u64;
                let epoch = self.stream.substream(dealt / self.dataset_len);
                Permutation::new(epoch, self.dataset_len).apply(dealt % self.dataset_len)
            }
            Some(elements) => {
                let len = elements.len() as u64;
                let epoch = self.stream.substream(!(device as u64)).substream(number / len);
                u64::from(elements[Permutation::new(epoch, len).apply(number % len) as usize])
            }
        }
    }
}

fn split_by_label(labels: &[u32], labels_per_device: u32, devices: usize) -> Result<Vec<Vec<u32>>, Error> {
    let num_classes = labels.iter().max().map_or(0, |&label| label + 1);
    if labels_per_device == 0 || labels_per_device > num_classes {
        return Err(Error::LabelsPerDevice { labels_per_device, num_classes });
    }
    let mut by_label: Vec<Vec<u32>> = vec![Vec::new(); num_classes as usize];
    for (element, &label) in labels.iter().enumerate() {
        by_label[label as usize].push(element as u32);
    }
    (0..devices)
        .map(|device| {
            let first = device as u64 * u64::from(labels_per_device);
            let held: Vec<u32> = (0..u64::from(labels_per_device))
                .map(|i| ((first + i) % u64::from(num_classes)) as u32)
                .collect();
            let elements: Vec<u32> =
                held.iter().flat_map(|&label| by_label[label as usize].iter().copied()).collect();
            if elements.is_empty() { Err(Error::EmptyLabels { device, labels: held }) } else { Ok(elements) }
        })
        .collect()
}

#[cfg(test)]
mod tests;
