//! Tables of steps for the tests of those who read them.

use super::*;

/// Hands on the lines of a table: attempt, step and loss of each. A step takes half a second; every device gets 20
/// samples a second, trains 10 in each step, and 3 wait.
pub(crate) fn table(devices: usize, lines: &[(u64, u64, f64)], mut each: impl FnMut(&Step<'_>)) {
    let names: Vec<String> = (0..devices).map(scadles_api::names::numbered_device).collect();
    let mut head =
        "attempt,step,seconds,samples,loss,learning_rate,window_seconds,step_seconds,sparse,bytes_sent,dense_bytes"
            .to_owned();
    let columns = [
        ("local_batch", 10.0),
        ("stream_rate", 20.0),
        ("buffered", 3.0),
        ("wait_seconds", 0.25),
        ("compute_seconds", 0.125),
        ("exchange_seconds", 0.0625),
    ];
    let cells =
        columns.iter().flat_map(|(column, _)| names.iter().map(move |name| format!(",{column}.{name}")));
    head.extend(cells);
    let layout = Layout::of(&head, &names).unwrap();
    let mut cells = Vec::new();
    for (attempt, step, loss) in lines {
        let (seconds, samples) = (*step as f64 / 2.0, *step * 10 * devices as u64);
        let mut line = format!("{attempt},{step},{seconds},{samples},{loss},0.1,0.25,0.5,0,1000,4000");
        line.extend(columns.iter().flat_map(|(_, value)| vec![format!(",{value}"); devices]));
        each(&layout.step(&line, &mut cells).unwrap());
    }
}
