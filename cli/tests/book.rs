//! The documentation as a whole: no page is forgotten, no link is dead, and what a command line names is there: the program's
//! commands and options, targets, scripts, files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
    process::Command,
};

use clap::Parser;
use scadles::args::Cli;
use support::book::{blocks, page, root};

/// Pages that are no part of the book.
const OTHER_PAGES: [&str; 5] = [
    "README.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "charts/scadles/README.md",
    "crates/nccl-rs/README.md",
];

/// Paths that begin so are the reader's, or no paths.
const NOT_OF_THE_CHECKOUT: [&str; 3] = ["runs/", ".cache/", "paper/"];

/// All pages, by their path in the checkout.
fn pages() -> BTreeMap<String, String> {
    let mut folders = vec![PathBuf::from("docs")];
    let mut pages: BTreeSet<PathBuf> = OTHER_PAGES.map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().flatten() {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.insert(path);
            }
        }
    }
    let text = |path: &PathBuf| (path.to_str().unwrap().to_owned(), page(path.to_str().unwrap()));
    pages.iter().map(text).collect()
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let mut inside = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence && !line.starts_with("    ")
        })
        .collect();
    prose.join("\n")
}

/// Targets of a page's links, `[text](target)`, those of code left out.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.trim().to_owned()).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        let lower = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(text).lines().filter(|line| line.starts_with('#')).map(slug).collect()
}

/// The command lines in a page's blocks, without their comments.
fn command_lines(text: &str) -> Vec<String> {
    let indented = text.lines().filter(|line| line.starts_with("    ")).map(str::to_owned);
    let fenced = blocks(text).into_iter().filter(|block| matches!(&*block.info, "sh" | "text"));
    let fenced: Vec<String> =
        fenced.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let lines = indented.chain(fenced);
    lines.map(|line| line.trim().split("  #").next().unwrap_or_default().trim().to_owned()).collect()
}

/// What stands in a page's text as code.
fn code_spans(text: &str) -> Vec<String> {
    prose(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `folder/../file` without the detour.
fn tidy(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_str().unwrap()),
            _ => {}
        }
    }
    parts.join("/")
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut followed = 0;
    for (path, text) in &pages {
        for link in links(text).iter().filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => tidy(&Path::new(path).parent().unwrap().join(file)),
            };
            assert!(root().join(&target).exists(), "{path}: ({link}) leads nowhere");
            if let Some(text) = pages.get(&target).filter(|_| !anchor.is_empty()) {
                assert!(anchors(text).contains(anchor), "{path}: ({link}): {target} has no such heading");
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "only {followed} links were found");
}

#[test]
fn the_book_has_every_page() {
    let listed: BTreeSet<String> =
        links(&page("docs/SUMMARY.md")).iter().map(|link| format!("docs/{link}")).collect();
    let there: BTreeSet<String> = pages().into_keys().filter(|path| path.starts_with("docs/")).collect();
    let there: BTreeSet<String> = there.into_iter().filter(|path| path != "docs/SUMMARY.md").collect();
    assert_eq!(listed, there, "docs/SUMMARY.md lists the left, docs/ holds the right");
}

#[test]
fn every_command_line_is_one_that_the_program_knows() {
    let mut known = 0;
    for (path, text) in pages() {
        for line in command_lines(&text) {
            // What a shell would take: redirections and the background are none of the program's business.
            let words = line.split_whitespace().take_while(|word| !matches!(*word, ">" | ">>" | "&" | "|"));
            let words: Vec<&str> = words.collect();
            if words.first() == Some(&"scadles") {
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{path}: `{line}`: {}", parsed.unwrap_err());
                known += 1;
            }
        }
    }
    assert!(known > 30, "only {known} command lines were found");
}

/// What the checkout offers to who types commands in it.
struct Checkout {
    makefile: String,
    /// What cargo builds: package, kind, name.
    targets: Vec<[String; 3]>,
}

impl Checkout {
    fn here() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut metadata = Command::new(cargo);
        metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
        let output = metadata.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let of_package = |package: &serde_json::Value| -> Vec<[String; 3]> {
            let targets = package["targets"].as_array().unwrap().iter();
            targets.map(|it| [text(&package["name"]), text(&it["kind"][0]), text(&it["name"])]).collect()
        };
        let targets = metadata["packages"].as_array().unwrap().iter().flat_map(of_package).collect();
        Self { makefile: page("Makefile"), targets }
    }

    /// What is wrong with a command line; `None` for a line of another program.
    fn check(&self, line: &str) -> Option<Result<(), String>> {
        let words = line.split_whitespace().skip_while(|word| word.contains('=') && !word.contains('/'));
        let words: Vec<&str> = words.collect();
        let (program, arguments) = words.split_first()?;
        Some(match *program {
            "make" => self.make(arguments),
            "cargo" => self.cargo(arguments),
            "kubectl" | "helm" | "scadles" => files(arguments),
            script if script.starts_with("scripts/") => run_script(script, arguments),
            _ => return None,
        })
    }

    fn make(&self, arguments: &[&str]) -> Result<(), String> {
        let goals: Vec<&&str> = arguments.iter().filter(|word| !word.contains('=')).collect();
        if let Some(goal) = goals.iter().find(|goal| !self.makefile.contains(&format!("\n{goal}:"))) {
            return Err(format!("the Makefile has no target `{goal}`"));
        }
        // Told, not done.
        let output = Command::new("make").arg("-n").args(arguments).current_dir(root()).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Result<(), String> {
        let mut pairs = arguments.windows(2);
        let package = pairs.find(|pair| matches!(pair[0], "-p" | "--package")).map(|pair| pair[1]);
        let package = package.filter(|name| !is_placeholder(name));
        let of_package = |target: &&[String; 3]| package.is_none_or(|package| target[0] == package);
        if !self.targets.iter().any(|target| of_package(&target)) {
            return Err(format!("there is no package {package:?}"));
        }
        for pair in arguments.windows(2) {
            let kind = match pair[0] {
                "--test" | "--example" | "--bin" => &pair[0][2..],
                _ => continue,
            };
            let mut targets = self.targets.iter().filter(of_package);
            if !is_placeholder(pair[1]) && !targets.any(|target| target[1] == kind && target[2] == pair[1]) {
                return Err(format!("there is no {kind} `{}`", pair[1]));
            }
        }
        Ok(())
    }
}

