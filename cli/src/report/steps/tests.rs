use super::*;

const HEAD: &str = "attempt,step,seconds,samples,loss,learning_rate,window_seconds,step_seconds,local_batch.a,\
                    local_batch.b,stream_rate.a,stream_rate.b,buffered.a,buffered.b,wait_seconds.a,wait_seconds.b";
const PHASES: &str = ",compute_seconds.a,compute_seconds.b,exchange_seconds.a,exchange_seconds.b";

fn names() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

fn read(table: &str) -> Result<Curves, Error> {
    let survey = Survey::of(table.as_bytes(), &names())?;
    collect(table.as_bytes(), &survey, &[1, 0])
}

/// A step of half a second.
fn row(attempt: u32, step: u32, batches: [u32; 2]) -> String {
    let [a, b] = batches;
    format!(
        "{attempt},{step},{},{},2.{step},0.1,0.25,0.5,{a},{b},0.00,20.00,7,3,0.3,0.1",
        f64::from(step) / 2.0,
        step * 40
    )
}

fn means(series: &Series) -> Vec<f64> {
    series.points.iter().map(|point| point.mean).collect()
}

#[test]
fn curves_hold_what_the_table_says() {
    let curves = read(&format!("{HEAD}\n{}\n{}\n", row(1, 1, [30, 10]), row(1, 2, [0, 40]))).unwrap();
    assert_eq!((curves.steps, curves.damaged_lines, curves.last_loss), (2, 0, Some(2.2)));
    assert_eq!(means(&curves.loss_by_time), [2.1, 2.2]);
    assert!((curves.loss_by_samples.points[1].x - 80.0).abs() < 1e-9);
    assert_eq!(means(&curves.samples_by_time), [40.0, 80.0]);
    assert_eq!(means(&curves.training), [80.0, 80.0], "40 samples in half a second");
    assert_eq!(means(&curves.arriving), [20.0, 20.0]);
    assert_eq!(means(&curves.buffered), [10.0, 10.0]);
    assert_eq!(curves.mean_weights, [0.375, 0.625]);
    // In the order that was asked for: b, a.
    assert_eq!(means(&curves.devices[0].local_batch), [10.0, 40.0]);
    assert_eq!(means(&curves.devices[1].weight), [0.75, 0.0]);
    assert!(curves.devices[1].stream_rate.is_empty(), "a rate of 0 is one that is not known yet");
    assert_eq!(means(&curves.devices[1].buffered), [7.0, 7.0]);
}

#[test]
fn a_step_that_a_restart_rolled_back_does_not_count() {
    let rows = [
        row(1, 1, [30, 10]),
        row(1, 2, [10, 10]),
        row(1, 3, [99, 1]),
        row(2, 2, [20, 20]),
        row(2, 3, [0, 0]),
    ];
    let curves = read(&format!("{HEAD}\n{}\n3,4,2.", rows.join("\n"))).unwrap();
    assert_eq!(curves.steps, 3, "1 of the first attempt, 2 and 3 of the second");
    assert_eq!(curves.mean_weights, [0.625, 0.375], "no samples, no weight");
    assert_eq!(curves.restarts, [(1.0, 2)]);
    assert_eq!(curves.damaged_lines, 0, "a last line without an end is one that was not written");
    // An attempt that began before the one before it: all of that one's steps are gone.
    let rows = [row(1, 5, [1, 1]), row(2, 3, [1, 1]), row(3, 1, [3, 1]), row(3, 2, [3, 1])];
    let curves = read(&format!("{HEAD}\n{}\n", rows.join("\n"))).unwrap();
    assert_eq!((curves.steps, curves.mean_weights), (2, vec![0.75, 0.25]));
}

