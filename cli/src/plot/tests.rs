use super::{
    svg::escape,
    ticks::{rounded, ticks},
    *,
};

fn axis(name: &str, scale: Scale) -> Axis<'_> {
    Axis { name, scale, from: Some(0.0), to: None }
}

fn line<'a>(name: &'a str, colour: Colour, series: &'a Series) -> Line<'a> {
    Line { name, colour, stroke: Stroke::Solid, series }
}

fn chart(lines: Vec<Line<'_>>) -> LineChart<'_> {
    LineChart {
        title: "loss",
        look: Look::Full,
        x: axis("training time", Scale::Seconds),
        y: axis("loss", Scale::Number),
        lines,
        marks: vec![],
    }
}

/// Texts of a picture with their places: x, y, anchor, words.
fn texts(svg: &str) -> Vec<(f64, f64, String, String)> {
    let number = |tag: &str, name: &str| -> f64 {
        let from = tag.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
        tag[from..].split('"').next().unwrap().parse().unwrap()
    };
    svg.split("<text")
        .skip(1)
        .map(|part| {
            let (tag, rest) = part.split_once('>').unwrap();
            let anchor =
                tag.split("text-anchor=\"").nth(1).map_or("start", |rest| rest.split('"').next().unwrap());
            let words = rest.split("</text>").next().unwrap();
            (number(tag, "x"), number(tag, "y"), anchor.to_owned(), words.to_owned())
        })
        .collect()
}

#[test]
fn ticks_stand_at_round_numbers_within_the_axis() {
    let texts = |scale, from, to| -> Vec<String> {
        ticks(scale, from, to, 6).at.into_iter().map(|(_, text)| text).collect()
    };
    assert_eq!(texts(Scale::Number, 0.0, 7.3), ["0", "2", "4", "6"]);
    assert_eq!(texts(Scale::Number, 0.0, 0.43), ["0", "0.1", "0.2", "0.3", "0.4"]);
    assert_eq!(texts(Scale::Number, 0.0, 61_000.0), ["0", "20 k", "40 k", "60 k"]);
    assert_eq!(texts(Scale::Number, -2000.0, 2000.0), ["-2 000", "-1 000", "0", "1 000", "2 000"]);
    assert_eq!(texts(Scale::Number, 1.12, 2.31), ["1.5", "2.0"]);
    assert_eq!(texts(Scale::Share, 0.0, 0.6), ["0", "20", "40", "60"]);
    assert_eq!(texts(Scale::Bytes, 0.0, 3.7e9), ["0", "1 G", "2 G", "3 G"]);
    for (to, unit, wanted) in [
        (109.0, "s", vec!["0", "30", "60", "90"]),
        (600.0, "min", vec!["0", "2", "4", "6", "8", "10"]),
        (20_000.0, "h", vec!["0", "2", "4"]),
        (1_000_000.0, "days", vec!["0", "5", "10"]),
    ] {
        let found = ticks(Scale::Seconds, 0.0, to, 6);
        assert_eq!(found.unit, unit, "{to}");
        assert_eq!(found.at.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), wanted, "{to}");
        assert!(found.at.iter().all(|(place, _)| (0.0..=to).contains(place)), "{found:?}");
    }
}

#[test]
fn a_rounded_range_holds_its_values_and_ends_at_ticks() {
    for (from, to) in [(0.0, 7.3), (1.12, 2.31), (-3.0, 4.0), (0.0, 1e-4), (0.0, 123_456_789.0), (5.0, 5.1)] {
        let ((low, high), ticks) = rounded(Scale::Number, from, to, 6);
        assert!(low <= from && high >= to, "{from}..{to} became {low}..{high}");
        let places: Vec<f64> = ticks.at.into_iter().map(|(place, _)| place).collect();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * (high - low);
        assert!(near(places[0], low) && near(*places.last().unwrap(), high), "{places:?} of {low}..{high}");
        assert!(places.len() <= 8, "{places:?}");
    }
}

#[test]
fn numbers_are_written_short() {
    for (number, text) in [
        (0.0, "0"),
        (7.25, "7.25"),
        (0.368, "0.368"),
        (812.4, "812"),
        (9_999.0, "9 999"),
        (60_113.0, "60.1 k"),
        (3.68e9, "3.68 G"),
        (f64::NAN, "–"),
    ] {
        assert_eq!(short(number), text);
    }
}

