//! The pages of `docs/`: their commands, their files, their links.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{data_sets, finish_within, target_dir, text, trainer};

/// Longer than all commands of a page take on a busy machine.
const PAGE: Duration = Duration::from_mins(10);

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of a page, by its path in the checkout.
pub fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A fenced block: what stands behind the opening fence, and its lines.
pub struct Block {
    pub info: String,
    pub text: String,
}

/// The fenced blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push(Block { info: info.to_owned(), text: inside.join("\n") + "\n" });
        }
    }
    found
}

/// A reader of the book: types its commands in a folder of their own, with the programs of this checkout.
pub struct Reader<'a> {
    pub folder: &'a Path,
    /// What the page writes, and what is meant here: an address, say.
    pub instead: Vec<(&'a str, String)>,
}

impl Reader<'_> {
    /// Writes the page's files, then types its commands in one shell that stops at the first that fails. Answers what they
    /// printed, those in the background too.
    pub fn follow(&self, path: &str) -> String {
        let mut commands = String::new();
        for block in blocks(&page(path)) {
            let text = self.instead.iter().fold(block.text, |text, (from, to)| text.replace(from, to));
            if let Some((_, file)) = block.info.split_once(",file=") {
                fs::write(self.folder.join(file), text).unwrap();
            } else if block.info == "sh" {
                commands += &text;
            }
        }
        assert!(!commands.is_empty(), "{path} has no commands any more");
        let output = finish_within(PAGE, self.shell(&commands).spawn().unwrap());
        assert!(output.status.success(), "{path}:\n{}", text(&output));
        text(&output)
    }

    fn shell(&self, commands: &str) -> Command {
        let path = format!("{}:{}", target_dir().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-e", "-x", "-c", commands]).current_dir(self.folder).env("PATH", path);
        shell.env("SCADLES_TRAINER", trainer()).env("SCADLES_DATA", data_sets());
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }
}
