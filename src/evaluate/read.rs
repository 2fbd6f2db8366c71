//! Reads a decision log, also while a server writes it.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use serde::Deserialize;
use skysail_selection::{
    DecisionId, DecisionRecord, FeedbackValue,
    evaluate::{GivenFeedback, InputAnswers},
};

use crate::record::FeedbackLine;

/// Which decisions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// `None`: the log's only one.
    pub(super) application: Option<&'a str>,
    /// `None`: every context.
    pub(super) context: Option<&'a str>,
    pub(super) since_ms: u64,
    /// Not itself.
    pub(super) until_ms: u64,
}

/// One application's part of a log.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) application: String,
    pub(super) decisions: Vec<DecisionRecord>,
    pub(super) feedback: Vec<GivenFeedback>,
    pub(super) files: usize,
    /// Lines that are neither a decision nor feedback.
    pub(super) broken: usize,
}

/// Either kind of line, told apart by what it begins with.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Decision(Box<DecisionRecord>),
    Feedback(FeedbackLine),
}

/// Reads all segments of a folder, or of the `decisions` folder in it.
pub(super) fn read(folder: &Path, wanted: &Wanted<'_>) -> anyhow::Result<Read> {
    let mut reader = Reader {
        wanted,
        read: Read::default(),
        names: BTreeSet::new(),
        texts: Texts::default(),
        others: HashSet::new(),
    };
    let segments = segments(folder)?;
    reader.read.files = segments.len();
    for path in segments {
        reader.file(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    reader.finish()
}

/// In the order in which they were written.
fn segments(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let inner = folder.join("decisions");
    let folder = if inner.is_dir() { inner } else { folder.to_owned() };
    let listed = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in listed {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("decisions-").and_then(|n| n.strip_suffix(".jsonl"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            found.push((number, path));
        }
    }
    if found.is_empty() {
        bail!(
            "{} holds no decisions-*.jsonl; give --log the folder `decisions` of a server's data \
             folder",
            folder.display()
        );
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

struct Reader<'a> {
    wanted: &'a Wanted<'a>,
    read: Read,
    /// Of all applications in the log.
    names: BTreeSet<Arc<str>>,
    texts: Texts,
    /// Decisions that were read and are not wanted; feedback for them is no loss.
    others: HashSet<DecisionId>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line without an end is being written.
            if file.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
                return Ok(());
            }
            match serde_json::from_slice(&line) {
                Ok(Line::Decision(record)) => self.decision(*record),
                Ok(Line::Feedback(line)) => self.feedback(line),
                Err(_) => self.read.broken += 1,
            }
        }
    }

    fn decision(&mut self, mut record: DecisionRecord) {
        self.texts.share(&mut record);
        if !self.names.contains(&record.application) {
            self.names.insert(Arc::clone(&record.application));
        }
        let ours = self.wanted.application.is_none_or(|name| *name == *record.application);
        let context = self.wanted.context.is_none_or(|context| *context == *record.context);
        let times = self.wanted.since_ms..self.wanted.until_ms;
        if ours && context && times.contains(&record.time_ms) {
            self.read.decisions.push(record);
        } else {
            self.others.insert(record.id);
        }
    }

    fn feedback(&mut self, line: FeedbackLine) {
        let value = match line.reward {
            Some(reward) => FeedbackValue::Reward(reward),
            None => FeedbackValue::Labels(line.labels),
        };
        let wanted = self.wanted;
        let input = line.input.map(|input| {
            let ours = wanted.application.is_none_or(|name| *name == *input.application);
            let context = wanted.context.is_none_or(|context| *context == *input.context);
            let times = wanted.since_ms..wanted.until_ms;
            let is_wanted = ours && context && times.contains(&line.time_ms);
            (is_wanted, InputAnswers { context: input.context, arms: input.arms })
        });
        if input.as_ref().is_some_and(|(is_wanted, _)| !is_wanted) {
            return;
        }
        self.read.feedback.push(GivenFeedback {
            decision: line.feedback,
            row: line.row,
            value,
            time_ms: line.time_ms,
            input: input.map(|(_, input)| input),
        });
    }

    fn finish(mut self) -> anyhow::Result<Read> {
        let names: Vec<&str> = self.names.iter().map(|name| &**name).collect();
        let listed = names.join(", ");
        self.read.application = match (self.wanted.application, &names[..]) {
            (None, []) => bail!("the log holds no decision yet"),
            (None, [only]) => (*only).to_owned(),
            (None, _) => {
                bail!("the log has several applications, say which with --application: {listed}")
            }
            (Some(name), names) if names.contains(&name) => name.to_owned(),
            (Some(name), _) => bail!("the log has no application '{name}'; it has: {listed}"),
        };
        if self.read.decisions.is_empty() {
            bail!(
                "no decision of application '{}' is of that context and time; leave --context, \
                 --since and --until away to see all",
                self.read.application
            );
        }
        self.read.feedback.retain(|given| !self.others.contains(&given.decision));
        Ok(self.read)
    }
}

/// Texts that every record repeats, kept once.
#[derive(Default)]
struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn share(&mut self, record: &mut DecisionRecord) {
        for text in [&mut record.application, &mut record.context, &mut record.policy] {
            self.one(text);
        }
        for arm in &mut record.arms {
            self.one(&mut arm.arm);
            self.one(&mut arm.version);
        }
    }

    fn one(&mut self, text: &mut Arc<str>) {
        match self.0.get(text) {
            Some(kept) => *text = Arc::clone(kept),
            None => {
                self.0.insert(Arc::clone(text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECISION: &str = r#"{"id":"ID","time_ms":TIME,"application":"APP","policy":"static","state_version":0,"arms":[{"arm":"a","version":"1","q":1.0,"weight":1.0,"outcome":"used","labels":[1]}],"answer":[{"label":1,"p":1.0}]}"#;

    fn line(application: &str, time: u64) -> String {
        let id = DecisionId::new(time, [0; 3], 0, [0; 16]).to_string();
        DECISION.replace("ID", &id).replace("TIME", &time.to_string()).replace("APP", application)
    }

    fn feedback(time: u64) -> String {
        let id = DecisionId::new(time, [0; 3], 0, [0; 16]);
        format!(r#"{{"feedback":"{id}","labels":[1],"outcome":"applied","time_ms":{time}}}"#)
    }

    const ALL: Wanted<'static> =
        Wanted { application: None, context: None, since_ms: 0, until_ms: u64::MAX };

    #[test]
    fn a_log_that_is_being_written_is_read_to_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let decisions = folder.path().join("decisions");
        std::fs::create_dir(&decisions).unwrap();
        let (first, second) = (line("app", 5), line("app", 6));
        let texts =
            [format!("{first}\nno line\n{}\n", feedback(5)), format!("{second}\n{{\"id\":")];
        // Ten comes after nine.
        for (number, text) in [9, 10].iter().zip(texts) {
            std::fs::write(decisions.join(format!("decisions-{number}.jsonl")), text).unwrap();
        }
        std::fs::write(decisions.join("decisions-9.idx"), "an index").unwrap();
        let found = read(folder.path(), &ALL).unwrap();
        assert_eq!((found.files, found.broken), (2, 1));
        let times: Vec<_> = found.decisions.iter().map(|record| record.time_ms).collect();
        assert_eq!((times, found.feedback.len()), (vec![5, 6], 1));
        // What is not wanted takes its feedback with it.
        let found = read(&decisions, &Wanted { since_ms: 6, ..ALL }).unwrap();
        assert_eq!((found.decisions.len(), found.feedback.len()), (1, 0));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let says = |wanted: &Wanted<'_>| format!("{:#}", read(folder.path(), wanted).unwrap_err());
        assert!(says(&ALL).contains("holds no decisions-*.jsonl"));
        let text = format!("{}\n{}\n", line("one", 1), line("two", 2));
        std::fs::write(folder.path().join("decisions-1.jsonl"), text).unwrap();
        assert!(says(&ALL).contains("--application: one, two"), "{}", says(&ALL));
        let three = Wanted { application: Some("three"), ..ALL };
        assert!(says(&three).contains("it has: one, two"));
        let late = Wanted { application: Some("one"), since_ms: 2, ..ALL };
        assert!(says(&late).contains("that context and time"));
    }
}
