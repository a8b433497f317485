use super::*;

fn names() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

#[test]
fn mean_weights_follow_the_surviving_history() {
    let table = "step,seconds,local_batch.a,local_batch.b\n1,0.2,30,10\n2,0.5,10,10\n3,0.7,99,1\n2,0.9,20,20\n3,1.1,0,0\n4,1.";
    assert_eq!(
        mean_weights(table, &names()),
        [0.625, 0.375],
        "steps 1 and the second 2; no samples, no weight"
    );
    assert!(mean_weights("step,seconds\n1,2\n", &names()).is_empty());
    assert!(mean_weights("", &names()).is_empty());
}

#[test]
fn settling_counts_late_arrivals_as_buffered_and_keeps_the_balance() {
    let mut ledger = Ledger { arrived: 100, trained: 90, buffered: 10, ..Ledger::default() };
    let position = |partition, end| PartitionPosition { partition, start: 0, next: 45, end };
    settle(&mut ledger, &[position(0, 50), position(1, 50)], &[(1, 57), (0, 50), (2, 99)]);
    assert_eq!((ledger.arrived, ledger.buffered), (107, 17));
    assert!(ledger.is_balanced());
}