#[test]
fn the_parts_of_a_steps_time_add_up_to_it() {
    let phases = ",0.05,0.1,0.1,0.2";
    let table = format!("{HEAD}{PHASES}\n{}{phases}\n{}{phases}\n", row(1, 1, [1, 1]), row(1, 2, [1, 1]));
    let curves = read(&table).unwrap();
    assert!(curves.phases);
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
    for (spent, [wait, compute, exchange, own]) in
        curves.spent.iter().zip([[0.6, 0.1, 0.2, 0.1], [0.2, 0.2, 0.4, 0.2]])
    {
        assert!(near(spent.wait, wait) && near(spent.compute, compute), "{spent:?}");
        assert!(near(spent.exchange, exchange) && near(spent.own, own), "{spent:?}");
        assert!(near(spent.wait + spent.compute + spent.exchange + spent.own, 1.0), "{spent:?}");
    }
    assert!(near(curves.exchange.points[0].mean, 0.15), "the mean of the devices");
    // A run that was begun by a version without phases, and resumed by one with them: its head stays.
    let resumed = format!("{HEAD}\n{}\n{}{phases}\n", row(1, 1, [1, 1]), row(2, 2, [1, 1]));
    let curves = read(&resumed).unwrap();
    assert!(!curves.phases);
    assert_eq!((curves.steps, curves.damaged_lines), (2, 0));
    assert!(near(curves.spent[0].compute, 0.4) && curves.spent[0].exchange == 0.0, "{:?}", curves.spent);
}

#[test]
fn damaged_lines_are_counted_and_left_out() {
    let bad = ["1,2,x", "", "1,2,1.0,80,2,0.1,0.25,0.5,ten,1,1,1,1,1,1,1", "\u{fffd}\u{0}"];
    for bad in bad {
        let curves = read(&format!("{HEAD}\n{}\n{bad}\n{}\n", row(1, 1, [1, 1]), row(1, 3, [1, 1]))).unwrap();
        assert_eq!((curves.steps, curves.damaged_lines), (2, 1), "{bad:?}");
    }
    let curves = read(&format!("{HEAD}\n{}\n", row(1, 1, [1, 1]).replace("2.1", "NaN"))).unwrap();
    assert_eq!((curves.steps, curves.undefined_losses, curves.last_loss), (1, 1, None));
}

#[test]
fn what_is_no_table_of_steps_is_an_error_in_words() {
    let words = |table: &str| read(table).unwrap_err().to_string();
    assert_eq!(words(""), "its first line has no column `attempt`");
    assert_eq!(words("a,b\n1,2\n"), "its first line has no column `attempt`");
    let one_device = HEAD.replace(",buffered.b", "");
    assert_eq!(words(&format!("{one_device}\n")), "its first line has no column `buffered.b`");
    let endless = "1".repeat(LONGEST_LINE_BYTES as usize + 1);
    assert_eq!(words(&format!("{HEAD}\n{endless}")), "line 2 is longer than 4194304 bytes");
    let restless = "1,1,0,0\n".repeat(MOST_LIVES + 1);
    assert_eq!(words(&format!("{HEAD}\n{restless}")), "its steps begin anew more than 10000 times");
    assert_eq!(read(&format!("{HEAD}\n")).unwrap().steps, 0, "a run without a step");
}

#[test]
fn a_long_run_has_as_many_points_as_a_short_one() {
    let mut table = format!("{HEAD}\n");
    for step in 1..=5_000 {
        table.push_str(&row(1, step, [if step == 4_321 { 900 } else { 10 }, 10]));
        table.push('\n');
    }
    let curves = read(&table).unwrap();
    assert_eq!(curves.steps, 5_000);
    assert_eq!(curves.loss_by_time.points.len(), POINTS);
    let batches = &curves.devices[1].local_batch;
    assert!(batches.points.len() <= DEVICE_POINTS, "{}", batches.points.len());
    let greatest = batches.points.iter().map(|point| point.high).fold(0.0, f64::max);
    assert!((greatest - 900.0).abs() < 1e-9, "the peak is there: {greatest}");
}

#[test]
fn a_life_begins_with_another_attempt_or_an_earlier_step() {
    let mut lives = Lives::default();
    let lines = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 3)];
    let found = lines.map(|(attempt, step)| lives.begins_anew(attempt, step));
    assert_eq!(found, [false, false, true, false, true]);
}
