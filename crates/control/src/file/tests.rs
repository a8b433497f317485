use super::*;

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: cifar10-s1}
spec:
  model: {name: Cnn, numClasses: 10, inputShape: [3, 32, 32]}
  training: {seed: 7, optimizer: {learningRate: 0.1}}
  stream:
    batch: {rule: StreamRate, min: 8, max: 1024, windowSeconds: 1}
    bufferBytes: 64Mi
  devices: {named: [{name: a}, {name: b}]}
  producer: {dataset: {name: Cifar10}, rates: {list: [50, 38.5]}}
  evaluation: {}
  completion: {maxSamples: 6e4}
";

fn mistakes(text: &str) -> Vec<(String, String, String, String)> {
    let found = parse_job(text).expect_err("the text has mistakes");
    found
        .iter()
        .map(|it| (it.path.clone(), it.value.clone(), it.problem.clone(), it.remedy.clone()))
        .collect()
}

/// The only mistake after one change of the good job.
fn mistake(from: &str, to: &str) -> (String, String, String, String) {
    assert!(JOB.contains(from), "{from}");
    let found = mistakes(&JOB.replacen(from, to, 1));
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].clone()
}

#[test]
fn a_job_file_without_mistakes_is_read_with_all_its_fields() {
    let job = parse_job(JOB).unwrap();
    assert_eq!(job.metadata.name, "cifar10-s1");
    assert_eq!(job.spec.completion.max_samples, Some(60_000));
    assert_eq!(job.spec.stream.unwrap().buffer_bytes.unwrap().0, 64 << 20);
    assert_eq!(job.spec.producer.unwrap().rates.list, Some(vec![50.0, 38.5]));
    assert!(job.spec.evaluation.is_some());
}

#[test]
fn a_job_is_found_among_other_objects_of_its_file() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, labels: {a: b, a: c}}\n";
    let among = format!("---\n{namespace}---\n# nothing here\n---\n{JOB}---\n");
    assert_eq!(parse_job(&among).unwrap(), parse_job(JOB).unwrap());
    for (text, count) in
        [(format!("{namespace}---\n{namespace}"), "0 of the 2"), (format!("{JOB}---\n{JOB}"), "2 of the 2")]
    {
        let problem = format!("{count} documents are of kind ScadlesJob");
        let remedy = "keep one ScadlesJob in the file".to_owned();
        assert_eq!(mistakes(&text), [(String::new(), String::new(), problem, remedy)]);
    }
}

#[test]
fn a_job_that_was_read_and_written_is_read_again_the_same() {
    let job = parse_job(JOB).unwrap();
    assert_eq!(parse_job(&yaml::to_string(&job).unwrap()).unwrap(), job);
}

#[test]
fn the_schema_of_the_types_compiles_and_is_strict_everywhere() {
    fn walk(node: &serde_json::Value, strict: &mut usize) {
        if let Some(members) = node.as_object() {
            assert!(!members.contains_key("$ref"), "{node}");
            if members.contains_key("properties") {
                assert_eq!(members["additionalProperties"], false, "{node}");
                *strict += 1;
            }
            members.values().for_each(|child| walk(child, strict));
        }
    }
    let mut strict = 0;
    walk(&schema::STRICT.as_ref().unwrap().schema, &mut strict);
    assert!(strict > 20, "{strict} objects");
}

#[test]
fn an_unknown_field_is_told_with_the_nearest_known_name() {
    let (path, _, problem, remedy) = mistake("seed: 7", "sead: 7");
    assert_eq!(path, "spec.training.sead");
    assert_eq!(problem, "is not a field of the job");
    assert!(remedy.starts_with("did you mean seed? Known here: microBatch, optimizer"), "{remedy}");
}

#[test]
fn a_known_field_in_the_wrong_place_is_told_where_it_belongs() {
    let (path, _, _, remedy) = mistake("  evaluation: {}", "  momentum: 0.9");
    assert_eq!(path, "spec.momentum");
    assert!(remedy.starts_with("move it to spec.training.optimizer.momentum"), "{remedy}");
}

#[test]
fn an_unknown_choice_is_told_with_all_choices_and_the_nearest() {
    let told = mistake("name: Cnn", "name: CNN");
    let allowed =
        "allowed is Cnn, Mlp, ResNet18, ResNet34, ResNet50, ResNet152, Vgg11, Vgg16, Vgg19, TorchScript";
    let expected = ("spec.model.name", "CNN", allowed, "did you mean Cnn?");
    assert_eq!((told.0.as_str(), told.1.as_str(), told.2.as_str(), told.3.as_str()), expected);
    let (path, value, problem, _) = mistake("rule: StreamRate", "rule: 7");
    assert_eq!((path.as_str(), value.as_str()), ("spec.stream.batch.rule", "7"));
    assert_eq!(problem, "allowed is Fixed, StreamRate, LineRate");
}

