//! Flat buffers under a real model and real backward passes, and the process-wide switches.
#![allow(clippy::unwrap_used, clippy::panic, clippy::float_cmp, clippy::cast_possible_wrap)]

mod common;

use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use torch_ext::{ALIGNMENT_BYTES, Element, Error, FlatParameters, LentGradients};

/// A small network with odd sizes, a normalisation, and a layer that the forward pass does not use.
struct Model {
    store: nn::VarStore,
    conv: nn::Conv2D,
    norm: nn::GroupNorm,
    linear: nn::Linear,
    unused: Tensor,
}

impl Model {
    fn new(kind: Kind) -> Self {
        torch_ext::set_threads(1).unwrap();
        let mut store = nn::VarStore::new(Device::Cpu);
        let root = store.root();
        let conv = nn::conv2d(&root / "conv", 3, 6, 3, nn::ConvConfig::default());
        let norm = nn::group_norm(&root / "norm", 2, 6, nn::GroupNormConfig::default());
        let linear = nn::linear(&root / "linear", 6, 5, nn::LinearConfig::default());
        let unused = root.zeros("unused", &[3, 7]);
        store.set_kind(kind);
        let model = Self { store, conv, norm, linear, unused };
        // Numbers of our own: torch's random state is shared by all tests of this process.
        for (index, (_, mut parameter)) in model.parameters().into_iter().enumerate() {
            let numbers = common::random::<f64>(index as u64 + 100, parameter.numel())
                .view(parameter.size().as_slice());
            tch::no_grad(|| parameter.copy_(&numbers));
        }
        model
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters: Vec<_> = self.store.variables().into_iter().collect();
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        parameters
    }

    fn loss(&self, seed: u64) -> Tensor {
        let kind = self.unused.kind();
        let images = common::random::<f64>(seed, 4 * 3 * 8 * 8).view([4, 3, 8, 8]).to_kind(kind);
        let labels = Tensor::from_slice(&[0_i64, 1, 2, 4]);
        let features = self.norm.forward(&self.conv.forward(&images)).relu().mean_dim(
            Some([2, 3].as_slice()),
            false,
            kind,
        );
        self.linear.forward(&features).cross_entropy_for_logits(&labels)
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.detach().flatten(0, -1).to_kind(Kind::Double)).unwrap()
}

fn gradients_add_up_in_the_buffer<T: Element + Into<f64>>() {
    let (plain, model) = (Model::new(T::KIND), Model::new(T::KIND));
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    for round in 0..2 {
        for micro_batch in 0..3 {
            let (expected, got) = (plain.loss(micro_batch), model.loss(micro_batch));
            assert_eq!(numbers(&expected), numbers(&got), "the adopted model computes the same");
            expected.backward();
            got.backward();
            assert!(flat.gradients_are_aliased(), "round {round}, micro-batch {micro_batch}");
        }
        let gradients = flat.gradients_slice::<T>().unwrap();
        for ((name, parameter), slot) in plain.parameters().iter().zip(flat.layout()) {
            assert_eq!(*name, slot.name);
            let part = &gradients[slot.offset_elements..slot.offset_elements + slot.len_elements];
            let part: Vec<f64> = part.iter().map(|&number| number.into()).collect();
            if name == "unused" {
                assert!(!parameter.grad().defined() && part.iter().all(|&number| number == 0.0));
            } else {
                assert_eq!(part, numbers(&parameter.grad()), "{name}, round {round}");
                assert!(part.iter().any(|&number| number != 0.0), "{name} has a gradient");
            }
        }
        flat.zero_gradients();
        assert!(numbers(flat.gradients()).iter().all(|&number| number == 0.0));
        assert!(flat.gradients_are_aliased());
        for (_, mut parameter) in plain.parameters() {
            parameter.zero_grad();
        }
    }
}

#[test]
fn gradients_of_several_micro_batches_add_up_in_the_buffer() {
    gradients_add_up_in_the_buffer::<f32>();
    gradients_add_up_in_the_buffer::<f64>();
}

#[test]
fn adopting_keeps_shapes_and_values_and_starts_every_tensor_on_64_bytes() {
    let (plain, model) = (Model::new(Kind::Float), Model::new(Kind::Float));
    let flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let values = flat.values_slice::<f32>().unwrap();
    let mut is_padding = vec![true; flat.len()];
    for ((_, expected), ((name, parameter), slot)) in
        plain.parameters().iter().zip(model.parameters().iter().zip(flat.layout()))
    {
        assert_eq!(parameter.size(), expected.size());
        assert_eq!(numbers(parameter), numbers(expected));
        assert!(parameter.requires_grad() && parameter.is_leaf());
        assert_eq!(parameter.data_ptr() as usize % ALIGNMENT_BYTES, 0, "{name}");
        assert_eq!(parameter.grad().data_ptr() as usize % ALIGNMENT_BYTES, 0, "{name}");
        let range = slot.offset_elements..slot.offset_elements + slot.len_elements;
        assert_eq!(values[range.clone()].as_ptr().cast(), parameter.data_ptr().cast_const());
        is_padding[range].fill(false);
    }
    assert_eq!(flat.values().size(), [flat.len() as i64]);
    assert_eq!(flat.len() % 16, 0);
    assert!(is_padding.iter().zip(values).all(|(&padding, &value)| !padding || value == 0.0));
    assert!(is_padding.contains(&true), "the sizes are odd");
}

