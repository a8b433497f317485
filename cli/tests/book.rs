//! The documentation as a whole: no page is forgotten, no link is dead, every command line is one that the program knows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use clap::Parser;
use scadles::args::Cli;
use support::book::{blocks, page, root};

/// All pages, by their path in the checkout.
fn pages() -> BTreeMap<String, String> {
    let mut folders = vec![PathBuf::from("docs")];
    let mut pages: BTreeSet<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(PathBuf::from).into();
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

/// Targets of a page's links, `[text](target)`, those of code left out.
fn links(text: &str) -> Vec<String> {
    let mut inside = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            inside ^= line.starts_with("```");
            !inside && !line.starts_with("    ")
        })
        .collect();
    let prose = prose.join("\n");
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
    text.lines().filter(|line| line.starts_with('#')).map(slug).collect()
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
        let indented = text.lines().filter(|line| line.starts_with("    ")).map(str::to_owned);
        let fenced = blocks(&text).into_iter().filter(|block| matches!(&*block.info, "sh" | "text"));
        let fenced: Vec<String> =
            fenced.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        for line in indented.chain(fenced) {
            let line = line.trim().split("  #").next().unwrap_or_default().trim();
            // What a shell would take: redirections and the background are none of the program's business.
            let words = line.split_whitespace().take_while(|word| !matches!(*word, ">" | "&" | "|"));
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
