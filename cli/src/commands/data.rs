//! `scadles data`: which data sets are here, and how to get the others.

use scadles_api::{
    ExitCode,
    worker::{DatasetConfig, DatasetName, RecordFormat, SampleShape},
};
use scadles_kafka::dataset::{Dataset, Split};

use crate::{
    args::DataArgs,
    failure::Result,
    screen::{grouped, say},
    surroundings,
};

/// Lists the data sets.
pub fn data(args: &DataArgs) -> Result<ExitCode> {
    let dir = surroundings::data_dir(args.dir.as_deref());
    say(format!("data sets in {}", dir.display()));
    let mut missing = false;
    // Data sets with a name have their own; it is that of no job.
    let shape = SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape: [3, 32, 32] };
    for name in [DatasetName::Cifar10, DatasetName::Cifar100, DatasetName::FashionMnist] {
        let config = DatasetConfig { name, path: None };
        let count = |split| Dataset::load(&config, split, &dir, &shape).map(|set| set.len() as u64);
        match count(Split::Train).and_then(|train| Ok((train, count(Split::Test)?))) {
            Ok((train, test)) => {
                say(format!(
                    "  {name:?}: {} pictures to train on, {} held out",
                    grouped(train),
                    grouped(test)
                ));
            }
            Err(error) => {
                missing = true;
                say(format!("  {name:?}: not here ({error})"));
            }
        }
    }
    if missing {
        say(
            "`scripts/setup.sh data` (or `make setup`) fetches what is missing into .cache/data of the checkout;",
        );
        say(format!("copies of your own: --data DIR, or {}=DIR", surroundings::DATA_VARIABLE));
    }
    Ok(if missing { ExitCode::Configuration } else { ExitCode::Completed })
}