#[test]
fn what_is_written_to_the_values_is_what_the_model_computes_with() {
    let model = Model::new(Kind::Float);
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    assert!(model.loss(0).double_value(&[]) != f64::from(5.0_f32.ln()));
    flat.values_slice_mut::<f32>().unwrap().fill(0.0);
    // All logits are zero: the loss is that of guessing.
    assert!((model.loss(0).double_value(&[]) - 5.0_f64.ln()).abs() < 1e-6);
    let (values, gradients) = flat.slices_mut::<f32>().unwrap();
    assert_eq!(values.len(), gradients.len());
    gradients.fill(1.0);
    assert_eq!(numbers(&model.unused.grad()), vec![1.0; 21]);
}

#[test]
fn a_replaced_gradient_is_noticed() {
    let model = Model::new(Kind::Float);
    let flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let mut optimizer = nn::Sgd::default().build(&model.store, 0.1).unwrap();
    model.loss(0).backward();
    assert!(flat.gradients_are_aliased());
    // tch's optimizers drop the gradient tensors instead of zeroing them.
    optimizer.zero_grad();
    model.loss(0).backward();
    assert!(!flat.gradients_are_aliased());
}

#[test]
fn a_replaced_value_is_noticed() {
    let model = Model::new(Kind::Float);
    let flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let elsewhere = model.linear.ws.detach().copy();
    model.linear.ws.shallow_clone().set_data(&elsewhere);
    assert!(!flat.gradients_are_aliased());
}

