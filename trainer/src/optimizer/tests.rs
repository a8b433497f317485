use super::*;

/// Numbers in ±1, the same for the same seed.
fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let stream = scadles_core::random::RandomStream::new(seed, 0);
    (0..len as u64).map(|i| 2.0 * stream.unit(i) - 1.0).collect()
}

fn typed<T: Real>(seed: u64, len: usize) -> Vec<T> {
    numbers(seed, len).into_iter().map(T::from_f64).collect()
}

/// The formula, one element at a time, as it is written.
fn plain_step<T: Real>(sgd: Sgd, rate: f64, w: &mut [T], d: &[T], m: &mut [T]) {
    for i in 0..w.len() {
        let decayed = d[i] + T::from_f64(sgd.weight_decay) * w[i];
        let kept = T::from_f64(sgd.momentum) * m[i];
        m[i] = kept + T::from_f64(rate) * decayed;
        w[i] = w[i] - m[i];
    }
}

fn has_the_bits_of_the_plain_loop<T: Real>() {
    let sgd = Sgd { momentum: 0.9, weight_decay: 1e-3 };
    for len in [0, 1, 15, 16, 1003] {
        let (mut w, mut state) = (typed::<T>(1, len), SgdState::new(len));
        let (mut plain_w, mut plain_m) = (w.clone(), vec![T::default(); len]);
        for step in 0..50 {
            let d = typed::<T>(100 + step, len);
            let rate = 0.1 / (1.0 + step as f64);
            sgd.step(rate, &mut w, &d, &mut state).unwrap();
            plain_step(sgd, rate, &mut plain_w, &d, &mut plain_m);
        }
        let bits = |values: &[T]| values.iter().map(|value| value.to_f64().to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&w), bits(&state.momentum)), (bits(&plain_w), bits(&plain_m)));
    }
}

#[test]
fn the_fused_pass_has_the_bits_of_the_plain_loop() {
    has_the_bits_of_the_plain_loop::<f32>();
    has_the_bits_of_the_plain_loop::<f64>();
}

/// PyTorch's order: buf ← μ·buf + (d + λ·w); w ← w − η·buf.
#[test]
fn at_a_constant_rate_it_is_torchs_sgd_up_to_rounding() {
    let sgd = Sgd { momentum: 0.9, weight_decay: 1e-3 };
    let (rate, len) = (0.05, 257);
    let (mut w, mut state) = (typed::<f32>(7, len), SgdState::new(len));
    let store = tch::nn::VarStore::new(tch::Device::Cpu);
    let mut torch_w = store.root().zeros("w", &[len as i64]);
    tch::no_grad(|| torch_w.copy_(&tch::Tensor::from_slice(&w)));
    let options = tch::nn::Sgd { momentum: 0.9, dampening: 0.0, wd: 1e-3, nesterov: false };
    let mut torch = tch::nn::OptimizerConfig::build(options, &store, rate).unwrap();
    for step in 0..50 {
        let d = typed::<f32>(200 + step, len);
        sgd.step(rate, &mut w, &d, &mut state).unwrap();
        let loss = torch_w.dot(&tch::Tensor::from_slice(&d));
        torch.backward_step(&loss);
    }
    let torch_w = Vec::<f32>::try_from(&torch_w).unwrap();
    let norm = torch_w.iter().map(|w| w * w).sum::<f32>().sqrt();
    let difference = w.iter().zip(&torch_w).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    assert!(difference / norm < 1e-6, "{}", difference / norm);
}

#[test]
fn a_step_at_another_rate_keeps_the_momentum_of_the_steps_before() {
    // One step at η = 1 with d = 1, then steps at η = 0: the momentum goes on as μ, μ², … of that step.
    let sgd = Sgd { momentum: 0.5, weight_decay: 0.0 };
    let (mut w, mut state) = (vec![0.0_f64], SgdState::new(1));
    let mut path = Vec::new();
    for rate in [1.0, 0.0, 0.0] {
        sgd.step(rate, &mut w, &[1.0], &mut state).unwrap();
        path.push(w[0]);
    }
    assert_eq!(path, [-1.0, -1.5, -1.75]);
}

#[test]
fn padding_of_the_flat_buffer_stays_zero() {
    let sgd = Sgd { momentum: 0.9, weight_decay: 0.1 };
    let (mut w, mut state) = (vec![1.0_f32, 0.0], SgdState::new(2));
    (0..10).for_each(|_| sgd.step(0.1, &mut w, &[0.3, 0.0], &mut state).unwrap());
    assert_eq!((w[1].to_bits(), state.momentum[1].to_bits()), (0, 0));
}

#[test]
fn lengths_that_differ_are_refused_before_anything_changes() {
    let sgd = Sgd { momentum: 0.9, weight_decay: 0.0 };
    let (mut w, mut state) = (vec![1.0_f32; 3], SgdState::new(3));
    let error = sgd.step(0.1, &mut w, &[1.0; 4], &mut state).unwrap_err();
    assert_eq!(error, LengthError { parameters: 3, gradients: 4, momentum: 3 });
    assert_eq!(w, [1.0; 3]);
}
