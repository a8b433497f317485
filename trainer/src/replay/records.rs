//! Records again: made by the producer's pure function, or read from the topics. Shell.

use std::sync::Arc;
use std::time::Duration;

use scadles_api::worker::{DeviceConfig, JobConfig};
use scadles_kafka::dataset::{Dataset, DatasetSource, Split};
use scadles_kafka::format::RecordDecoder;
use scadles_kafka::{KafkaConnection, RangeReader};

use super::ReplayError;
use crate::journal::RecordRange;

/// How long the broker may take for one range.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// Where the records of a run can be had again.
pub trait Records {
    /// Appends the samples of `range` of the job's device number `device` to `samples`, in order of offsets. The error
    /// says why it cannot.
    fn read(&mut self, device: usize, range: RecordRange, samples: &mut Vec<Vec<u8>>) -> Result<(), String>;
}

/// The records of `job`: its producer's if it has one, else those of its topics.
pub fn open(job: &JobConfig) -> Result<Box<dyn Records>, ReplayError> {
    let failed = |reason: String| ReplayError::Streams { reason };
    if let Some(producer) = &job.producer {
        let dataset = Dataset::load(&producer.dataset, Split::Train, &job.data_dir, &job.samples())
            .map_err(|error| failed(error.to_string()))?;
        let source =
            DatasetSource::new(Arc::new(dataset), producer.partition, producer.seed, job.devices.len())
                .map_err(|error| failed(error.to_string()))?;
        return Ok(Box::new(Produced { source, devices: job.devices.clone() }));
    }
    let connection = KafkaConnection::try_from(&job.kafka).map_err(|error| failed(error.to_string()))?;
    let reader = RangeReader::new(&connection).map_err(|error| failed(error.to_string()))?;
    let decoder = RecordDecoder::new(job.samples());
    Ok(Box::new(Stored { reader, decoder, devices: job.devices.clone() }))
}

/// Records of the job's own producer: the record at (device, partition p of P, offset o) is its number o·P + p.
struct Produced {
    source: DatasetSource,
    devices: Vec<DeviceConfig>,
}

impl Records for Produced {
    fn read(&mut self, device: usize, range: RecordRange, samples: &mut Vec<Vec<u8>>) -> Result<(), String> {
        let RecordRange(partition, first, count) = range;
        let partitions = u64::from(self.devices[device].partitions);
        for offset in first..first + count {
            let number = offset * partitions + u64::from(partition);
            samples.push(self.source.sample(device, number).into_owned());
        }
        Ok(())
    }
}

/// Records that the broker still has.
struct Stored {
    reader: RangeReader,
    decoder: RecordDecoder,
    devices: Vec<DeviceConfig>,
}

impl Records for Stored {
    fn read(&mut self, device: usize, range: RecordRange, samples: &mut Vec<Vec<u8>>) -> Result<(), String> {
        let RecordRange(partition, first, count) = range;
        let topic = &self.devices[device].topic;
        let records = self
            .reader
            .read(topic, partition, first, count as usize, READ_DEADLINE)
            .map_err(|error| error.to_string())?;
        for (record, offset) in records.into_iter().zip(first..) {
            if record.offset != offset {
                return Err(format!(
                    "topic {topic:?}, partition {partition} has no record at offset {offset}"
                ));
            }
            let sample = self.decoder.decode(&record.payload, record.label.as_deref()).map_err(|reason| {
                format!("topic {topic:?}, partition {partition}, offset {offset}: {reason}")
            })?;
            samples.push(sample.to_vec());
        }
        Ok(())
    }
}