#[test]
fn empty_parameters_and_empty_models_are_adopted() {
    let none = FlatParameters::adopt(&[]).unwrap();
    assert!(none.is_empty() && none.values_slice::<f32>().unwrap().is_empty());
    let empty = Tensor::zeros([0, 3], (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let one = Tensor::ones([1], (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let mut flat = FlatParameters::adopt(&[("a".into(), empty), ("b".into(), one)]).unwrap();
    assert_eq!(flat.len(), 8);
    assert!(flat.gradients_are_aliased());
    flat.zero_gradients();
    assert_eq!(flat.values_slice::<f64>().unwrap(), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn what_cannot_be_adopted_is_named() {
    let float = || Tensor::ones([2], (Kind::Float, Device::Cpu));
    let refused = |parameters: &[(&str, Tensor)], part: &str| {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, t)| ((*name).to_owned(), t.shallow_clone())).collect();
        match FlatParameters::adopt(&parameters) {
            Err(Error::Argument { message, .. }) => assert!(message.contains(part), "{message}"),
            other => panic!("expected a refusal with {part:?}, got {other:?}"),
        }
    };
    refused(&[("w", float().to_kind(Kind::Int64))], "parameter w is Int64");
    refused(&[("w", float()), ("v", float().to_kind(Kind::Double))], "parameter v is Double");
    refused(&[("w", float().to_kind(Kind::BFloat16))], "allowed: all Float or all Double");
    refused(&[("w", float()), ("w", float())], "appears twice");
    let tied = float();
    refused(&[("w", tied.shallow_clone()), ("v", tied)], "shares its memory");
    refused(&[("w", Tensor::new())], "undefined");
    refused(&[("w", float().set_requires_grad(true) * 2.0)], "result of a computation");
    let flat = FlatParameters::adopt(&[("w".into(), float())]).unwrap();
    assert!(matches!(flat.values_slice::<f64>(), Err(Error::Argument { .. })));
}

#[test]
fn subnormal_numbers_are_flushed_on_demand() {
    // A thread of its own: the switch belongs to the thread.
    let thread = std::thread::spawn(|| {
        let tiny = |on| {
            assert!(torch_ext::set_flush_denormal(on));
            (Tensor::from_slice(&[1e-38_f32]) * 1e-2).double_value(&[0])
        };
        assert_eq!(tiny(true), 0.0);
        assert!(tiny(false) > 0.0);
    });
    thread.join().unwrap();
}

#[test]
fn switches_report_and_refuse() {
    assert!(torch_ext::torch_version().starts_with("2.11."));
    torch_ext::set_threads(1).unwrap();
    assert_eq!(tch::get_num_threads(), 1);
    assert!(matches!(torch_ext::set_threads(0), Err(Error::Argument { .. })));
    assert!(matches!(torch_ext::set_interop_threads(-1), Err(Error::Argument { .. })));
    torch_ext::set_interop_threads(tch::get_num_interop_threads()).unwrap();
}

/// The layers' ranges as backward finishes them, the one with the unused parameter last.
fn parts(flat: &FlatParameters) -> Vec<Range<usize>> {
    let first = |name: &str| {
        let slot = flat.layout().iter().find(|slot| slot.name.starts_with(name));
        slot.unwrap().offset_elements
    };
    assert!(first("conv") < first("linear") && first("linear") < first("norm"));
    assert!(first("norm") < first("unused"));
    vec![first("linear")..first("norm"), first("conv")..first("linear"), first("norm")..flat.len()]
}

/// A thread that takes all parts, and what it finds in them.
fn borrower(mut lent: LentGradients) -> Receiver<Vec<f32>> {
    let (sender, found) = channel();
    std::thread::spawn(move || {
        while let Some(part) = lent.next_part::<f32>().unwrap() {
            sender.send(part.to_vec()).unwrap();
            // What the borrower leaves is the owner's.
            part.fill(0.5);
        }
    });
    found
}

#[test]
fn a_part_is_handed_on_while_the_loan_lasts_once_the_last_backward_has_added_to_it() {
    let (plain, model) = (Model::new(Kind::Float), Model::new(Kind::Float));
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let mut expected = FlatParameters::adopt(&plain.parameters()).unwrap();
    let parts = parts(&flat);
    for round in 0..3 {
        flat.zero_gradients();
        expected.zero_gradients();
        let (lent, loan) = flat.lend_gradients(&parts).unwrap();
        let found = borrower(lent);
        for micro_batch in 0..3 {
            plain.loss(micro_batch + round).backward();
            let loss = model.loss(micro_batch + round);
            if micro_batch == 2 {
                flat.expect_last_backward();
            }
            loss.backward();
        }
        let expected = expected.gradients_slice::<f32>().unwrap();
        for part in &parts[..2] {
            let found = found.recv_timeout(Duration::from_secs(30)).unwrap();
            assert_eq!(found, expected[part.clone()], "round {round}: the sum of all backward passes");
        }
        assert_eq!(found.try_recv(), Err(TryRecvError::Empty), "nothing adds to the unused parameter");
        for refused in [flat.gradients_slice::<f32>().err(), flat.slices_mut::<f32>().err()] {
            assert!(refused.unwrap().to_string().contains("are lent to another thread"));
        }
        assert!(flat.values_slice::<f32>().is_ok(), "values are not lent");
        loan.complete();
        assert_eq!(found.recv_timeout(Duration::from_secs(30)).unwrap(), expected[parts[2].clone()]);
        assert!(found.recv_timeout(Duration::from_secs(30)).is_err(), "the borrower is done");
        assert!(flat.gradients_slice::<f32>().unwrap().iter().all(|value| *value == 0.5));
    }
}

#[test]
fn a_borrower_knows_when_backward_completed_each_part_of_this_loan() {
    let model = Model::new(Kind::Float);
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let parts = parts(&flat);
    let (lent, loan) = flat.lend_gradients(&parts).unwrap();
    flat.expect_last_backward();
    let loss = model.loss(0);
    let began = Instant::now();
    loss.backward();
    let ended = Instant::now();
    loan.complete();
    let completed = lent.completed();
    assert!(completed[..2].iter().all(|at| (began..=ended).contains(&at.unwrap())), "{completed:?}");
    assert_eq!(completed[2], None, "it holds the unused parameter");
    drop(lent);
    let (lent, loan) = flat.lend_gradients(&parts).unwrap();
    loan.complete();
    assert_eq!(lent.completed(), [None; 3]);
}

#[test]
fn a_loan_that_is_given_up_hands_on_no_more() {
    let model = Model::new(Kind::Float);
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let parts = parts(&flat);
    let (lent, loan) = flat.lend_gradients(&parts).unwrap();
    let found = borrower(lent);
    model.loss(0).backward();
    drop(loan);
    assert!(found.recv_timeout(Duration::from_secs(30)).is_err());
    // The next loan is another one, also in other parts.
    let (lent, loan) = flat.lend_gradients(std::slice::from_ref(&(0..flat.len()))).unwrap();
    let found = borrower(lent);
    loan.complete();
    assert_eq!(found.recv_timeout(Duration::from_secs(30)).unwrap().len(), flat.len());
}

#[test]
fn what_cannot_be_lent_is_refused() {
    let model = Model::new(Kind::Float);
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let len = flat.len();
    let mut refused = |parts: &[Range<usize>], part: &str| {
        let message = flat.lend_gradients(parts).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(&[0..len, 0..len], "must be disjoint");
    refused(std::slice::from_ref(&(0..len + 1)), "within 0..");
    refused(&[0..17, 17..len], "lies in none of the parts");
    let (mut lent, loan) = flat.lend_gradients(std::slice::from_ref(&(0..len))).unwrap();
    assert!(
        flat.lend_gradients(std::slice::from_ref(&(0..len))).unwrap_err().to_string().contains("are lent")
    );
    loan.complete();
    assert!(lent.next_part::<f64>().unwrap_err().to_string().contains("the buffers hold Float"));
}

#[test]
#[should_panic(expected = "the gradients are lent to another thread")]
fn gradients_that_are_being_handed_on_cannot_be_made_zero() {
    let model = Model::new(Kind::Float);
    let mut flat = FlatParameters::adopt(&model.parameters()).unwrap();
    let (_lent, loan) = flat.lend_gradients(std::slice::from_ref(&(0..flat.len()))).unwrap();
    flat.zero_gradients();
    loan.complete();
    flat.zero_gradients();
}
