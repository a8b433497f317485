use std::time::Duration;

use super::*;
use crate::engine::InProcess;
use crate::numeric::bytes_of;

/// Slots that make several buckets of f32: 2 MiB, 30 MiB and small ones.
const OFFSETS: [usize; 4] = [0, 128, 8_000_000, 8_500_000];
const ELEMENTS: usize = 9_000_000;

fn gradients(rank: usize, elements: usize) -> Vec<f32> {
    let stream = scadles_core::random::RandomStream::new(rank as u64, 4);
    (0..elements as u64).map(|i| (stream.unit(i) - 0.5) as f32 * f32::exp2((i % 13) as f32)).collect()
}

fn combined(
    world_size: usize,
    elements: usize,
    exchange: &DenseExchange,
) -> Vec<(Vec<f32>, ExchangeStatistics)> {
    std::thread::scope(|scope| {
        let ranks = InProcess::group(world_size, Duration::from_mins(1)).into_iter();
        let ranks: Vec<_> = ranks
            .map(|mut comm| {
                scope.spawn(move || {
                    let mut values = gradients(comm.rank(), elements);
                    let statistics = exchange.combine(&mut comm, &mut values).unwrap();
                    (values, statistics)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn any_bucket_cut_gives_the_bits_of_the_logical_sum() {
    let elements = 9_000_000 / 16;
    let cut: Vec<usize> = OFFSETS.iter().map(|offset| offset / 16).collect();
    for world_size in [2, 3] {
        let contributions: Vec<Vec<f32>> = (0..world_size).map(|rank| gradients(rank, elements)).collect();
        let mut expected = vec![f32::NAN; elements];
        combine_logical(&mut expected, &contributions).unwrap();
        for offsets in [&cut[..], &[0]] {
            let exchange = DenseExchange::with_layout(offsets, elements, 4, world_size);
            for (values, _) in combined(world_size, elements, &exchange) {
                assert_eq!(bytes_of(&values), bytes_of(&expected), "{world_size} ranks, cut at {offsets:?}");
            }
        }
    }
}

#[test]
fn one_rank_keeps_its_gradients_and_sends_nothing() {
    let exchange = DenseExchange::with_layout(&OFFSETS, ELEMENTS, 4, 1);
    let (values, statistics) = combined(1, ELEMENTS, &exchange).remove(0);
    assert_eq!((values, statistics), (gradients(0, ELEMENTS), ExchangeStatistics::default()));
}

#[test]
fn bytes_sent_are_a_rings_share_of_the_buffer() {
    let exchange = DenseExchange::with_layout(&[0, 3000], 3600, 4, 3);
    for (_, statistics) in combined(3, 3600, &exchange) {
        assert_eq!(statistics.bytes_sent, 2 * 2 * 3600 * 4 / 3);
        assert!(statistics.seconds > 0.0);
    }
}

#[test]
fn residuals_travel_to_rank_0_and_back_in_pieces() {
    // More than one piece, the last of them short.
    let elements = (1 << 20) + 17;
    let came_back = std::thread::scope(|scope| {
        let ranks: Vec<_> = InProcess::group(3, Duration::from_mins(1))
            .into_iter()
            .map(|mut comm| {
                scope.spawn(move || {
                    let own = gradients(comm.rank(), elements);
                    let all = residuals::gather(&mut comm, &own).unwrap();
                    assert_eq!(all.len(), if comm.rank() == 0 { 3 } else { 0 });
                    assert!(all.iter().all(|residual| residual.capacity() < elements * 3 / 2));
                    let mut back = vec![0.0; elements];
                    residuals::scatter(&mut comm, &all, &mut back).unwrap();
                    bytes_of(&back) == bytes_of(&own)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(came_back, [true; 3]);
}

#[test]
fn a_group_or_buffer_of_another_size_is_refused() {
    let exchange = DenseExchange::with_layout(&[0], 32, 4, 2);
    let mut alone = InProcess::group(1, Duration::from_secs(1)).remove(0);
    assert!(matches!(exchange.combine(&mut alone, &mut [0.0_f32; 32]), Err(EngineError::Argument { .. })));
    let exchange = DenseExchange::with_layout(&[0], 32, 4, 1);
    assert!(matches!(exchange.combine(&mut alone, &mut [0.0_f32; 16]), Err(EngineError::Argument { .. })));
    assert!(matches!(
        combine_logical(&mut [0.0_f32; 2], &[vec![1.0; 2], vec![1.0; 3]]),
        Err(EngineError::Argument { .. })
    ));
}
