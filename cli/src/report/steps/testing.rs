//! Tables of steps for the tests of those who read them.

use super::*;

/// A table: attempt, step and loss of each line. A step takes half a second; every device gets 20 samples a second, trains
/// 10 in each step, and 3 wait.
pub(crate) fn text(devices: usize, lines: &[(u64, u64, f64)]) -> String {
    let names = names(devices);
    let mut text =
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
    text.extend(cells);
    text.push('\n');
    for (attempt, step, loss) in lines {
        let (seconds, samples) = (*step as f64 / 2.0, *step * 10 * devices as u64);
        let own = format!("{attempt},{step},{seconds},{samples},{loss},0.1,0.25,0.5,0,1000,4000");
        let each = columns.iter().flat_map(|(_, value)| vec![format!(",{value}"); devices]);
        text.extend(std::iter::once(own).chain(each));
        text.push('\n');
    }
    text
}

/// Hands on the lines of such a table.
pub(crate) fn table(devices: usize, lines: &[(u64, u64, f64)], mut each: impl FnMut(&Step<'_>)) {
    let text = text(devices, lines);
    let mut lines = text.lines();
    let layout = Layout::of(lines.next().unwrap(), &names(devices)).unwrap();
    let mut cells = Vec::new();
    lines.for_each(|line| each(&layout.step(line, &mut cells).unwrap()));
}

fn names(devices: usize) -> Vec<String> {
    (0..devices).map(scadles_api::names::numbered_device).collect()
}
