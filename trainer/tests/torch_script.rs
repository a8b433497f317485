//! A network of the user's own: trained as PyTorch would, by ranks that agree bit for bit; and the files that are refused.
//! `fixtures/torch_script/make.py` has written them.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot be set up has failed.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Rank, processes, threads, uneven};
use scadles_api::ExitCode;
use scadles_api::worker::{ModelConfig, ModelName, RecordFormat, SampleShape, TorchScriptConfig, Transform};
use scadles_trainer::batch::{BatchAssembler, SampleRef};
use scadles_trainer::learner::{Learner, LearnerError, set_up_torch};
use serde::Deserialize;

const SHAPE: [u32; 3] = [1, 8, 8];
const CLASSES: u32 = 10;
const RANKS: usize = 3;
const STEPS: u64 = 5;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_script").join(name)
}

fn model(path: &Path) -> ModelConfig {
    let file = TorchScriptConfig { path: path.to_owned(), parameters: None };
    ModelConfig { torch_script: Some(file), ..ModelConfig::built_in(ModelName::TorchScript, SHAPE, CLASSES) }
}

fn learner(name: &str) -> Learner<f32> {
    Learner::new(&model(&fixture(name)), 1234).unwrap()
}

/// What PyTorch computes for two pictures of rising brightness and the labels 3 and 7.
#[derive(Deserialize)]
struct Expected {
    scores: Vec<f64>,
    loss: f64,
    /// Sum and norm by parameter.
    gradients: BTreeMap<String, [f64; 2]>,
}

fn assert_close(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{what}: {found}, not {expected}");
}

#[test]
fn scores_and_gradients_are_those_of_pytorch() {
    set_up_torch(1).unwrap();
    let expected: Expected =
        serde_json::from_str(&std::fs::read_to_string(fixture("residual.json")).unwrap()).unwrap();
    let mut learner = learner("residual.pt");
    // (v/255)/(128/255): bytes 0 to 127 become 0/128 to 127/128.
    let transform = Transform {
        mean: vec![0.0],
        std: vec![128.0 / 255.0],
        random_crop_padding: 0,
        horizontal_flip: false,
    };
    let records: Vec<Vec<u8>> = [(3_u8, 0_u8), (7, 64)]
        .map(|(label, first)| [label].into_iter().chain(first..first + 64).collect())
        .into();
    let shape = SampleShape::new(RecordFormat::CifarBinary, &model(&fixture("residual.pt")));
    let mut assembler = BatchAssembler::<f32>::new(&shape, &transform, 2).unwrap();
    let batch =
        assembler.assemble(records.iter().map(|record| SampleRef::plain(record, &transform))).unwrap();
    let statistics = learner.contribute(batch, 1.0, 2).unwrap();
    assert_close("loss", statistics.loss_sum, expected.loss);
    assert_eq!(expected.scores.len(), 20);
    let layout = learner.flat().layout();
    let names: Vec<&str> = layout.iter().map(|slot| slot.name.as_str()).collect();
    assert!(names.contains(&"first.weight") && !names.contains(&"scale"), "{names:?}");
    assert_eq!(names.len(), expected.gradients.len());
    for slot in layout {
        let own = &learner.gradients().unwrap()[slot.offset_elements..][..slot.len_elements];
        let [sum, norm] = expected.gradients[&slot.name];
        let own = || own.iter().copied().map(f64::from);
        assert_close(&slot.name, own().sum(), sum);
        assert_close(&slot.name, own().map(|gradient| gradient * gradient).sum::<f64>().sqrt(), norm);
    }
}

fn trained(name: &str, ranks: usize) -> u64 {
    set_up_torch(1).unwrap();
    let mut rank = Rank::new(&model(&fixture(name)), learner(name));
    for step in 0..STEPS {
        rank.logical_step(step, &uneven(step, ranks));
    }
    rank.hash()
}

#[test]
fn ranks_in_threads_have_the_bits_of_logical_devices() {
    let expected = trained("residual.pt", RANKS);
    let hashes = threads(RANKS, |comm| {
        let mut rank = Rank::new(&model(&fixture("residual.pt")), learner("residual.pt"));
        for step in 0..STEPS {
            rank.step(comm, step, &uneven(step, RANKS));
        }
        rank.hash()
    });
    assert_eq!(hashes, [expected; RANKS]);
    assert_ne!(trained("other.pt", RANKS), expected, "start values are those of the file");
}

#[test]
fn ranks_in_processes_have_the_bits_of_logical_devices() {
    let hashes = processes("ranks_in_processes_have_the_bits_of_logical_devices", RANKS, |comm| {
        let mut rank = Rank::new(&model(&fixture("residual.pt")), learner("residual.pt"));
        for step in 0..STEPS {
            rank.step(comm, step, &uneven(step, RANKS));
        }
        rank.hash()
    });
    assert_eq!(hashes, [trained("residual.pt", RANKS); RANKS]);
}