#[test]
fn values_of_the_wrong_kind_are_told_with_the_right_kind() {
    let cases = [
        ("min: 8", "min: many", "spec.stream.batch.min", "needs an integer from 0 to 4294967295"),
        ("min: 8", "min: 8.5", "spec.stream.batch.min", "needs an integer from 0 to 4294967295"),
        ("min: 8", "min: -8", "spec.stream.batch.min", "needs an integer from 0 to 4294967295"),
        ("64Mi", "64 Mb", "spec.stream.bufferBytes", "needs a number of bytes such as 64Mi"),
        ("[50, 38.5]", "50", "spec.producer.rates.list", "needs a list"),
        ("[50, 38.5]", "[50, x]", "spec.producer.rates.list[1]", "needs a number"),
        ("[3, 32, 32]", "[3, 32]", "spec.model.inputShape", "needs a list of 3 entries"),
        (
            "evaluation: {}",
            "evaluation: 7",
            "spec.evaluation",
            "needs a map with dataset, everySteps, samples, topK",
        ),
        ("cifar10-s1", "7", "metadata.name", "needs a text"),
        (
            "learningRate: 0.1",
            "learningRate: .nan",
            "spec.training.optimizer.learningRate",
            "is not a finite number",
        ),
    ];
    for (from, to, path, problem) in cases {
        let told = mistake(from, to);
        assert_eq!((told.0.as_str(), told.2.as_str()), (path, problem), "{to}");
    }
}

#[test]
fn a_missing_field_is_told_with_what_it_takes() {
    let (path, _, problem, remedy) = mistake("rule: StreamRate, ", "");
    assert_eq!((path.as_str(), problem.as_str()), ("spec.stream.batch.rule", "is missing"));
    assert_eq!(remedy, "give one of Fixed, StreamRate, LineRate");
    assert_eq!(mistake("{name: b}", "{topic: t}").0, "spec.devices.named[1].name");
}

#[test]
fn a_field_given_twice_is_a_mistake() {
    let (path, _, problem, _) = mistake("{seed: 7, ", "{seed: 7, seed: 8, ");
    assert_eq!(
        (path.as_str(), problem.as_str()),
        ("spec.training.seed", "the field is given more than once")
    );
}

#[test]
fn a_field_without_a_value_counts_as_left_out() {
    let job = parse_job(&JOB.replacen("seed: 7", "seed: ", 1)).unwrap();
    assert_eq!(job.spec.training.unwrap().seed, None);
}

#[test]
fn broken_yaml_is_told_with_line_and_column() {
    let (path, _, problem, _) = mistake("{name: Cnn", "{name: Cnn: x");
    assert_eq!(path, "");
    assert!(problem.contains("line 6 column"), "{problem}");
}

#[test]
fn an_empty_file_and_a_file_that_is_no_map_are_mistakes() {
    assert_eq!(mistakes("")[0].2, "is empty");
    assert!(mistakes("- 1")[0].2.starts_with("needs a map with apiVersion"));
    assert_eq!(mistakes("{}").len(), 4);
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_their_paths() {
    let text = JOB
        .replacen("seed: 7", "seed: x, sead: 1", 1)
        .replacen("Cnn", "Rnn", 1)
        .replacen("completion: {maxSamples: 6e4}", "gang: {mode: Move}", 1)
        .replacen("min: 8", "min: -1", 1);
    let paths: Vec<String> = mistakes(&text).into_iter().map(|it| it.0).collect();
    let expected = [
        "spec.completion",
        "spec.gang",
        "spec.model.name",
        "spec.stream.batch.min",
        "spec.training.sead",
        "spec.training.seed",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn mistakes_read_as_one_block_each() {
    let text = JOB.replacen("Cnn", "CNN", 1).replacen("seed: 7", "seed: x", 1);
    let expected = "the job has 2 mistakes

spec.model.name = CNN
  problem: allowed is Cnn, Mlp, ResNet18, ResNet34, ResNet50, ResNet152, Vgg11, Vgg16, Vgg19, TorchScript
  remedy:  did you mean Cnn?

spec.training.seed = x
  problem: needs an integer from 0 to 18446744073709551615
  remedy:  write an integer from 0 to 18446744073709551615
";
    assert_eq!(parse_job(&text).unwrap_err().to_string(), expected);
}

#[test]
fn hostile_texts_are_mistakes_and_never_a_panic() {
    let deep = "[".repeat(5000);
    let wide =
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n";
    for text in
        [deep.as_str(), wide, "\u{0}", "{[1]: 2}", "!x {}", "a: b: c", "--- 1\n--- 2\n", "? {a: 1}\n: 2"]
    {
        assert!(parse_job(text).is_err(), "{text}");
    }
}