#[test]
fn thinning_keeps_every_peak_and_the_number_of_points_within_the_bound() {
    let mut thinner = Thinner::new(100_000, 200);
    for step in 0..100_000_u32 {
        let y = match step {
            31_337 => 900.0,
            77_777 => -900.0,
            _ => f64::from(step % 7),
        };
        thinner.add(f64::from(step), y);
    }
    let series = thinner.finish();
    assert_eq!(series.points.len(), 200);
    let high = series.points.iter().map(|point| point.high).fold(f64::MIN, f64::max);
    let low = series.points.iter().map(|point| point.low).fold(f64::MAX, f64::min);
    assert_eq!((low, high), (-900.0, 900.0));
    assert!(series.points.iter().all(|point| point.low <= point.mean && point.mean <= point.high));
    assert!(series.points.windows(2).all(|pair| pair[0].x < pair[1].x), "from left to right");
}

#[test]
fn few_values_are_kept_as_they_are_and_what_is_no_number_is_no_point() {
    let mut thinner = Thinner::new(3, 200);
    for (x, y) in [(1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0)] {
        thinner.add(x, y);
    }
    let point = |x: f64, y: f64| Point { x, low: y, mean: y, high: y };
    let series = thinner.finish();
    assert_eq!(series.points, [point(1.0, 2.0), point(3.0, 4.0)]);
    assert!(!series.has_band());
    // More values than were announced: the bound on points is by what was announced, nothing is lost.
    let mut thinner = Thinner::new(4, 2);
    (0..6).for_each(|value| thinner.add(f64::from(value), 1.0));
    assert_eq!(thinner.finish().points.len(), 3);
    assert!(Thinner::new(0, 0).finish().is_empty());
}

#[test]
fn a_chart_without_values_says_so_and_one_value_is_a_dot() {
    let (nothing, one) = (Series::default(), Series::exact([(0.0, 2.3)]));
    let empty = chart(vec![line("a", Colour::Blue, &nothing)]).svg();
    assert!(empty.contains("no data") && empty.contains("data-points=\"0\""), "{empty}");
    let single = chart(vec![line("a", Colour::Blue, &one)]).svg();
    assert!(single.contains("<circle") && !single.contains("NaN") && !single.contains("inf"), "{single}");
}

#[test]
fn no_value_leads_beyond_the_picture_or_to_something_that_is_no_number() {
    for values in [
        vec![(0.0, 0.0)],
        vec![(0.0, 0.0), (1.0, 0.0)],
        vec![(5.0, -3.0), (5.0, 7.0)],
        vec![(0.0, 1e300), (1e9, 1e-300)],
        vec![(0.0, 5.0), (1.0, 5.0)],
    ] {
        let series = Series::exact(values.clone());
        for look in [Look::Full, Look::Small] {
            let svg = LineChart { look, ..chart(vec![line("a", Colour::Blue, &series)]) }.svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{values:?}: {svg}");
            for (x, y, _, words) in texts(&svg) {
                assert!((0.0..=440.0).contains(&x) && (0.0..=230.0).contains(&y), "{words} at {x} {y}");
            }
        }
    }
}

#[test]
fn names_of_curves_that_end_together_are_moved_apart() {
    let series: Vec<Series> =
        (0..6).map(|index| Series::exact([(0.0, 9.0), (1.0, f64::from(index) * 1e-3)])).collect();
    let names = ["n0", "n1", "n2", "n3", "n4", "n5"];
    let lines =
        names.iter().zip(&series).zip(Colour::ALL).map(|((name, series), colour)| line(name, colour, series));
    let svg = chart(lines.collect()).svg();
    let mut places: Vec<f64> = texts(&svg)
        .into_iter()
        .filter(|(_, _, _, words)| words.starts_with('n'))
        .map(|(_, y, _, _)| y)
        .collect();
    assert_eq!(places.len(), 6);
    places.sort_by(f64::total_cmp);
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 13.9), "{places:?}");
}