/// libtorch's executor rewrites a graph after its first runs; a run that begins anew at a checkpoint has not had them.
#[test]
fn a_gradient_is_the_same_after_one_pass_and_after_many() {
    set_up_torch(1).unwrap();
    let gradients = |passes: u64| {
        let mut rank = Rank::new(&model(&fixture("residual.pt")), learner("residual.pt"));
        for step in 0..passes {
            rank.contribute(0, step, 7, 7);
        }
        rank.contribute(0, 100, 7, 7);
        rank.learner.gradients().unwrap().iter().map(|gradient| gradient.to_bits()).collect::<Vec<u32>>()
    };
    assert_eq!(gradients(0), gradients(6));
}

#[test]
fn a_micro_batch_of_any_size_is_taken() {
    set_up_torch(1).unwrap();
    let mut rank = Rank::<f32>::new(&model(&fixture("residual.pt")), learner("residual.pt"));
    for micro_batch in [1, 2, 64] {
        rank.micro_batch = micro_batch;
        assert!(rank.contribute(0, 0, 13, 13).loss_sum.is_finite());
    }
}

fn refusal(config: &ModelConfig) -> (String, String) {
    match Learner::<f32>::new(config, 1).map(|_| ()) {
        Ok(()) => panic!("{config:?} was taken"),
        Err(error) => {
            assert_eq!(error.exit_code(), ExitCode::Configuration, "{error}");
            (error.to_string(), error.remedy().to_owned())
        }
    }
}

fn assert_refused(config: &ModelConfig, parts: &[&str]) {
    let (message, remedy) = refusal(config);
    let text = format!("{message}\n{remedy}");
    for part in ["spec.model.torchScript.path"].iter().chain(parts) {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(!text.contains("frame #") && text.len() < 700, "a stack of C++ in: {text}");
    assert!(!remedy.is_empty(), "{message}");
}

#[test]
fn modules_that_could_not_be_repeated_or_trained_are_refused_with_a_remedy() {
    for (name, parts) in [
        ("dropout.pt", ["aten::dropout", "leave dropout"]),
        ("batchnorm.pt", ["aten::batch_norm", "GroupNorm"]),
        ("counting.pt", ["its tensor seen", "no state but parameters"]),
        ("assigning.pt", ["its attribute seen", "no state but parameters"]),
        ("tied.pt", ["head.weight", "other"]),
        ("detached.pt", ["do not depend", "detach()"]),
        ("pair.pt", ["did not return a tensor", "spec.model.inputShape"]),
        ("half.pt", ["head.weight is of kind Half", "float()"]),
        ("frozen.pt", ["no parameter that can be trained", "torch.jit.freeze"]),
        ("oftwo.pt", ["a batch of 2, and not one of 1", "batches of a stream have any size"]),
        ("traced.pt", ["was traced", "torch.jit.script(module).save(FILE)"]),
        ("state_dict.pt", ["no TorchScript file", "torch.jit.script(module).save(FILE)"]),
        ("nowhere.pt", ["nowhere.pt", "name a file"]),
    ] {
        assert_refused(&model(&fixture(name)), &parts);
    }
}

#[test]
fn a_module_of_other_pictures_or_classes_is_refused_with_the_field_to_set() {
    let own = model(&fixture("residual.pt"));
    let other_pictures = ModelConfig { input_shape: [3, 8, 8], ..own.clone() };
    assert_refused(&other_pictures, &["[2, 3, 8, 8]", "spec.model.inputShape"]);
    let other_classes = ModelConfig { num_classes: 7, ..own };
    assert_refused(&other_classes, &["[2, 10] for 2 pictures", "[2, 7]", "spec.model.numClasses"]);
}

#[test]
fn a_file_that_was_cut_short_or_is_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("residual.pt")).unwrap();
    for (name, bytes) in
        [("half", &whole[..whole.len() / 2]), ("text", b"no module".as_slice()), ("empty", b"")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_refused(&model(&path), &["no TorchScript file, or cut short"]);
    }
}

#[test]
fn tensors_of_another_file_are_refused_even_where_they_would_fit() {
    let own = learner("residual.pt");
    let tensors = own.encode(own.parameters().unwrap()).unwrap();
    let mut same = learner("residual.pt");
    same.set_model(&tensors).unwrap();
    let mut other = learner("other.pt");
    let before = other.parameter_hash().unwrap();
    let error = other.set_model(&tensors).unwrap_err();
    assert!(matches!(error, LearnerError::Tensors(_)));
    assert_eq!(error.exit_code(), ExitCode::Configuration);
    assert!(error.to_string().contains(other.model_file().unwrap()), "{error}");
    assert_eq!(other.parameter_hash().unwrap(), before);
}