/// `NAME`: what the reader puts in.
fn is_placeholder(word: &str) -> bool {
    !word.contains(|c: char| c.is_lowercase())
}

/// Files that are handed to a program must be there, those aside that are the reader's.
fn files(arguments: &[&str]) -> Result<(), String> {
    let of_the_checkout = |word: &&&str| {
        let is_path = word.contains('/') && !word.contains('=') && !word.contains("://");
        is_path && !NOT_OF_THE_CHECKOUT.iter().any(|begin| word.starts_with(begin))
    };
    match arguments.iter().filter(of_the_checkout).find(|file| !root().join(file).exists()) {
        Some(file) => Err(format!("there is no `{file}`")),
        None => Ok(()),
    }
}

/// A script must be there, be a program, and take apart what it is given: as a case, or in a comparison.
fn run_script(script: &str, arguments: &[&str]) -> Result<(), String> {
    let mode = fs::metadata(root().join(script)).map_err(|error| error.to_string())?.permissions().mode();
    if mode & 0o111 == 0 {
        return Err("it is no program".to_owned());
    }
    let text = page(script);
    let cases: Vec<&str> = text.lines().filter_map(|line| Some(line.trim().split_once(')')?.0)).collect();
    let known = |word: &&&str| {
        let compared = text.contains(&format!("= {word} ]"));
        compared || cases.iter().any(|case| case.split('|').any(|one| one.trim() == **word))
    };
    match arguments.iter().filter(|word| !is_placeholder(word)).find(|word| !known(word)) {
        Some(unknown) => Err(format!("it does not know `{unknown}`")),
        None => Ok(()),
    }
}

#[test]
fn everything_that_a_command_line_names_is_in_the_checkout() {
    let checkout = Checkout::here();
    let mut checked = 0;
    for (path, text) in pages() {
        for line in command_lines(&text).into_iter().chain(code_spans(&text)) {
            if let Some(result) = checkout.check(&line) {
                assert_eq!(result, Ok(()), "{path}: `{line}`");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} command lines were found");
}

#[test]
fn the_targets_that_contributors_are_told_of_are_there() {
    let (checkout, text) = (Checkout::here(), page("CONTRIBUTING.md"));
    let table = text.lines().skip_while(|line| *line != "| target | does |").skip(2);
    let rows: Vec<&str> = table.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        assert_eq!(checkout.make(&[row.split('`').nth(1).unwrap()]), Ok(()), "{row}");
    }
}

#[test]
fn a_command_line_that_names_what_is_not_there_is_found() {
    let checkout = Checkout::here();
    for (line, problem) in [
        ("make benhc", "no target `benhc`"),
        ("cargo test -p scadles-cor", "no package"),
        ("cargo run --release --example select_bnech", "no example `select_bnech`"),
        ("cargo test -p scadles-core --test book", "no test `book`"),
        ("scripts/e2e.sh some", "does not know `some`"),
        ("scripts/images.sh --nmaes", "does not know `--nmaes`"),
        ("scripts/bench/ratio.py", "is no program"),
        ("scripts/run.sh", "No such file"),
        ("kubectl apply -f manifests/quickstart.yaml", "no `manifests/quickstart.yaml`"),
        ("helm install scadles chart/scadles", "no `chart/scadles`"),
        (
            "scadles run manifests/example/injection.yaml --out runs/one",
            "no `manifests/example/injection.yaml`",
        ),
    ] {
        let found = checkout.check(line).unwrap().unwrap_err();
        assert!(found.contains(problem), "`{line}`: {found}");
    }
}

/// Those lines are typed on a real cluster by the end-to-end tests, which take them from the README.
#[test]
fn the_cluster_page_tells_to_type_what_the_readme_does() {
    let readme = page("README.md");
    let mut lines = 0;
    for block in blocks(&page("docs/tutorial/your-cluster.md")) {
        for line in block.text.lines() {
            assert!(readme.contains(&format!("    {line}\n")), "README.md has no line `{line}`");
            lines += 1;
        }
    }
    assert!(lines >= 10, "{lines} lines");
}
