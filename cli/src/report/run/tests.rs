use super::*;

fn device(name: usize, arrived: u64, dropped: u64, buffered: u64) -> DeviceReport {
    DeviceReport {
        name: name.to_string(),
        arrived,
        dropped,
        buffered,
        trained: arrived - dropped - buffered,
        rate_mean: 10.0,
        ..DeviceReport::default()
    }
}

#[test]
fn few_devices_are_shown_in_their_order_and_of_many_the_worst_come_first() {
    let few: Vec<DeviceReport> = (0..16).map(|name| device(name, 100, name as u64, 0)).collect();
    assert_eq!(chosen(&few), (0..16).collect::<Vec<_>>());
    let mut many: Vec<DeviceReport> = (0..64).map(|name| device(name, 1000, 0, name as u64)).collect();
    many[9].dropped = 10;
    many[40].lost = 500;
    let shown = chosen(&many);
    assert_eq!(shown.len(), SHOWN_DEVICES);
    assert_eq!(shown[..4], [40, 9, 63, 62], "lost, dropped, then the longest backlogs");
}