#[test]
fn the_parts_of_a_bar_add_up_to_its_length() {
    let part = |name, colour| Part { name, colour };
    let bars = StackedBars {
        title: "ledger",
        axis: "samples",
        scale: Scale::Number,
        parts: vec![
            part("trained", Colour::Blue),
            part("dropped", Colour::Orange),
            part("lost", Colour::Red),
        ],
        bars: vec![
            Bar { name: "a", values: vec![600.0, 400.0, 0.0], label: "1 000".to_owned() },
            Bar { name: "b", values: vec![499.0, 1.0, 0.0], label: "500".to_owned() },
        ],
    };
    let svg = bars.svg();
    let widths: Vec<f64> = svg
        .split("<rect class=\"part")
        .skip(1)
        .filter(|part| part.contains("height=\"15.0\""))
        .map(|part| part.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(widths.len(), 4, "{svg}");
    assert!((widths[0] + widths[1] - 2.0 * widths[2]).abs() < 1.0, "{widths:?}");
    assert!((widths[0] / widths[1] - 1.5).abs() < 0.01, "{widths:?}");
    assert!((widths[3] - 1.5).abs() < 1e-9, "something is never drawn as nothing");
    assert!(!svg.contains(">lost<"), "a part that is nothing everywhere is not in the legend: {svg}");
    assert!(svg.contains("&lt; 1 %"), "a small part is not rounded to nothing: {svg}");
}

#[test]
fn hostile_names_stay_text() {
    let name = "</text><script>alert('1')</script>&\u{0}\"";
    assert_eq!(escape(name), "&lt;/text&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp; &quot;");
    let series = Series::exact([(0.0, 1.0), (1.0, 2.0)]);
    let mut chart = chart(vec![line(name, Colour::Blue, &series), line("b", Colour::Red, &series)]);
    chart.title = name;
    chart.marks = vec![Mark { x: 0.5, name: name.to_owned() }];
    let bars = StackedBars {
        title: name,
        axis: name,
        scale: Scale::Number,
        parts: vec![Part { name, colour: Colour::Blue }],
        bars: vec![Bar { name, values: vec![1.0], label: name.to_owned() }],
    };
    for svg in [chart.svg(), bars.svg()] {
        assert!(!svg.contains("<script"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count(), "{svg}");
    }
}

#[test]
fn every_colour_has_its_styles_and_a_light_and_a_dark_value() {
    for number in 1..=COLOURS {
        for kind in ["s", "f", "o"] {
            assert!(STYLE.contains(&format!(".{kind}{number} ")), "{kind}{number}");
        }
        assert_eq!(STYLE.matches(&format!("--p{number}: #")).count(), 2, "light and dark of {number}");
    }
}

fn figure(points: Vec<(f64, f64)>, scale: Scale) -> Figure {
    Figure {
        title: "a < b & c".to_owned(),
        x_name: "x".to_owned(),
        x_scale: scale,
        y_name: "y".to_owned(),
        y_scale: scale,
        curves: beside("one", Colour::Blue, points.clone(), points).into(),
        marks: vec![],
    }
}

#[test]
fn powers_of_ten_stand_at_equal_distances() {
    let ((from, to), found) = rounded(Scale::Powers, 0.02, 7_000.0, 6);
    let texts: Vec<&str> = found.at.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["0.01", "0.1", "1", "10", "100", "1 000", "10 k"]);
    let places: Vec<f64> =
        found.at.iter().map(|(value, _)| Scale::Powers.along(*value, (from, to))).collect();
    for (index, place) in places.iter().enumerate() {
        assert!((place - index as f64 / 6.0).abs() < 1e-9, "{places:?}");
    }
    let ((from, to), _) = rounded(Scale::Powers, 10.0, 10.0, 6);
    assert!((from - 10.0).abs() < 1e-9 && (to - 100.0).abs() < 1e-9, "never nothing: {from}..{to}");
}

#[test]
fn every_point_of_a_figure_lies_within_it_and_its_text_is_escaped() {
    for scale in [Scale::Number, Scale::Powers] {
        let svg = figure(vec![(1.0, 0.02), (50.0, 7_000.0), (1e6, 3.0)], scale).document();
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let rings: Vec<(f64, f64)> = svg
            .split("<circle class=\"ring s1\" cx=\"")
            .skip(1)
            .map(|part| {
                let numbers: Vec<f64> =
                    part.split('"').filter_map(|text| text.parse().ok()).take(2).collect();
                (numbers[0], numbers[1])
            })
            .collect();
        assert_eq!(rings.len(), 4, "three points, and the sign beside the name: {svg}");
        assert!(
            rings.iter().all(|(x, y)| (0.0..728.0).contains(x) && (50.0..420.0).contains(y)),
            "{rings:?}"
        );
    }
}

#[test]
fn a_number_without_a_place_on_its_axis_is_left_out_and_no_number_at_all_is_said() {
    let svg = figure(vec![(0.0, 5.0), (10.0, -1.0), (10.0, 5.0), (100.0, 50.0)], Scale::Powers).document();
    assert_eq!(svg.matches("class=\"ring").count(), 2 + 1, "{svg}");
    assert!(svg.contains("data-points=\"4\""), "two of each curve: {svg}");
    for points in [vec![], vec![(f64::NAN, 1.0)], vec![(0.0, 0.0)]] {
        assert!(figure(points, Scale::Powers).document().contains("no data"));
    }
}
